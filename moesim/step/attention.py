"""Attention of many sequences at once: its work is linear in what they see, so that sums of it follow from sums."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moesim.model.attention import Reach
from moesim.model.operators import attention_work
from moesim.spec.model import ModelSpec
from moesim.step.graph import FloatArray, IntArray


class AttentionSums(NamedTuple):
    """Model-wide work of one attention kernel per layer, summed over the sequences of each rank: [steps, ranks]."""

    flops: FloatArray
    kv_elements: FloatArray
    query_elements: FloatArray


def chunk_work(model: ModelSpec, reach: Reach, tokens: int, cached: int) -> FloatArray:
    """(FLOPs, KV elements, query elements) of `tokens` prompt tokens after `cached` ones."""
    work = attention_work(model, reach, tokens, cached)
    return np.array([work.flops, work.kv_read + work.kv_written, work.query_elements], dtype=np.float64)


class FullAttention:
    """The lines along which the work of attention to all tokens before grows, each a triple as of `chunk_work`.

    One decoding sequence: slope x visible keys + constant. Several new tokens: by the (query, key) pairs, the cached
    tokens and the new ones. The coefficients are whole numbers that a few evaluations give, without loss.
    """

    def __init__(self, model: ModelSpec) -> None:
        one, two = (chunk_work(model, "full", 1, cached) for cached in (0, 1))  # 1 and 2 visible keys
        self._slope, self._constant = two - one, 2 * one - two
        # 2 new tokens make 3 pairs, or 5 after a cached one; 3 new tokens make 6.
        pair, after, triple = (chunk_work(model, "full", *sizes) for sizes in ((2, 0), (2, 1), (3, 0)))
        self._per_pair = (2 * triple - 3 * pair) / 3
        self._per_cached = after - pair - 2 * self._per_pair
        self._per_new = triple - pair - 3 * self._per_pair

    def decode(self, keys: FloatArray, sequences: IntArray) -> FloatArray:
        """[3, steps, ranks] work of `sequences` [steps, ranks] that each add a token and see `keys` in all."""
        return self._slope[:, None, None] * keys + self._constant[:, None, None] * sequences

    def chunk(self, tokens: int, cached: int) -> FloatArray:
        """[3] work of `tokens` prompt tokens after `cached` ones."""
        if tokens == 1:
            return self._slope * (cached + 1) + self._constant
        pairs = tokens * cached + tokens * (tokens + 1) // 2
        return self._per_pair * pairs + self._per_cached * cached + self._per_new * tokens
