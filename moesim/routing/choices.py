"""Exact draws of k distinct experts per token, vectorised."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.routing.base import IntArray
from moesim.routing.popularity import TABLE_ENTRIES

Ranks = NDArray[np.unsignedinteger[Any]]

#: After so many rounds of redrawing repeated experts, what is left is resolved token by token from the exact rest.
_ROUNDS = 6


class Chooser:
    """Successive sampling without replacement from fixed weights: draw, and draw again what the token already has.

    Args:
        entries: shape [experts], how many of the table's 65,536 entries each expert gets.
        top_k: experts per token.
    """

    def __init__(self, entries: IntArray, top_k: int) -> None:
        self.top_k = top_k
        self._entries = entries
        dtype = np.uint8 if len(entries) <= 256 else np.uint16
        self._table: Ranks = np.repeat(np.arange(len(entries)), entries).astype(dtype)

    def draw(self, tokens: int, rng: np.random.Generator) -> Ranks:
        """Expert indices, shape [top_k, tokens], in the order drawn; every column holds distinct experts.

        All repeats are redrawn at once. That equals drawing one after the other: a value is turned down only when an
        earlier place holds it, and an earlier place gives a value up only to another one that holds it still earlier.
        """
        picks = self._lookup((self.top_k, tokens), rng)
        repeats = _repeats(picks)
        active = np.flatnonzero(repeats.any(axis=0))
        repeats = repeats[:, active]
        for _ in range(_ROUNDS):
            if not active.size:
                return picks
            block = picks[:, active]
            block[repeats] = self._lookup(int(np.count_nonzero(repeats)), rng)
            picks[:, active] = block
            repeats = _repeats(block)
            unsettled = repeats.any(axis=0)
            active, repeats = active[unsettled], repeats[:, unsettled]
        if active.size:
            picks[:, active] = self._settle(picks[:, active], rng)
        return picks

    def _lookup(self, shape: int | tuple[int, int], rng: np.random.Generator) -> Ranks:
        return self._table.take(rng.integers(0, TABLE_ENTRIES, shape, dtype=np.uint16))

    def _settle(self, picks: Ranks, rng: np.random.Generator) -> Ranks:
        """Replace what still repeats, place by place, by draws from the experts that the token does not have yet."""
        tokens = np.arange(picks.shape[1])
        left = np.tile(self._entries, (len(tokens), 1))  # [tokens, experts]
        for place in range(self.top_k):
            taken = left[tokens, picks[place]] == 0
            if taken.any():
                cumulative = left[taken].cumsum(axis=1)
                aim = rng.integers(0, cumulative[:, -1])
                picks[place, taken] = (cumulative <= aim[:, None]).sum(axis=1)
            left[tokens, picks[place]] = 0
        return picks


def _repeats(picks: Ranks) -> NDArray[np.bool_]:
    """Which entries of [top_k, tokens] equal an earlier one of the same column."""
    repeats = np.zeros(picks.shape, dtype=np.bool_)
    for place in range(1, len(picks)):
        np.any(picks[:place] == picks[place], axis=0, out=repeats[place])
    return repeats
