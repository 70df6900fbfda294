"""What the sequences of a replica hold in its KV caches, step by step."""

from __future__ import annotations

from bisect import bisect_right

from moesim.memory.kv_cache import PagedKVCache
from moesim.serving.scheduler import ContinuousBatching
from moesim.step.batch import Batch
from moesim.step.graph import IntArray
from moesim.step.pricing import Executable


def held_tokens(scheduler: ContinuousBatching, block: Executable, rows: IntArray, steps: int) -> list[int]:
    """Tokens in the KV caches at the end of each of a block's first steps: those of the batch's sequences, which have
    grown by now, and of the others that run; a block of the cache that several share counts once.

    Args:
        rows: where the batch's sequences stand among the running ones.
    """
    batch, computed = block.batch, scheduler.running.computed
    others = int(computed.sum() - computed[rows].sum()) if len(rows) < len(computed) else 0
    # The keys that the decoding sequences see, the new ones included, are the tokens they hold.
    held = [seen + others for seen in block.seen(steps)]
    if (accepted := batch.accepted(steps)) is not None:
        held = [tokens + more for tokens, more in zip(held, accepted, strict=True)]
    if batch.joining:  # they have computed their prompts, and see them from the next step on
        held[0] += int(batch.context[-batch.joining :].sum()) + batch.joining
    for rank, cache in enumerate(scheduler.caches):
        if cache.duplicates:
            twice = _duplicates(cache, batch, rank, steps)
            held = [tokens - blocks * cache.block_size for tokens, blocks in zip(held, twice, strict=True)]
    return held


def _duplicates(cache: PagedKVCache, batch: Batch, rank: int, steps: int) -> list[int]:
    """Blocks that sequences of a rank share, counted once for every further holder, at the end of each step."""
    leaving = ((batch.left < steps) & (batch.rank == rank)).nonzero()[0]
    if not len(leaving):
        return [cache.duplicates] * steps
    order = leaving[batch.left[leaving].argsort(kind="stable")]
    counts, left = cache.duplicates_after(batch.request[order].tolist()), batch.left[order].tolist()
    counts.insert(0, cache.duplicates)
    return [counts[bisect_right(left, step)] for step in range(steps)]
