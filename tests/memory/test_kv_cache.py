"""The paged KV cache against hand-counted cases of vLLM's rules, and against a model that tracks every single block."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from moesim.memory.kv_cache import PagedKVCache

BLOCK = 16


def test_requests_without_hashes_count_blocks() -> None:
    cache = PagedKVCache(10, BLOCK, prefix_caching=False)
    assert cache.admit(1, (), BLOCK, 33) == 0  # 3 blocks
    assert (cache.used, cache.free) == (3, 7)
    assert cache.grow(1, 48)
    assert cache.used == 3
    assert cache.grow(1, 49)
    assert cache.used == 4
    assert cache.admit(2, (), BLOCK, 7 * BLOCK) is None
    assert cache.admit(2, (), BLOCK, 6 * BLOCK) == 0
    assert not cache.grow(1, 65)
    assert cache.held(1) == 4
    cache.release(2)
    assert cache.grow(1, 65)
    cache.release(1)
    assert cache.free == cache.capacity == 10


def test_hit_leaves_the_last_token_to_compute() -> None:
    cache = PagedKVCache(100, BLOCK)
    prompt = (11, 12, 13)  # 48 tokens, all of them in full blocks
    assert cache.admit(1, prompt, BLOCK, 48) == 0
    assert cache.lookup(prompt, BLOCK) == 48
    assert cache.lookup(prompt, BLOCK, tokens=48) == 32
    assert cache.lookup(prompt, BLOCK, tokens=49) == 48
    assert cache.admit(2, prompt, BLOCK, 48) == 32
    assert cache.used == 4  # two shared, and the last block twice
    cache.check()


def test_twin_admitted_in_the_same_step_hits() -> None:
    cache = PagedKVCache(100, BLOCK)
    assert cache.admit(1, (1, 2), BLOCK, 40) == 0
    assert cache.admit(2, (1, 2), BLOCK, 40) == 32
    assert cache.used == 4  # 2 shared, 1 partial block each
    assert (cache.lookups, cache.lookup_tokens, cache.hit_tokens) == (2, 80, 32)


def test_chunked_prefill_offers_only_what_is_allocated() -> None:
    cache = PagedKVCache(100, BLOCK)
    prompt = (1, 2, 3, 4)
    cache.admit(1, prompt, BLOCK, 24)
    assert cache.lookup(prompt, BLOCK) == 16
    cache.grow(1, 64)
    assert cache.lookup(prompt, BLOCK) == 64
    assert cache.used == 4


def test_eviction_takes_the_oldest_release_and_its_tail_first() -> None:
    cache = PagedKVCache(6, BLOCK)
    cache.admit(1, (1, 2, 3), BLOCK, 48)
    cache.admit(2, (7, 8, 9), BLOCK, 48)
    cache.release(1)
    cache.release(2)
    assert cache.free == 6
    cache.admit(3, (), BLOCK, 2 * BLOCK)
    assert cache.evictions == 2
    assert cache.lookup((1, 2, 3), BLOCK) == 16
    assert cache.lookup((7, 8, 9), BLOCK) == 48
    cache.admit(4, (), BLOCK, 2 * BLOCK)
    assert cache.lookup((1, 2, 3), BLOCK) == 0
    assert cache.lookup((7, 8, 9), BLOCK) == 32
    cache.check()


def test_hit_renews_a_block() -> None:
    cache = PagedKVCache(4, BLOCK)
    cache.admit(1, (1,), BLOCK, 17)
    cache.release(1)
    cache.admit(2, (2,), BLOCK, 17)
    cache.release(2)
    assert cache.admit(3, (1,), BLOCK, 17) == 16
    cache.release(3)
    cache.admit(4, (), BLOCK, 3 * BLOCK)
    assert cache.lookup((1,), BLOCK) == 16
    assert cache.lookup((2,), BLOCK) == 0


def test_cached_blocks_that_are_hit_do_not_count_as_free() -> None:
    cache = PagedKVCache(4, BLOCK)
    cache.admit(1, (1, 2), BLOCK, 32)
    cache.release(1)
    cache.admit(2, (), BLOCK, BLOCK)
    assert cache.free == 3
    assert cache.admit(3, (1, 2), BLOCK, 32 + BLOCK + 1) is None  # 2 hits and 2 new blocks, one too many
    assert cache.lookup((1, 2), BLOCK) == 32
    assert cache.admit(3, (1, 2), BLOCK, 32 + BLOCK) == 32
    assert cache.free == 0


def test_preempted_request_finds_its_own_tokens_again() -> None:
    cache = PagedKVCache(8, BLOCK)
    cache.admit(1, (1,), BLOCK, 30)
    cache.grow(1, 60)  # 3 full blocks, the fourth partial
    cache.release(1, preempted=True)
    assert cache.free == 8
    assert cache.lookup((1,), BLOCK, tokens=61, request=1) == 48
    assert cache.lookup((1,), BLOCK, tokens=61) == 16
    cache.admit(2, (), BLOCK, 6 * BLOCK)  # 4 unused, then the partial block and the last full one
    assert cache.admit(1, (1,), BLOCK, 61) is None
    cache.release(2)
    assert cache.admit(1, (1,), BLOCK, 61) == 32
    cache.release(1)
    assert cache.lookup((), BLOCK, tokens=61, request=1) == 0  # finished, not preempted
    cache.check()


def test_preempted_request_does_not_take_copies_for_its_tail() -> None:
    cache = PagedKVCache(20, BLOCK)
    cache.admit(1, (1, 2), BLOCK, 33)
    cache.admit(2, (1, 2), BLOCK, 32)  # hits the first block, fills a copy of the second
    cache.grow(2, 65)  # blocks 2 and 3 are its own, a fifth is partial
    cache.release(2, preempted=True)
    assert cache.lookup((1, 2), BLOCK, tokens=66, request=2) == 64
    cache.admit(3, (), BLOCK, (20 - 3 - 4 + 2) * BLOCK)  # all unused blocks, then the partial one and block 3
    assert cache.lookup((1, 2), BLOCK, tokens=66, request=2) == 48
    cache.check()


def test_preempted_request_that_lost_everything_starts_over() -> None:
    cache = PagedKVCache(3, BLOCK)
    cache.admit(1, (), BLOCK, 40)
    cache.release(1, preempted=True)
    cache.admit(2, (), BLOCK, 48)
    cache.release(2)
    assert cache.admit(1, (), BLOCK, 41) == 0
    cache.check()


def test_hash_of_many_blocks_is_evicted_block_by_block() -> None:
    cache = PagedKVCache(64, BLOCK)
    cache.admit(1, (5, 6), 512, 1024)
    cache.release(1)
    cache.admit(2, (), BLOCK, 3 * BLOCK)
    assert cache.lookup((5, 6), 512) == 1024 - 48
    assert cache.admit(3, (5, 6), 512, 1024) is None  # 61 found and 3 new ones, beside 3 in use, are 67 of 64
    cache.release(2)
    assert cache.admit(3, (5, 6), 512, 1024) == 1024 - 48
    assert cache.used == 64
    assert cache.lookup((5, 6), 512) == 1024


def test_hit_ends_at_the_first_gap() -> None:
    cache = PagedKVCache(64, BLOCK)
    cache.admit(1, (5, 6), 32, 16)  # half of the first hash
    cache.admit(2, (5, 6), 32, 16)  # a copy of that half, since a hit would leave nothing to compute
    cache.grow(2, 64)  # its first hash stays a copy, its second one is new
    assert cache.lookup((6,), 32) == 32
    assert cache.lookup((5, 6), 32) == 16


def test_without_prefix_caching_nothing_is_found() -> None:
    cache = PagedKVCache(10, BLOCK, prefix_caching=False)
    cache.admit(1, (1, 2), BLOCK, 40)
    assert cache.lookup((1, 2), BLOCK) == 0
    assert cache.admit(2, (1, 2), BLOCK, 40) == 0
    assert cache.used == 6


def test_misuse_is_refused() -> None:
    cache = PagedKVCache(10, BLOCK)
    cache.admit(1, (), BLOCK, 1)
    with pytest.raises(ValueError, match="holds blocks already"):
        cache.admit(1, (), BLOCK, 1)
    with pytest.raises(ValueError, match="multiple"):
        cache.admit(2, (1,), 24, 24)
    with pytest.raises(KeyError):
        cache.release(2)
    with pytest.raises(KeyError):
        cache.grow(2, 3)
    with pytest.raises(ValueError, match="holds nothing"):
        PagedKVCache(0, BLOCK)


class Naive:
    """Every block has a number and a content: ("shared", hash, position), ("own", request, position) or None."""

    def __init__(self, blocks: int, size: int) -> None:
        self.size = size
        self.queue = list(range(blocks))
        self.content: dict[int, tuple[str, int, int] | None] = dict.fromkeys(range(blocks))
        self.tables: dict[int, list[int]] = {}
        self.pinned: dict[int, set[int]] = {}  # hashes that a request holds
        self.requests: dict[int, tuple[tuple[int, ...], int, int]] = {}  # hashes, blocks per hash, tokens

    def of_hash(self, key: int) -> list[int]:
        return sorted(
            (b for b, c in self.content.items() if c is not None and c[:2] == ("shared", key)),
            key=lambda b: self.content[b][2],  # type: ignore[index]
        )

    def find(self, request: int, hashes: tuple[int, ...], per: int, tokens: int) -> tuple[list[int], list[int]]:
        where = {c: b for b, c in self.content.items() if c is not None}
        wanted = [("shared", key, i) for key in hashes for i in range(per)]
        shared = self._leading(where, wanted, (tokens - 1) // self.size)
        own: list[int] = []
        if len(shared) == len(wanted):
            own_wanted = [("own", request, i) for i in range(len(wanted), (tokens - 1) // self.size)]
            own = self._leading(where, own_wanted, len(own_wanted))
        return shared, own

    @staticmethod
    def _leading(where: dict[tuple[str, int, int], int], wanted: list[tuple[str, int, int]], limit: int) -> list[int]:
        found: list[int] = []
        for content in wanted[:limit]:
            if content not in where:
                break
            found.append(where[content])
        return found

    def admit(self, request: int, hashes: tuple[int, ...], per: int, tokens: int) -> int | None:
        shared, own = self.find(request, hashes, per, tokens)
        keys = {self.content[b][1] for b in shared}  # type: ignore[index]
        together = {b for key in keys for b in self.of_hash(key)}  # blocks of one hash are held together
        count = -(-tokens // self.size)
        rest = [b for b in self.queue if b not in together and b not in own]
        if count - len(shared) - len(own) > len(rest):
            return None
        self.queue = rest
        for block, content in self.content.items():
            if content is not None and content[:2] == ("own", request):
                self.content[block] = None
        self.tables[request] = shared + own
        self.pinned[request] = keys
        self.requests[request] = (hashes, per, tokens)
        self._extend(request, count)
        self._fill(request, len(shared))
        return (len(shared) + len(own)) * self.size

    def grow(self, request: int, tokens: int) -> bool:
        hashes, per, before = self.requests[request]
        count = -(-tokens // self.size)
        if count - len(self.tables[request]) > len(self.queue):
            return False
        self.requests[request] = (hashes, per, tokens)
        self._extend(request, count)
        self._fill(request, before // self.size)
        return True

    def _extend(self, request: int, count: int) -> None:
        while len(self.tables[request]) < count:
            block = self.queue.pop(0)
            self.content[block] = None
            self.tables[request].append(block)

    def _fill(self, request: int, start: int) -> None:
        """Blocks become full in order; one of shareable content is offered unless somebody else's is in use."""
        hashes, per, tokens = self.requests[request]
        for position in range(start, min(tokens // self.size, len(hashes) * per)):
            key, offset = hashes[position // per], position % per
            present = self.of_hash(key)
            held_by_others = any(key in self.pinned[r] for r in self.pinned if r != request)
            mine = key in self.pinned[request]
            if not mine and offset == 0 and not held_by_others:
                for block in present:
                    self.content[block] = None
                present, mine = [], True
                self.pinned[request].add(key)
            if mine and len(present) <= offset:
                self.content[self.tables[request][position]] = ("shared", key, offset)

    def release(self, request: int, preempted: bool) -> None:
        hashes, per, tokens = self.requests.pop(request)
        table, pinned = self.tables.pop(request), self.pinned.pop(request)
        hashed = len(hashes) * per
        own = [b for b in table if self.content[b] is None]
        if preempted:
            for position in range(hashed, tokens // self.size):
                self.content[table[position]] = ("own", request, position)
        self.queue += reversed(own)
        free = [key for key in hashes if key in pinned and not any(key in other for other in self.pinned.values())]
        for key in reversed(free):
            self.queue += reversed(self.of_hash(key))


SIZE = 4


def chain(family: int, depth: int) -> tuple[int, ...]:
    """Prompts of a prefix tree: all begin alike, pairs of families share two hashes, then each goes its own way."""
    return (1, 10 + family % 2, 100 + family, 200 + family)[:depth]


class AgainstNaive(RuleBasedStateMachine):
    @initialize(blocks=st.integers(1, 40), per=st.sampled_from([1, 1, 3]))
    def start(self, blocks: int, per: int) -> None:
        self.cache, self.naive, self.per = PagedKVCache(blocks, SIZE), Naive(blocks, SIZE), per
        self.prompts: dict[int, tuple[int, ...]] = {}
        self.running: dict[int, int] = {}
        self.waiting: dict[int, int] = {}

    def _admit(self, request: int, tokens: int) -> None:
        hashes = self.prompts[request]
        shared, own = self.naive.find(request, hashes, self.per, tokens)
        expected = (len(shared) + len(own)) * SIZE
        assert self.cache.lookup(hashes, self.per * SIZE, tokens, request) == expected
        hit = self.cache.admit(request, hashes, self.per * SIZE, tokens)
        assert hit == self.naive.admit(request, hashes, self.per, tokens)
        if hit is not None:
            self.running[request] = tokens
            self.waiting.pop(request, None)

    @rule(family=st.integers(0, 3), depth=st.integers(0, 4), tokens=st.integers(1, 70))
    def arrive(self, family: int, depth: int, tokens: int) -> None:
        request = len(self.prompts)
        self.prompts[request] = chain(family, depth)
        self._admit(request, tokens)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), more=st.integers(0, 20))
    def grow(self, data: st.DataObject, more: int) -> None:
        request = data.draw(st.sampled_from(sorted(self.running)))
        tokens = self.running[request] + more
        grown = self.cache.grow(request, tokens)
        assert grown == self.naive.grow(request, tokens)
        if grown:
            self.running[request] = tokens

    @precondition(lambda self: self.running)
    @rule(data=st.data(), preempted=st.booleans())
    def release(self, data: st.DataObject, preempted: bool) -> None:
        request = data.draw(st.sampled_from(sorted(self.running)))
        tokens = self.running.pop(request)
        if preempted:
            self.waiting[request] = tokens
        self.cache.release(request, preempted=preempted)
        self.naive.release(request, preempted)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), more=st.integers(-20, 5))
    def resume(self, data: st.DataObject, more: int) -> None:
        request = data.draw(st.sampled_from(sorted(self.waiting)))
        self._admit(request, max(self.waiting[request] + more, 1))

    @invariant()
    def same_books(self) -> None:
        self.cache.check()
        assert self.cache.free == len(self.naive.queue)
        for request in self.running:
            assert self.cache.held(request) == len(self.naive.tables[request])


AgainstNaive.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
TestAgainstNaive = AgainstNaive.TestCase


def test_sequences_grow_together_as_each_in_turn() -> None:
    together, apart = (PagedKVCache(10, 4) for _ in range(2))
    for cache in (together, apart):
        for request, tokens in ((1, 4), (2, 7), (3, 1)):
            assert cache.admit(request, (), 4, tokens) == 0
    assert together.grow_all([1, 2, 3], [5, 8, 9])
    assert all(apart.grow(request, tokens) for request, tokens in ((1, 5), (2, 8), (3, 9)))
    for cache in (together, apart):
        assert [cache.held(request) for request in (1, 2, 3)] == [2, 2, 3]
        assert cache.free == 3
    # Three blocks are free: the first of these has one of them, the second would need three.
    assert not together.grow_all([1, 2], [12, 20])
    assert [together.held(request) for request in (1, 2, 3)] == [3, 2, 3]
    together.check()


def test_private_blocks_go_before_content_that_was_released_later() -> None:
    """Blocks without content that are given back before anything is cached are the first to be handed out again."""
    cache = PagedKVCache(6, 4)
    assert cache.admit(1, (), 4, 12) == 0  # three private blocks
    cache.release(1)
    assert cache.admit(2, (7, 8), 4, 9) == 0  # two blocks of content and a private one
    cache.release(2)
    assert cache.admit(3, (), 4, 12) == 0
    assert cache.lookup((7, 8), 4) == 8
    assert cache.evictions == 0
    cache.check()
