"""Spreads: what is drawn from residuals is what was measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.uncertainty.spread import Spread, blended, lognormal, of_residuals, scores

#: Standard normal scores of 10, 25, 50, 75 and 90 %, from tables.
SCORES = np.array([-1.2815516, -0.6744898, 0.0, 0.6744898, 1.2815516])
ratios = st.floats(0.2, 5.0)


@given(st.lists(ratios, min_size=5, max_size=5).map(sorted))
def test_the_measured_points_are_met(quantiles: list[float]) -> None:
    found = Spread(tuple(quantiles)).scales(SCORES)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, quantiles, rtol=1e-5)


@given(st.lists(ratios, min_size=5, max_size=5).map(sorted))
def test_factors_grow_with_the_score_into_the_tails(quantiles: list[float]) -> None:
    found = Spread(tuple(quantiles)).scales(np.linspace(-4, 4, 200))  # type: ignore[arg-type]
    assert (np.diff(found) >= -1e-12).all()
    assert (found > 0).all()


@given(st.floats(1.0, 3.0), st.floats(-4, 4))
def test_a_lognormal_spread_is_one_throughout(factor: float, score: float) -> None:
    found = lognormal(factor).scales(np.array([score]))
    assert found[0] == pytest.approx(factor ** (score / 1.2815516), rel=1e-6)


def test_stretching_keeps_the_median() -> None:
    spread = Spread((0.8, 0.9, 1.1, 1.2, 1.5)).stretched(2.0)
    assert spread.quantiles[2] == 1.1
    assert spread.quantiles[0] == pytest.approx(0.8**2 / 1.1)
    assert spread.quantiles[4] == pytest.approx(1.5**2 / 1.1)


def test_regimes_are_blended_where_there_is_no_spread_of_all_points() -> None:
    wide, narrow = (0.25, 0.5, 1.0, 2.0, 4.0), (1.0, 1.0, 1.0, 1.0, 1.0)
    assert of_residuals({"all": wide, "compute": narrow}) == Spread(wide)
    found = of_residuals({"latency": wide, "bandwidth": narrow})
    assert found is not None
    np.testing.assert_allclose(found.quantiles, np.sqrt(wide))
    assert of_residuals({}) is None
    assert blended([]) is None


def test_scores_of_levels() -> None:
    np.testing.assert_allclose(scores(np.array([0.1, 0.25, 0.5, 0.75, 0.9])), SCORES, atol=1e-6)
    assert np.isfinite(scores(np.array([0.0, 1.0]))).all()
