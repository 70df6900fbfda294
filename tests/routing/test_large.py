"""Counts of many choices: rounding, bounds, moments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moesim.routing.large import LargeCounts, round_to_sum
from moesim.routing.popularity import inclusion_probabilities, zipf_weights

ROWS = arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.floats(0.0, 50.0))


@given(ROWS, st.integers())
@settings(max_examples=60, deadline=None)
def test_rounding_keeps_the_sum_and_moves_by_less_than_one(values: np.ndarray, seed: int) -> None:
    total = np.ceil(values.sum(axis=1, keepdims=True))
    values[:, -1:] += total - values.sum(axis=1, keepdims=True)
    rounded = round_to_sum(values, total, np.random.default_rng(abs(seed)))
    assert (rounded.sum(axis=1, keepdims=True) == total).all()
    assert (np.abs(rounded - values) < 1.0 + 1e-6).all()


def test_rounding_leaves_integers_alone() -> None:
    values = np.random.default_rng(0).integers(0, 9, (200, 30)).astype(float)
    rounded = round_to_sum(values, values.sum(axis=1, keepdims=True), np.random.default_rng(1))
    assert (rounded == values).all()


def test_rounding_has_no_bias() -> None:
    values = np.tile([0.1, 0.25, 2.5, 0.7, 1.45], (40_000, 1))
    rounded = round_to_sum(values, np.full((1, 1), 5.0), np.random.default_rng(2))
    assert rounded.mean(axis=0) == pytest.approx(values[0], abs=0.01)


@pytest.mark.parametrize(("experts", "top_k", "zipf"), [(128, 8, 0.35), (16, 1, 0.5), (8, 2, 0.12), (64, 6, 0.0)])
@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_moments_of_the_counts(experts: int, top_k: int, zipf: float, weight: float) -> None:
    """Mean and variance of a sum of choices with equal weights: W q and w W q (1 - q)."""
    q = inclusion_probabilities(zipf_weights(experts, zipf), top_k)
    draws = np.ceil(5.0 / min(q.min(), 1 - q.max())) + 60
    large = LargeCounts(q)
    assert large.usable
    assert large.enough(np.array([draws])).all()
    moments = draws * weight ** np.array([1, 2, 3])
    rows = 40_000
    counts = large.draw(rows, moments[:, None], np.random.default_rng(3))[:, 0]
    assert (counts.sum(axis=1) == draws * weight * top_k).all()
    assert counts.min() >= 0
    assert counts.max() <= draws * weight
    variance = draws * weight**2 * q * (1 - q)
    z = (counts.mean(axis=0) - draws * weight * q) / np.sqrt(variance / rows)
    assert np.abs(z).max() < 5.0
    ratio = counts.var(axis=0) / variance
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / rows) + 0.01
    assert ratio.mean() == pytest.approx(1.0, abs=0.006)


def test_one_dominant_expert_is_left_to_exact_draws() -> None:
    """One of three, one of them with 93 % of the tokens: nearly all variance is its own."""
    large = LargeCounts(inclusion_probabilities(zipf_weights(3, 4.0), 1))
    assert not large.usable
    assert not large.enough(np.array([10**6])).any()
