"""LLEP: tokens are moved, none is lost, and no rank is worse off than before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.placement import Contiguous, LeastLoaded


@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 500), st.integers(0, 2**32 - 1),
    st.floats(1, 2),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_tokens_are_conserved(ranks: int, each: int, draws: int, least: int, seed: int, headroom: float) -> None:
    random = np.random.default_rng(seed)
    tokens = (random.pareto(0.7, (draws, ranks * each)) * 50).astype(np.int64) % 100_000
    owner = Contiguous().owner(draws, ranks * each, ranks)
    moved = LeastLoaded(least=least, headroom=headroom).relieve(tokens, owner, ranks)
    assert (moved.tokens >= 0).all()
    assert (moved.tokens.sum(axis=2) == tokens).all()
    assert not np.diagonal(moved.weights, axis1=1, axis2=2).any()
    home = np.zeros_like(moved.tokens)
    np.put_along_axis(home, owner[:, :, None], tokens[:, :, None], axis=2)
    assert (moved.tokens.sum(axis=1).max(axis=1) <= home.sum(axis=1).max(axis=1)).all()


def test_the_ceiling_of_one_hot_expert_is_reached() -> None:
    """95 % of the pairs on one of 128 experts over 8 ranks: 7.65 times the mean before, the mean afterwards."""
    tokens = np.full((1, 128), 50_000 // 127)
    tokens[0, 0] = 950_000
    policy = LeastLoaded()
    owner = policy.owner(1, 128, 8)
    before = np.bincount(owner[0], weights=tokens[0])
    assert before.max() / before.mean() == pytest.approx(7.65, abs=0.01)
    moved = policy.relieve(tokens, owner, 8)
    after = moved.tokens[0].sum(axis=0)
    assert after.max() / after.mean() == pytest.approx(1, abs=1e-3)
    assert moved.weights[0].tolist() == [[0] + [1] * 7] + [[0] * 8] * 7


def test_below_the_trigger_nothing_moves() -> None:
    tokens = np.array([[1200, 1000, 900, 900]])
    moved = LeastLoaded(trigger=1.3, least=0).relieve(tokens, np.array([[0, 1, 2, 3]]), 4)
    assert moved.tokens[0].tolist() == np.diag(tokens[0]).tolist()
    assert not moved.weights.any()


def test_small_pieces_stay_at_home() -> None:
    tokens = np.array([[4000, 0, 0, 0]])
    owner = np.array([[0, 1, 2, 3]])
    assert LeastLoaded(least=1000).relieve(tokens, owner, 4).tokens[0, 0].tolist() == [1000] * 4
    assert LeastLoaded(least=1001).relieve(tokens, owner, 4).tokens[0, 0].tolist() == [4000, 0, 0, 0]
