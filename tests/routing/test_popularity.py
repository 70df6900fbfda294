"""Popularity: Zipf shares, and the chance to be among k drawn without replacement."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.routing.metrics import gini, max_over_mean
from moesim.routing.popularity import (
    TABLE_ENTRIES,
    inclusion_probabilities,
    popularity_ranks,
    table_and_inclusion,
    table_shares,
    zipf_weights,
)


def by_enumeration(weights: np.ndarray, top_k: int) -> np.ndarray:
    """Sum over all ordered draws of k experts, each place in proportion to the weights left."""
    weights = weights / weights.sum()
    inclusion = np.zeros(len(weights))
    for order in permutations(range(len(weights)), top_k):
        left, probability = 1.0, 1.0
        for expert in order:
            probability *= weights[expert] / left
            left -= weights[expert]
        inclusion[list(order)] += probability
    return inclusion


@given(st.lists(st.floats(0.05, 20.0), min_size=2, max_size=6), st.data())
@settings(max_examples=40, deadline=None)
def test_inclusion_equals_the_sum_over_all_orders(weights: list[float], data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, len(weights) - 1))
    found = inclusion_probabilities(np.array(weights), top_k)
    assert found == pytest.approx(by_enumeration(np.array(weights), top_k), rel=1e-9)


def test_equal_weights_give_k_of_e() -> None:
    assert inclusion_probabilities(np.ones(128), 8) == pytest.approx(np.full(128, 8 / 128), rel=1e-12)


def test_one_of_e_gives_the_weights() -> None:
    weights = zipf_weights(64, 0.8)
    assert inclusion_probabilities(weights, 1) == pytest.approx(weights, rel=1e-9)


def test_all_of_e_gives_ones() -> None:
    assert (inclusion_probabilities(zipf_weights(5, 1.0), 5) == 1.0).all()


def test_popular_experts_saturate() -> None:
    inclusion = inclusion_probabilities(zipf_weights(64, 3.0), 6)
    assert inclusion.sum() == pytest.approx(6.0)
    assert 0.999 < inclusion[0] <= 1.0


@pytest.mark.parametrize(
    ("experts", "exponent", "wanted"),
    [(8, 0.5, (0.192, 1.83)), (64, 0.4, (0.215, 3.34)), (128, 0.3, (0.163, 3.06)), (256, 1.0, (0.677, 41.8))],
)
def test_zipf_exponent_to_gini_and_peak(experts: int, exponent: float, wanted: tuple[float, float]) -> None:
    """Closed form of both statistics of i**-s, tabulated by hand to three digits."""
    weights = zipf_weights(experts, exponent)
    assert float(gini(weights)) == pytest.approx(wanted[0], abs=6e-4)
    assert float(max_over_mean(weights)) == pytest.approx(wanted[1], rel=3e-3)


@given(st.integers(1, 512), st.floats(0.0, 4.0))
@settings(max_examples=40, deadline=None)
def test_table_holds_every_expert_and_rounds_by_at_most_one_entry(experts: int, exponent: float) -> None:
    weights = zipf_weights(experts, exponent)
    entries = table_shares(weights)
    assert entries.sum() == TABLE_ENTRIES
    assert entries.min() >= 1
    ideal = weights * TABLE_ENTRIES
    common = ideal >= 1.0
    common[0] = False  # pays for what the rare ones get
    assert (np.abs(entries - ideal)[common] <= 1.0).all()


def test_tables_are_shared_and_read_only() -> None:
    entries, inclusion = table_and_inclusion(16, 2, 0.5)
    assert table_and_inclusion(16, 2, 0.5)[0] is entries
    with pytest.raises(ValueError, match="read-only"):
        inclusion[0] = 0.0


def test_ranks_are_permutations_that_differ_by_layer() -> None:
    ranks = popularity_ranks(4, 64, np.random.SeedSequence(1))
    assert (np.sort(ranks, axis=1) == np.arange(64)).all()
    assert len({tuple(row) for row in ranks}) == 4
    assert (popularity_ranks(4, 64, np.random.SeedSequence(1)) == ranks).all()
