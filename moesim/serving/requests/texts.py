"""The texts of prompts as hashes of KV blocks: equal as far as the texts are equal."""

from __future__ import annotations

from collections.abc import Iterator

from moesim.spec.serving import PrefixSpec

#: The group of each prefix that a text begins with: 1, 2, ...; 0 where it does without.
Groups = tuple[int, ...]


class Texts:
    """The block hashes of every combination of prefixes, and of texts that go on from there. Hashes are numbers, given
    in order of appearance to each sequence of texts and the blocks that end in the last of them: no two contents share
    one."""

    def __init__(self, prefixes: tuple[PrefixSpec, ...], block_size: int) -> None:
        self._prefixes, self._block_size, self._next = prefixes, block_size, 0
        self._numbers: dict[tuple[tuple[int, int], ...], range] = {}
        self._chains: dict[Groups, tuple[int, ...]] = {}

    def of(self, groups: Groups) -> tuple[int, ...]:
        """Hashes of the full blocks of a request with these groups; equal as far as the texts are equal."""
        chain = self._chains.get(groups)
        if chain is None:
            chain = self._chains[groups] = tuple(self._build(groups))
        return chain

    def new(self, groups: Groups, tokens: int) -> tuple[int, ...]:
        """Hashes of the full blocks of a text of `tokens` tokens that begins with these groups, and is like no other
        after them."""
        chain = self.of(groups)
        own = range(self._next, self._next + tokens // self._block_size - len(chain))
        self._next = own.stop
        return (*chain, *own)

    def _build(self, groups: Groups) -> Iterator[int]:
        texts: tuple[tuple[int, int], ...] = ()
        tokens = blocks = 0
        for level, group in enumerate(groups):
            if group:
                texts += ((level, group),)
                tokens += self._prefixes[level].tokens
                count = tokens // self._block_size - blocks
                blocks += count
                if texts not in self._numbers:
                    self._numbers[texts] = range(self._next, self._next + count)
                    self._next += count
                yield from self._numbers[texts]
