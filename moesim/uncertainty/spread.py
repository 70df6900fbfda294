"""How measured times scatter about predicted ones, and numbers drawn from that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from moesim.spec.calibration import Quantiles

FloatArray = NDArray[np.float64]

_NORMAL = NormalDist()
#: Standard normal scores of the quantiles that a fit keeps of its residuals.
_SCORES = np.array([_NORMAL.inv_cdf(level) for level in (0.10, 0.25, 0.50, 0.75, 0.90)])


@dataclass(frozen=True)
class Spread:
    """Measured over predicted time at the 10th, 25th, 50th, 75th and 90th percentile.

    Its logarithm runs straight between these points over the normal score, and as straight beyond the outer two: a
    lognormal spread is met exactly, and so are the five points of any other.
    """

    quantiles: Quantiles

    def scales(self, scores: FloatArray) -> FloatArray:
        """Factors at standard normal `scores`; the same shape."""
        logs = np.log(self.quantiles)
        found = np.interp(scores, _SCORES, logs)
        for edge, inner, outside in ((0, 1, scores < _SCORES[0]), (-1, -2, scores > _SCORES[-1])):
            slope = (logs[edge] - logs[inner]) / (_SCORES[edge] - _SCORES[inner])
            found = np.where(outside, logs[edge] + slope * (scores - _SCORES[edge]), found)
        scales: FloatArray = np.exp(found)
        return scales

    def stretched(self, factor: float) -> Spread:
        """The same median; the logarithms of the other quantiles are `factor` times as far from it."""
        middle = self.quantiles[2]
        stretched = [middle * (each / middle) ** factor for each in self.quantiles]
        return Spread((stretched[0], stretched[1], stretched[2], stretched[3], stretched[4]))


def lognormal(factor: float) -> Spread:
    """The lognormal spread of median 1 of which 80 % lies between 1 / `factor` and `factor`."""
    logs = _SCORES / _SCORES[-1] * math.log(factor)
    found = [math.exp(each) for each in logs]
    return Spread((found[0], found[1], found[2], found[3], found[4]))


def of_residuals(residuals: Mapping[str, Quantiles]) -> Spread | None:
    """The spread that a fit's record gives: over all its points, else the mean over its regimes (of the logarithms);
    None where it gives none."""
    if "all" in residuals:
        return Spread(residuals["all"])
    return blended(list(residuals.values()))


def blended(quantiles: Sequence[Quantiles]) -> Spread | None:
    """The mean of several spreads' logarithms, quantile by quantile."""
    if not quantiles:
        return None
    found = np.exp(np.log(np.array(quantiles)).mean(axis=0)).tolist()
    return Spread((found[0], found[1], found[2], found[3], found[4]))


def scores(levels: FloatArray) -> FloatArray:
    """Standard normal scores of levels between 0 and 1."""
    within = np.clip(levels, 1e-12, 1 - 1e-12)
    return np.array([_NORMAL.inv_cdf(level) for level in within.tolist()])
