"""Count sampling: conservation, bounds, moments, distinct experts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.routing import CountRouting, TokenSpans

ZERO = np.zeros(1, dtype=np.int64)


def routing(layers: int, experts: int, top_k: int, zipf: float = 0.0, correlation: float = 0.0) -> CountRouting:
    seed = np.random.SeedSequence(5)
    return CountRouting(layers, experts, top_k, zipf=zipf, correlation=correlation, seed=seed)


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 700)), min_size=1, max_size=4),
    st.floats(0.0, 3.0),
    st.floats(0.0, 0.9),
    st.data(),
)
@settings(max_examples=80, deadline=None)
def test_every_token_takes_k_experts_and_none_takes_one_twice(
    experts: int, tokens: list[tuple[int, int]], zipf: float, correlation: float, data: st.DataObject
) -> None:
    top_k = data.draw(st.integers(1, min(experts, 9)))
    singles, chunked = (np.array(column) for column in zip(*tokens, strict=True))
    counts = routing(3, experts, top_k, zipf, correlation).sample(singles, chunked, np.random.default_rng(0))
    total = singles + chunked
    assert counts.shape == (3, len(tokens), experts)
    assert counts.dtype == np.int64
    assert (counts.sum(axis=2) == total * top_k).all()
    assert (counts >= 0).all()
    assert (counts <= total[None, :, None]).all()


def test_one_token_touches_exactly_k_experts() -> None:
    counts = routing(60, 256, 8, 0.8, 0.2).sample(np.ones(64, dtype=int), np.zeros(64, dtype=int), _rng())
    assert (np.count_nonzero(counts, axis=2) == 8).all()
    assert counts.max() == 1


def test_distinct_experts_of_a_decode_batch() -> None:
    """N independent tokens miss expert e with probability (1 - q_e)**N."""
    source = routing(48, 128, 8, 0.35, 0.308)
    singles = np.full(200, 30)
    touched = np.count_nonzero(source.sample(singles, np.zeros_like(singles), _rng()), axis=2)
    expected = (1.0 - (1.0 - source.popularity) ** 30).sum(axis=1)
    assert touched.mean(axis=1) == pytest.approx(expected, rel=0.01)
    assert touched.mean() == pytest.approx(expected.mean(), rel=0.001)


def test_popularity_is_a_permutation_of_the_same_numbers_in_every_layer() -> None:
    popularity = routing(6, 64, 6, 0.45).popularity
    assert popularity.sum(axis=1) == pytest.approx(np.full(6, 6.0))
    assert np.ptp(np.sort(popularity, axis=1), axis=0).max() == 0.0
    assert (popularity[0] != popularity[1]).any()


@pytest.mark.parametrize(
    ("experts", "top_k", "zipf", "correlation", "singles", "chunked"),
    [
        (128, 8, 0.35, 0.308, 60, 0),  # drawn one by one
        (128, 8, 0.35, 0.308, 0, 40),  # segments and single draws, the last segment incomplete
        (128, 8, 0.35, 0.308, 70, 600),  # prototypes one by one, the rest at once
        (64, 6, 0.45, 0.093, 10, 3000),  # all at once
        (8, 2, 0.12, 0.063, 100, 200),
        (16, 1, 1.0, 0.4, 5, 100),
    ],
)
def test_mean_and_variance(
    experts: int, top_k: int, zipf: float, correlation: float, singles: int, chunked: int
) -> None:
    """N q and q (1 - q) times the sum over segments of m (1 + (m - 1) r)."""
    source = routing(4, experts, top_k, zipf, correlation)
    rows = 6000
    counts = source.sample(np.full(rows, singles), np.full(rows, chunked), _rng())
    q = source.popularity
    segments = [16] * (chunked // 16) + [chunked % 16]
    inflated = singles + sum(m * (1 + (m - 1) * correlation) for m in segments if m)
    variance = q * (1 - q) * inflated
    z = (counts.mean(axis=1) - (singles + chunked) * q) / np.sqrt(variance / rows)
    assert np.abs(z).max() < 5.0
    ratio = counts.var(axis=1) / variance
    assert ratio.mean() == pytest.approx(1.0, abs=0.02)
    assert np.abs(ratio - 1).max() < 0.15


def test_contiguous_rank_loads_vary_as_those_of_exact_draws() -> None:
    """The covariance between experts is that of choices without replacement, also where counts are drawn at once."""
    exact, fast = routing(4, 32, 4, 0.5), routing(4, 32, 4, 0.5)
    exact._large.extreme = 0.0
    rows, tokens = 4000, np.full(4000, 100)
    loads = [
        source.sample(tokens, np.zeros_like(tokens), _rng()).reshape(4, rows, 4, 8).sum(axis=3)
        for source in (exact, fast)
    ]
    assert loads[1].var(axis=1).mean() == pytest.approx(loads[0].var(axis=1).mean(), rel=0.03)


def test_a_segment_shares_one_choice_with_probability_r() -> None:
    """Two tokens, a segment of two: both counts of an expert are 2 where they coincide."""
    source = CountRouting(1, 500, 1, correlation=0.3, segment=2, seed=np.random.SeedSequence(0))
    counts = source.sample(np.zeros(20_000, dtype=int), np.full(20_000, 2), _rng())
    assert (counts.max(axis=2) == 2).mean() == pytest.approx(0.3 + 0.7 / 500, abs=0.01)


def test_equal_generators_give_equal_counts() -> None:
    source = routing(4, 64, 8, 0.3, 0.1)
    first, second = (source.sample(ZERO + 20, ZERO + 400, np.random.default_rng(9)) for _ in range(2))
    assert (first == second).all()


def test_all_experts_chosen_by_all() -> None:
    assert (routing(2, 4, 4, 0.5, 0.1).sample(ZERO + 3, ZERO + 30, _rng()) == 33).all()


def test_spans_are_summed_by_source_into_decode_and_prefill() -> None:
    source = routing(3, 32, 4, 0.2, 0.2)
    spans = TokenSpans(
        source=np.array([0, 2, 0, 2, 2]),
        request=np.array([4, 5, 6, 7, -1]),
        position=np.array([10, 0, 3, 2, 0]),
        tokens=np.array([1, 100, 1, 31, 1]),
    )
    found = source.counts(spans, 3, np.random.default_rng(3))
    wanted = source.sample(np.array([2, 0, 1]), np.array([0, 0, 131]), np.random.default_rng(3))
    assert source.stateless
    assert (found == wanted).all()


def test_no_tokens_no_counts() -> None:
    empty = np.zeros(0, dtype=np.int64)
    counts = routing(2, 8, 2, 0.1, 0.1).counts(TokenSpans(empty, empty, empty, empty), 3, _rng())
    assert counts.shape == (2, 3, 8)
    assert not counts.any()


def _rng() -> np.random.Generator:
    return np.random.default_rng(11)
