"""Clusters of experts that are chosen together, and the binary program that balances groups of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.placement import Situation, make_placement, place
from moesim.placement.clustered import balanced_groups, clusters, owners
from moesim.routing.base import TokenSpans
from moesim.routing.clustered import ClusteredRouting, coactivation
from moesim.spec.errors import MoesimError


def spans(tokens: int) -> TokenSpans:
    one = np.zeros(1, dtype=np.int64)
    return TokenSpans(one, one, one, np.array([tokens]))


def routing(preference: float, layers: int = 1) -> ClusteredRouting:
    return ClusteredRouting(layers, 64, 8, 16, preference, np.random.SeedSequence(1))


def test_hidden_clusters_are_found() -> None:
    """Where a token takes all experts of its cluster first, clusters are the hidden ones."""
    source = routing(1e5, layers=2)
    pairs = coactivation(source.drawn(spans(4000), 1, np.random.default_rng(1)))
    for layer in range(2):
        found = clusters(pairs[layer], 16)
        assert (np.bincount(found) == 4).all()
        together = {(int(a), int(b)) for a, b in zip(found, source.cluster[layer], strict=True)}
        assert len(together) == 16  # one to one


def test_choices_are_distinct_and_equally_popular() -> None:
    """k distinct experts per token; every expert in k of E tokens, 5 standard deviations."""
    drawn = routing(8.0).drawn(spans(20000), 1, np.random.default_rng(2))
    ids = np.sort(drawn.picks[:, 0], axis=0)
    assert (ids[1:] != ids[:-1]).all()
    share = 8 / 64
    assert np.abs(drawn.totals[0] - 20000 * share).max() < 5 * np.sqrt(20000 * share * (1 - share))


def test_without_preference_copies_are_hypergeometric() -> None:
    """16 (1 - C(60, 8) / C(64, 8)) = 6.751 ranks of 16 per token, whatever the placement."""
    drawn = routing(1.0).drawn(spans(20000), 1, np.random.default_rng(3))
    owner = owners(coactivation(drawn)[0], 16)
    member = (owner[:, None] == np.arange(16))[None]
    fresh = routing(1.0).drawn(spans(20000), 1, np.random.default_rng(4))
    assert fresh.visits(member).sum() / 20000 == pytest.approx(6.7509, rel=3e-3)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0.5, 2.0), min_size=8, max_size=8))
def test_groups_are_as_balanced_as_any(loads: list[float]) -> None:
    """Against all ways to put eight items into two groups of four; the solver stops within 1 %."""
    load = np.array(loads)
    group = balanced_groups(load, 2)
    assert np.bincount(group).tolist() == [4, 4]
    best = min(max(load[list(c)].sum(), load.sum() - load[list(c)].sum()) for c in combinations(range(8), 4))
    assert np.bincount(group, load).max() <= best * 1.011


def test_a_placement_without_tokens_to_learn_from() -> None:
    with pytest.raises(MoesimError, match="learns from tokens"):
        place(make_placement("clustered"), Situation(2, 8, 2, 0, np.ones((2, 8)), np.zeros(2, dtype=np.int64)))
