"""Draws: stratified, and the same for whoever asks for the same."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.uncertainty.repeats import factors, seeds
from moesim.uncertainty.sources import Source
from moesim.uncertainty.spread import Spread, lognormal


def source(name: str, spread: Spread | None = None) -> Source:
    return Source("kernels", "unit", name, spread or lognormal(2.0), "a test")


@pytest.mark.parametrize("repeats", [2, 32, 100])
def test_one_draw_falls_into_every_part_of_the_distribution(repeats: int) -> None:
    from scipy.stats import norm

    drawn = factors(7, [source("gemm")], repeats)[:, 0]
    levels = norm.cdf(np.log(drawn) / np.log(2.0) * norm.ppf(0.9))
    assert sorted((levels * repeats).astype(int).tolist()) == list(range(repeats))


def test_a_source_draws_the_same_whatever_stands_beside_it() -> None:
    alone = factors(7, [source("gemm")], 32)[:, 0]
    beside = factors(7, [source("experts"), source("gemm")], 32)
    np.testing.assert_array_equal(alone, beside[:, 1])
    assert abs(np.corrcoef(np.log(beside), rowvar=False)[0, 1]) < 0.5
    assert (factors(8, [source("gemm")], 32)[:, 0] != alone).any()


def test_a_wider_spread_moves_the_same_draws_further() -> None:
    narrow, wide = (np.log(factors(7, [source("gemm", lognormal(f))], 32)[:, 0]) for f in (1.2, 1.2**2))
    np.testing.assert_allclose(wide, 2 * narrow)


def test_seeds_do_not_depend_on_how_many_there_are() -> None:
    assert seeds(7, 32)[:8].tolist() == seeds(7, 8).tolist()
    assert len(set(seeds(7, 1000).tolist())) == 1000
    assert not set(seeds(7, 100).tolist()) & set(seeds(8, 100).tolist())
