"""Attention of many sequences at once: its work is linear in what they see, so that sums of it follow from sums."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from moesim.model.attention import AttentionWork, Reach
from moesim.model.operators import attention_work
from moesim.spec.model import ModelSpec
from moesim.step.graph import FloatArray, IntArray

#: The last columns of AttentionSums where there are no chunks: a number is seen to be nothing without looking through.
_NO_CHUNKS: Any = (0.0, 0.0, 0.0, 0.0)


class AttentionSums(NamedTuple):
    """Model-wide work of one attention kernel per layer, summed over the sequences of each rank: [steps, ranks].

    decodes: sequences with one new token, or a few that are verified at once, which see `keys`. chunks: those with
    several, `queries` in all, which see `chunk_keys` in `pairs` (query, key).
    """

    flops: FloatArray
    kv_elements: FloatArray
    query_elements: FloatArray
    decodes: FloatArray
    keys: FloatArray
    chunks: FloatArray
    queries: FloatArray
    pairs: FloatArray
    chunk_keys: FloatArray


def without_chunks(sums: FloatArray) -> AttentionSums:
    """Those of steps in which all sequences decode, from [9, steps, ranks] sums."""
    return AttentionSums(*sums[:5], *_NO_CHUNKS)


def chunk_work(model: ModelSpec, reach: Reach, tokens: int, cached: int) -> FloatArray:
    """The sums, in the order of AttentionSums, of `tokens` prompt tokens after `cached` ones."""
    work = attention_work(model, reach, tokens, cached)
    return np.array([*_bytes_and_flops(work), *_counts(tokens, work.pairs, work.keys)], dtype=np.float64)


def verified_work(model: ModelSpec, reach: Reach, queries: int, cached: IntArray) -> list[FloatArray]:
    """The first columns of AttentionSums, up to `keys`, of sequences [n] that verify `queries` tokens after `cached`
    ones [n], of attention that caches keys and values."""
    work = attention_work(model, reach, queries, cached)
    return [*_bytes_and_flops(work), np.ones(len(cached)), work.keys]


def _bytes_and_flops(work: AttentionWork) -> tuple[FloatArray, FloatArray, FloatArray]:
    return work.flops, work.kv_read + work.kv_written, work.query_elements


def _counts(tokens: int, pairs: Any, keys: Any) -> tuple[Any, ...]:
    """The other columns of AttentionSums. A chunk of one token is a decode."""
    return (1, keys, 0, 0, 0, 0) if tokens == 1 else (0, 0, 1, tokens, pairs, keys)


class FullAttention:
    """The lines along which the work of attention to all tokens before grows: FLOPs, KV and query elements.

    One decoding sequence: slope x visible keys + constant. Several new tokens: by the (query, key) pairs, the cached
    tokens and the new ones. The coefficients are whole numbers that a few evaluations give, without loss.
    """

    def __init__(self, model: ModelSpec) -> None:
        def work(tokens: int, cached: int) -> FloatArray:
            return np.array(_bytes_and_flops(attention_work(model, "full", tokens, cached)), dtype=np.float64)

        one, two = (work(1, cached) for cached in (0, 1))  # 1 and 2 visible keys
        self._slope, self._constant = two - one, 2 * one - two
        # 2 new tokens make 3 pairs, or 5 after a cached one; 3 new tokens make 6.
        pair, after, triple = work(2, 0), work(2, 1), work(3, 0)
        self._per_pair = (2 * triple - 3 * pair) / 3
        self._per_cached = after - pair - 2 * self._per_pair
        self._per_new = triple - pair - 3 * self._per_pair

    def decode(
        self, keys: FloatArray, sequences: IntArray | FloatArray, drafts: FloatArray | None = None
    ) -> FloatArray:  # fmt: skip
        """[9, steps, ranks] sums of `sequences` [steps, ranks] that each add a token and see `keys` in all.

        Args:
            drafts: [2, steps, ranks] query tokens behind these, and pairs of theirs and keys; their kernel reads the
                keys once for all of them, and multiplies as for single ones.
        """
        sums = np.zeros((len(AttentionSums._fields), *keys.shape))
        np.multiply(self._slope[:, None, None], keys, out=sums[:3])
        sums[:3] += self._constant[:, None, None] * sequences
        sums[3], sums[4] = sequences, keys
        if drafts is not None:
            tokens, pairs = drafts
            sums[0] += self._slope[0] * pairs
            sums[1:3] += (self._slope + self._constant)[1:, None, None] * tokens
            sums[4] += tokens
        return sums

    def chunk(self, tokens: int, cached: int) -> FloatArray:
        """[9] sums of `tokens` prompt tokens after `cached` ones."""
        pairs = tokens * cached + tokens * (tokens + 1) // 2
        if tokens == 1:
            work = self._slope * (cached + 1) + self._constant
        else:
            work = self._per_pair * pairs + self._per_cached * cached + self._per_new * tokens
        return np.array([*work, *_counts(tokens, pairs, cached + tokens)], dtype=np.float64)
