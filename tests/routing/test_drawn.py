"""Sums of drawn choices are sums of their counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim import accelerate
from moesim.placement import rank_loads
from moesim.routing import CountRouting, drawn


@given(
    experts=st.integers(2, 24),
    tokens=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 900)), min_size=1, max_size=5),
    zipf=st.floats(0.0, 2.0),
    correlation=st.floats(0.0, 0.9),
    ranks=st.integers(1, 4),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_totals_and_traffic_are_sums_of_the_counts(experts, tokens, zipf, correlation, ranks, data):
    top_k = data.draw(st.integers(1, min(experts, 9)))
    owner = np.array(data.draw(st.lists(st.integers(0, ranks - 1), min_size=3 * experts, max_size=3 * experts)))
    routing = CountRouting(3, experts, top_k, zipf=zipf, correlation=correlation, seed=np.random.SeedSequence(4))
    singles, chunked = (np.array(column) for column in zip(*tokens, strict=True))
    chosen = routing.choose(singles, chunked, np.random.default_rng(1))
    counts = routing.sample(singles, chunked, np.random.default_rng(1))
    np.testing.assert_array_equal(chosen.counts, counts)
    np.testing.assert_array_equal(chosen.totals, counts.sum(axis=1))
    owner = owner.reshape(3, experts)
    np.testing.assert_array_equal(chosen.traffic(owner, ranks), rank_loads(counts, owner, ranks))


@pytest.mark.parametrize("compiled", [
    False, pytest.param(True, marks=pytest.mark.skipif(not accelerate.HAVE_NUMBA, reason="numba is not installed")),
])  # fmt: skip
def test_the_loop_counts_the_same(monkeypatch, compiled):
    """As plain Python and compiled; picks of single tokens, of segments that repeat theirs, and sums."""
    routing = CountRouting(2, 12, 3, zipf=1.0, correlation=0.6, seed=np.random.SeedSequence(4))
    owner = np.tile(np.arange(12) % 3, (2, 1))
    tokens = np.array([5, 0, 7]), np.array([90, 33, 700])
    expected = routing.sample(*tokens, np.random.default_rng(1))
    chosen = routing.choose(*tokens, np.random.default_rng(1))
    assert len(chosen.weight)
    monkeypatch.setattr(drawn, "_worth_compiling", lambda picks: True)
    if not compiled:
        monkeypatch.setattr(accelerate, "compiled", lambda loop: loop)
    np.testing.assert_array_equal(chosen.counts, expected)
    np.testing.assert_array_equal(chosen.totals, expected.sum(axis=1))
    np.testing.assert_array_equal(chosen.traffic(owner, 3), rank_loads(expected, owner, 3))
