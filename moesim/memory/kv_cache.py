"""Paged KV cache with prefix sharing: the block pool of one data-parallel rank.

Semantics of vLLM's V1 engine (vllm/v1/core: kv_cache_manager, block_pool):

- Tokens live in blocks; only full blocks are shared. A block is known to others from the moment it is allocated for
  tokens that fill it, not when they have been computed: the twin of a request admitted in the same step hits.
- A hit never covers a whole prompt, because the last token's logits are needed: at least one token is computed.
- A block that a request fills while another request holds the same content stays a private copy.
- Freed blocks queue up, the last block of a request first, and are handed out from the head of that queue; blocks that
  were never used come before all of them. Content stays valid, and can be hit, until its block is handed out again.
- A preempted request finds its own blocks again, those filled during decoding included, if they are still there.

vLLM sets one block aside as a null block; here every block of the pool can be used. A hash may stand for several blocks
(`block_tokens` a multiple of the block size). Then eviction still takes single blocks, the last of a hash first, but
the blocks of one hash are held or released together.

Blocks are counted, never represented one by one: a request without hashes costs a few integer operations per call.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence


class _Span:
    """Consecutive blocks that are held and released together, and evicted from their end.

    key: hash of the content, None for private content. references: requests that hold it; 0 where it can be evicted.
    owner: the preempted request that may want it back; its first `skip` blocks duplicate shared ones, the next `full`
    ones are filled.
    """

    __slots__ = ("blocks", "full", "key", "owner", "references", "skip")

    def __init__(self, key: int | None, blocks: int, references: int) -> None:
        self.key, self.blocks, self.references = key, blocks, references
        self.owner: int | None = None
        self.skip = self.full = 0


class _Holding:
    """What one request holds: `blocks` in all, `private` of them its own, the others through `spans`.

    The first `hashed` blocks of the request can be shared, `published` of them have been offered so far; `filling` is
    the span that covers block number `published`, None where the request does not hold it.
    """

    __slots__ = ("blocks", "filling", "hashed", "hashes", "per_hash", "private", "published", "spans", "tokens")

    def __init__(self, hashes: Sequence[int], per_hash: int, tokens: int, blocks: int) -> None:
        self.hashes, self.per_hash, self.tokens, self.blocks = hashes, per_hash, tokens, blocks
        self.hashed = len(hashes) * per_hash
        self.private = self.published = 0
        self.spans: list[_Span] = []
        self.filling: _Span | None = None


class PagedKVCache:
    """The KV blocks of one data-parallel rank.

    Args:
        blocks: size of the pool, at least 1.
        block_size: tokens per block.
        prefix_caching: without it hashes are ignored and released blocks are forgotten.

    Attributes:
        lookups, lookup_tokens, hit_tokens: admissions, the tokens they asked for, and those they found.
        evictions: blocks of shareable content handed out again.
    """

    def __init__(self, blocks: int, block_size: int, prefix_caching: bool = True) -> None:
        if blocks < 1 or block_size < 1:
            raise ValueError(f"a pool of {blocks} blocks of {block_size} tokens holds nothing")
        self.capacity, self.block_size, self.prefix_caching = blocks, block_size, prefix_caching
        self.lookups = self.lookup_tokens = self.hit_tokens = self.evictions = 0
        self._unused = blocks
        self._evictable = self._held = 0
        self._queue: OrderedDict[_Span, None] = OrderedDict()
        self._cached: dict[int, _Span] = {}
        self._preempted: dict[int, _Span] = {}
        self._holdings: dict[int, _Holding] = {}

    @property
    def free(self) -> int:
        """Blocks that can be handed out, cached ones that nobody holds included."""
        return self._unused + self._evictable

    @property
    def used(self) -> int:
        return self.capacity - self._unused - self._evictable

    @property
    def duplicates(self) -> int:
        """Shared blocks, counted once for every further holder: what the holdings add up to beyond `used`."""
        return self._held - self.used

    def duplicates_after(self, leaving: Sequence[int]) -> list[int]:
        """`duplicates` as they would be after each of the requests `leaving` is released in turn; changes nothing."""
        left, counts = self.duplicates, []
        released = Counter[_Span]() if len(leaving) > 1 else None
        for request in leaving:
            holding = self._holdings[request]
            if released is None:
                freed = sum([span.blocks for span in holding.spans if span.references == 1])
            else:
                released.update(holding.spans)
                freed = sum([span.blocks for span in holding.spans if released[span] == span.references])
            left -= holding.blocks - holding.private - freed
            counts.append(left)
        return counts

    def lookup(
        self, hashes: Sequence[int], block_tokens: int, tokens: int | None = None, request: int | None = None
    ) -> int:
        """Leading tokens that are cached now; changes nothing.

        Args:
            hashes: of the request's leading full blocks of `block_tokens` tokens; () where nothing can be shared.
            tokens: length of the sequence; the answer then leaves at least one token to compute.
            request: also finds what this request left behind when it was preempted.

        Raises:
            ValueError: `block_tokens` is no multiple of the block size.
        """
        if not self.prefix_caching:
            return 0
        limit = self.capacity if tokens is None else (tokens - 1) // self.block_size
        shared, own, _ = self._match(request, hashes, self._per_hash(hashes, block_tokens), limit)
        return (shared + own) * self.block_size

    def admit(self, request: int, hashes: Sequence[int], block_tokens: int, tokens: int) -> int | None:
        """Takes blocks for the request's first `tokens` tokens, sharing those that are cached.

        Returns:
            The leading tokens that were cached, fewer than `tokens`; None if the rest does not fit (nothing changes).

        Raises:
            ValueError: the request holds blocks already, or `block_tokens` is no multiple of the block size.
        """
        if request in self._holdings:
            raise ValueError(f"request {request} holds blocks already")
        if not self.prefix_caching:
            hashes = ()
        per_hash = self._per_hash(hashes, block_tokens)
        shared, own, spans = self._match(request, hashes, per_hash, (tokens - 1) // self.block_size)
        holding = _Holding(hashes, per_hash, tokens, -(-tokens // self.block_size))
        new = holding.blocks - shared - own
        idle = sum([span.blocks for span in spans if not span.references]) if spans else 0
        if new + own + idle > self._unused + self._evictable:
            return None
        for span in spans:
            if not span.references:
                del self._queue[span]
                self._evictable -= span.blocks
            span.references += 1
        self._reclaim(request, own)
        self._take(new)
        holding.spans, holding.private, holding.published = spans, new + own, shared
        holding.filling = spans[-1] if shared % per_hash else None
        if shared < holding.hashed:
            self._publish(holding)
        self._holdings[request] = holding
        self._held += holding.blocks
        hit = (shared + own) * self.block_size
        self.lookups += 1
        self.lookup_tokens += tokens
        self.hit_tokens += hit
        return hit

    def grow(self, request: int, tokens: int) -> bool:
        """Takes the blocks that the request lacks for `tokens` tokens in all; False, and no change, if they do not fit.

        Raises:
            KeyError: the request holds no blocks.
        """
        holding = self._holdings[request]
        new = -(-tokens // self.block_size) - holding.blocks
        if new > 0:
            if new <= self._unused:
                self._unused -= new
            elif new <= self._unused + self._evictable:
                self._take(new)
            else:
                return False
            holding.blocks += new
            holding.private += new
            self._held += new
        holding.tokens = tokens
        if holding.published < holding.hashed:
            self._publish(holding)
        return True

    def grow_all(self, requests: Sequence[int], tokens: Sequence[int]) -> bool:
        """`grow` of each in turn, to so many tokens; False once one does not fit: those before it have grown.

        Raises:
            KeyError: a request holds no blocks.
        """
        size, wanted, shares = self.block_size, 0, False
        holdings = [self._holdings[request] for request in requests]
        for holding, count in zip(holdings, tokens, strict=True):
            wanted += max(-(-count // size) - holding.blocks, 0)
            shares |= holding.published < holding.hashed  # what it fills
        if shares or wanted > self._unused + self._evictable:
            return all(map(self.grow, requests, tokens))
        for holding, count in zip(holdings, tokens, strict=True):
            new = -(-count // size) - holding.blocks
            if new > 0:
                holding.blocks += new
                holding.private += new
            holding.tokens = count
        self._held += wanted
        self._take(wanted)
        return True

    def name(self, request: int, hashes: Sequence[int], block_tokens: int, tokens: int) -> None:
        """Offers all full blocks of the request's `tokens` tokens under `hashes`, those filled during decoding too.

        Args:
            hashes: of the leading full blocks of `block_tokens` tokens; they begin with those it was admitted with.

        Raises:
            KeyError: the request holds no blocks.
            ValueError: `block_tokens` is no multiple of the block size.
        """
        if not self.prefix_caching:
            return
        holding = self._holdings[request]
        holding.per_hash = self._per_hash(hashes, block_tokens)
        holding.hashes, holding.hashed = hashes, len(hashes) * holding.per_hash
        holding.tokens = tokens
        self._publish(holding)

    def held(self, request: int) -> int:
        """Blocks that the request holds, shared ones included; 0 for one that is not admitted."""
        holding = self._holdings.get(request)
        return holding.blocks if holding else 0

    def release(self, request: int, *, preempted: bool = False) -> None:
        """Gives back all that the request holds. With prefix caching the content stays until it is overwritten:
        shareable blocks for every request, private ones for this request itself if it was `preempted`.

        Raises:
            KeyError: the request holds no blocks.
        """
        holding = self._holdings.pop(request)
        self._held -= holding.blocks
        if not self.prefix_caching:
            self._unused += holding.blocks
            return
        full = holding.tokens // self.block_size - holding.hashed if preempted else 0
        if full <= 0 and not self._cached and not self._preempted:
            self._unused += holding.private  # nothing that is of use is in front of them in the queue
        elif holding.private:
            span = _Span(None, holding.private, 0)
            self._enqueue(span)
            if full > 0:
                span.owner, span.full = request, full
                span.skip = holding.private - (holding.blocks - holding.hashed)
                self._preempted[request] = span
        for span in reversed(holding.spans):
            span.references -= 1
            if not span.references:
                self._enqueue(span)

    def check(self) -> None:
        """Recounts everything from scratch.

        Raises:
            AssertionError: the books do not balance.
        """
        references: dict[_Span, int] = {}
        for holding in self._holdings.values():
            for span in holding.spans:
                references[span] = references.get(span, 0) + 1
        private = sum(holding.private for holding in self._holdings.values())
        assert self.used == private + sum(span.blocks for span in references)
        assert all(span.references == count for span, count in references.items())
        assert all(not span.references and span.blocks > 0 for span in self._queue)
        assert self._evictable == sum(span.blocks for span in self._queue)
        assert self._held == sum(holding.blocks for holding in self._holdings.values())
        assert self._unused >= 0
        assert self.free + self.used == self.capacity
        assert all(span in references or span in self._queue for span in self._cached.values())
        assert all(span.key == key for key, span in self._cached.items())

    def _per_hash(self, hashes: Sequence[int], block_tokens: int) -> int:
        if hashes and block_tokens % self.block_size:
            raise ValueError(f"{block_tokens} tokens per hash are no multiple of the block size {self.block_size}")
        return max(block_tokens // self.block_size, 1)

    def _match(
        self, request: int | None, hashes: Sequence[int], per_hash: int, limit: int
    ) -> tuple[int, int, list[_Span]]:
        """Leading blocks found, `limit` at most: shared ones, then the request's own, and the spans of the shared."""
        spans: list[_Span] = []
        for key in hashes[: -(-limit // per_hash)]:
            span = self._cached.get(key)
            if span is None:
                break
            spans.append(span)
            if span.blocks < per_hash:
                break
        shared = min(sum([span.blocks for span in spans]), limit)
        own = 0
        if request in self._preempted and shared == len(hashes) * per_hash:
            left = self._preempted[request]
            own = max(min(left.blocks - left.skip, left.full, limit - shared), 0)
        return shared, own, spans

    def _enqueue(self, span: _Span) -> None:
        self._queue[span] = None
        self._evictable += span.blocks

    def _reclaim(self, request: int, own: int) -> None:
        """Gives a preempted request `own` of the blocks it left; the others become nobody's."""
        span = self._preempted.pop(request, None)
        if span is None:
            return
        span.owner = None
        span.blocks -= own
        self._evictable -= own
        if not span.blocks:
            del self._queue[span]

    def _take(self, count: int) -> None:
        """Hands out `count` blocks, which must be free: unused ones, then those released longest ago."""
        unused = min(count, self._unused)
        self._unused -= unused
        count -= unused
        self._evictable -= count
        while count:
            span = next(iter(self._queue))
            taken = min(count, span.blocks)
            count -= taken
            span.blocks -= taken
            if span.key is not None:
                self.evictions += taken
            if not span.blocks:
                self._forget(span)

    def _forget(self, span: _Span) -> None:
        del self._queue[span]
        if span.key is not None:
            del self._cached[span.key]
        if span.owner is not None:
            del self._preempted[span.owner]

    def _publish(self, holding: _Holding) -> None:
        """Offers the request's full blocks of shareable content, from `published` on, to all."""
        full = min(holding.tokens // self.block_size, holding.hashed)
        while holding.published < full:
            index, start = divmod(holding.published, holding.per_hash)
            stop = min(full - index * holding.per_hash, holding.per_hash)
            if start == 0:
                holding.filling = self._open(holding, holding.hashes[index])
            span = holding.filling
            if span is not None:
                contributed = max(stop - span.blocks, 0)
                span.blocks += contributed
                holding.private -= contributed
            holding.published = index * holding.per_hash + stop

    def _open(self, holding: _Holding, key: int) -> _Span | None:
        """A span for the request to fill; None while other requests hold this content. A copy that nobody holds
        gives way to the new one, and is evicted in its turn."""
        old = self._cached.get(key)
        if old is not None:
            if old.references:
                return None
            old.key = None
        span = _Span(key, 0, 1)
        self._cached[key] = span
        holding.spans.append(span)
        return span
