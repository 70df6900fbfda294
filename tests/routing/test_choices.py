"""Exact draws of k distinct experts."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.routing import choices
from moesim.routing.choices import Chooser
from moesim.routing.popularity import table_shares, zipf_weights


@given(st.integers(1, 300), st.floats(0.0, 4.0), st.data())
@settings(max_examples=40, deadline=None)
def test_a_token_never_has_an_expert_twice(experts: int, exponent: float, data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, min(experts, 12)))
    chooser = Chooser(table_shares(zipf_weights(experts, exponent)), top_k)
    picks = np.sort(chooser.draw(50, np.random.default_rng(0)), axis=0).astype(int)
    assert picks.shape == (top_k, 50)
    assert (np.diff(picks, axis=0) > 0).all()
    assert picks.max() < experts


@pytest.mark.parametrize("rounds", [0, 1, 6])
@pytest.mark.parametrize("exponent", [0.0, 2.0])
def test_ordered_draws_follow_successive_sampling(
    rounds: int, exponent: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chi-square over all 60 ordered draws of 3 out of 5, whichever way repeats are resolved."""
    monkeypatch.setattr(choices, "_ROUNDS", rounds)
    entries = table_shares(zipf_weights(5, exponent))
    tokens = 200_000
    picks = Chooser(entries, 3).draw(tokens, np.random.default_rng(7)).astype(int)
    seen = np.bincount(picks[0] * 25 + picks[1] * 5 + picks[2], minlength=125)
    share = entries / entries.sum()
    chi_square = 0.0
    for a, b, c in permutations(range(5), 3):
        expected = tokens * share[a] * share[b] / (1 - share[a]) * share[c] / (1 - share[a] - share[b])
        chi_square += (seen[a * 25 + b * 5 + c] - expected) ** 2 / expected
    assert chi_square < 98.0  # 99.9 % point of 59 degrees of freedom
