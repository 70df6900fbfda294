"""Sums of attention over sequences follow from sums of their lengths, in every column."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.spec.loading import load_descriptor
from moesim.step.attention import AttentionSums, FullAttention, chunk_work

MODELS = st.sampled_from(("qwen3-30b-a3b", "deepseek-v2-lite"))


@cache
def model_of(name):
    return load_descriptor("models", name)


@given(name=MODELS, tokens=st.integers(1, 5000), cached=st.integers(0, 50_000))
def test_a_chunk_follows_from_its_pairs_and_tokens(name, tokens, cached):
    model = model_of(name)
    found = FullAttention(model).chunk(tokens, cached)
    assert found == pytest.approx(chunk_work(model, "full", tokens, cached), rel=1e-12)


@given(name=MODELS, contexts=st.lists(st.integers(0, 5000), min_size=1, max_size=20))
def test_decodes_add_up(name, contexts):
    model = model_of(name)
    keys, sequences = np.array([[sum(contexts) + len(contexts)]], dtype=float), np.array([[len(contexts)]])
    found = FullAttention(model).decode(keys, sequences)[:, 0, 0]
    assert found == pytest.approx(sum(chunk_work(model, "full", 1, each) for each in contexts), rel=1e-12)


def test_the_counts_of_a_chunk():
    """Three new tokens after two cached ones see 3 + 4 + 5 keys, five of them distinct."""
    sums = AttentionSums(*chunk_work(model_of("qwen3-30b-a3b"), "full", 3, 2))
    assert (sums.decodes, sums.keys, sums.chunks, sums.queries, sums.pairs, sums.chunk_keys) == (0, 0, 1, 3, 12, 5)
