"""Intervals and what they owe their width to, of repeats with a known answer."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.uncertainty.intervals import REST, intervals, repeat_columns
from moesim.uncertainty.repeats import Repeats, factors
from moesim.uncertainty.sources import Source
from moesim.uncertainty.spread import lognormal

SOURCES = tuple(Source("kernels", "unit", name, lognormal(1.5), "a test") for name in ("attention", "experts", "gemm"))


def repeats(count=200, **metrics):
    drawn = factors(3, SOURCES, count)
    noise = np.random.default_rng(5).standard_normal(count)
    values = {name: make(*drawn.T, noise) for name, make in metrics.items()}
    return Repeats(SOURCES, count, np.arange(count), np.arange(count), drawn, values)


def test_ends_are_percentiles():
    found = intervals(repeats(101, x=lambda a, e, g, noise: np.arange(101.0)[::-1]))
    assert found["metrics"]["x"] == [10.0, 90.0]
    assert (found["repeats"], found["asked"], found["level"]) == (101, 101, 0.8)
    ends = {"low": pytest.approx(1 / 1.5), "high": pytest.approx(1.5)}
    assert found["sources"]["kernels.unit.gemm"] == {**ends, "origin": "a test"}


def test_a_metric_that_no_repeat_defines_has_no_interval():
    found = intervals(
        repeats(x=lambda a, e, g, noise: np.full(len(a), np.nan), y=lambda a, e, g, noise: np.ones(len(a)))
    )
    assert found["metrics"] == {"x": [None, None], "y": [1.0, 1.0]}
    assert found["contributions"] == {}


def test_one_source_explains_what_it_alone_decides():
    found = intervals(repeats(x=lambda a, e, g, noise: e**3, y=lambda a, e, g, noise: 1 / e))["contributions"]
    for shares in found.values():
        assert shares["kernels.unit.experts"] == pytest.approx(1.0)
        assert shares[REST] == pytest.approx(0.0, abs=1e-9)


def test_shares_are_those_of_the_variance():
    """A sum of independent normal terms of standard deviations 3, 2 and 1 (noise): 9, 4 and 1 parts of 14."""

    def total(a, e, g, noise):
        sigma = np.log(1.5) / 1.2815516
        return (3 * np.log(e) + 2 * np.log(a)) / sigma + noise

    shares = intervals(repeats(2000, x=total))["contributions"]["x"]
    assert list(shares)[:2] == ["kernels.unit.experts", "kernels.unit.attention"]
    assert shares["kernels.unit.experts"] == pytest.approx(9 / 14, abs=0.04)
    assert shares["kernels.unit.attention"] == pytest.approx(4 / 14, abs=0.04)
    assert shares[REST] == pytest.approx(1 / 14, abs=0.04)
    assert sum(shares.values()) == pytest.approx(1.0)


def test_noise_is_laid_at_nobodys_door():
    shares = intervals(repeats(32, x=lambda a, e, g, noise: noise))["contributions"]["x"]
    assert shares == {REST: 1.0}


def test_the_table_has_a_row_per_repeat():
    table = repeat_columns(repeats(4, x=lambda a, e, g, noise: a))
    assert list(table) == ["repeat", "seed", *(f"factor.{source.label}" for source in SOURCES), "x"]
    np.testing.assert_array_equal(table["x"], table["factor.kernels.unit.attention"])
