"""Sums of drawn choices are sums of their counts."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.placement import rank_loads
from moesim.routing import CountRouting


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
    drawn = routing.choose(singles, chunked, np.random.default_rng(1))
    counts = routing.sample(singles, chunked, np.random.default_rng(1))
    np.testing.assert_array_equal(drawn.counts, counts)
    np.testing.assert_array_equal(drawn.totals, counts.sum(axis=1))
    owner = owner.reshape(3, experts)
    np.testing.assert_array_equal(drawn.traffic(owner, ranks), rank_loads(counts, owner, ranks))
