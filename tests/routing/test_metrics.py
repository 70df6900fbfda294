"""Statistics of routings against published baselines and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.routing.metrics import (
    adjacent_repetition,
    beta_binomial,
    gini,
    group_srp,
    intra_class_correlation,
    max_over_mean,
    segment_counts,
    srp,
    srp_expected,
    stay_local,
)

#: Model, share k / E, correlation r, SRP in % of independent tokens and as published at 16 tokens (arXiv 2505.16056).
PUBLISHED = [
    ("LLaMA-MoE-v2", 2 / 8, 0.568, 45.2, 78.2),
    ("Yuan2.0-M32", 2 / 32, 0.438, 23.7, 63.5),
    ("PowerMoE-3B", 8 / 40, 0.204, 40.0, 55.2),
    ("Qwen3-30B-A3B", 8 / 128, 0.308, 23.7, 54.1),
    ("Phi-3.5-MoE", 2 / 16, 0.230, 32.1, 52.0),
    ("OLMoE", 8 / 64, 0.217, 32.1, 50.9),
    ("Mixtral-8x7B", 2 / 8, 0.063, 45.2, 49.4),
    ("DeepSeek-V2-Lite", 6 / 64, 0.093, 28.1, 37.9),
    ("DeepSeekMoE-16B", 6 / 64, 0.083, 28.1, 36.9),
    ("Qwen2-57B", 8 / 64, 0.049, 32.1, 36.7),
    ("Qwen1.5-MoE", 4 / 60, 0.046, 24.1, 30.7),
    ("Switch-Base-128", 1 / 128, 0.021, 12.4, 19.3),
]


@pytest.mark.parametrize(("model", "share", "correlation", "independent", "published"), PUBLISHED)
def test_srp_baseline_and_published_value(
    model: str, share: float, correlation: float, independent: float, published: float
) -> None:
    assert 100 * srp_expected(beta_binomial(16, share, 0.0), 16) == pytest.approx(independent, abs=0.06), model
    assert 100 * srp_expected(beta_binomial(16, share, correlation), 16) == pytest.approx(published, abs=0.11), model


@pytest.mark.parametrize(("segment", "wanted"), [(4, 63), (64, 52)])
def test_srp_of_other_segment_lengths(segment: int, wanted: float) -> None:
    """Qwen3-30B-A3B with r = 0.308 at 4 and 64 tokens."""
    assert 100 * srp_expected(beta_binomial(segment, 1 / 16, 0.308), segment) == pytest.approx(wanted, abs=0.5)


def test_srp_of_counts_equals_that_of_their_distribution() -> None:
    counts = np.random.default_rng(0).binomial(16, 0.25, (50_000, 4))
    assert srp(counts, 16) == pytest.approx(np.full(4, 0.452), abs=0.004)


def test_srp_by_hand() -> None:
    """Tokens of three segments of 4 that chose the expert: 4, 1, 0. Keeping it in the first: 2*4 / (4 + 5)."""
    counts = np.array([[4], [1], [0]])
    assert srp(counts, 4)[0] == pytest.approx(8 / 9)
    score, kept = group_srp(counts, 4)
    assert score == pytest.approx(8 / 9)
    assert kept == pytest.approx(4 / 5)


def test_an_unused_expert_has_no_srp() -> None:
    assert srp(np.zeros((5, 2), dtype=int), 16).tolist() == [0.0, 0.0]


@given(st.lists(st.lists(st.integers(0, 8), min_size=3, max_size=3), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_group_srp_is_the_best_over_all_thresholds(rows: list[list[int]]) -> None:
    counts = np.array(rows)
    if counts.sum() == 0:
        return
    best = 0.0
    for thresholds in np.ndindex(10, 10, 10):
        kept = counts >= np.array(thresholds)
        best = max(best, 2.0 * counts[kept].sum() / (kept.sum() * 8 + counts.sum()))
    assert group_srp(counts, 8)[0] == pytest.approx(best)


def test_beta_binomial_has_its_mean_and_variance() -> None:
    probability, level = beta_binomial(16, 0.125, 0.23), np.arange(17)
    mean = probability @ level
    assert probability.sum() == pytest.approx(1.0)
    assert mean == pytest.approx(2.0)
    assert probability @ (level - mean) ** 2 == pytest.approx(16 * 0.125 * 0.875 * (1 + 15 * 0.23))


def test_gini_of_even_and_single_loads() -> None:
    assert float(gini(np.full(8, 3.0))) == pytest.approx(0.0)
    assert float(gini(np.array([0, 0, 0, 7]))) == pytest.approx(0.75)
    assert float(gini(np.array([1, 3]))) == pytest.approx(0.25)


def test_max_over_mean() -> None:
    assert max_over_mean(np.array([[1, 3], [2, 2]])).tolist() == [1.5, 1.0]


def test_segment_counts_leaves_out_the_incomplete_segment() -> None:
    ids = np.array([[0, 1], [0, 2], [1, 2], [0, 1], [2, 0]])
    assert segment_counts(ids, 3, 2).tolist() == [[2, 1, 1], [1, 2, 1]]


def test_intra_class_correlation_of_copies_and_of_independent_tokens() -> None:
    rng = np.random.default_rng(1)
    chosen = rng.integers(0, 8, 30_000)
    copies = 16 * (chosen[:, None] == np.arange(8))
    assert intra_class_correlation(copies, 16) == pytest.approx(1.0)
    independent = rng.multinomial(16, np.full(8, 1 / 8), 30_000)
    assert intra_class_correlation(independent, 16) == pytest.approx(0.0, abs=0.003)


def test_adjacent_repetition() -> None:
    assert adjacent_repetition(np.array([[1, 0], [1, 2], [2, 1], [2, 0], [0, 2]])) == pytest.approx(0.5)


def test_stay_local() -> None:
    ids = np.array([[[0], [2], [1]], [[1], [0], [3]]])
    owner = np.array([[0, 0, 1, 1]] * 3)
    assert stay_local(ids, owner) == pytest.approx(0.25)
