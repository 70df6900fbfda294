"""Least squares on the log of measured over predicted time, outliers, and residuals of unseen points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.split import folds

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Values = Mapping[str, float]

#: Relative error from which on a point counts linearly (soft L1): single bad measurements do not bend a fit.
OUTLIER_SCALE = 0.1

#: Weight of the pull of each coefficient towards its start, so that data which says nothing about one leaves it there.
PULL = 0.02

#: A point is rejected that takes so many times longer than one of two to four times the size: time grows with size.
TOO_SLOW = 1.25

#: Percentiles of the residuals that are kept.
PERCENTILES = (10, 25, 50, 75, 90)

FOLDS = 4


@dataclass(frozen=True)
class Parameter:
    """One coefficient: its name, where the search starts (several: one fit from each), and its bounds.

    It is searched on a log scale, unless `linear`.
    """

    name: str
    starts: tuple[float, ...]
    low: float
    high: float
    linear: bool = False

    def inward(self, value: float) -> float:
        return value if self.linear else float(np.log(value))

    def outward(self, value: float) -> float:
        return float(value) if self.linear else float(np.exp(value))


#: Predicted seconds of the rows chosen, from coefficients.
Model = Callable[[Values, NDArray[np.int64]], FloatArray]


def fit(
    model: Model,
    parameters: Sequence[Parameter],
    measured: FloatArray,
    rows: NDArray[np.int64],
    tolerance: float = 1e-8,
    scale: float = OUTLIER_SCALE,
) -> dict[str, float]:
    """The coefficients that predict the measured seconds of `rows` best.

    Soft-L1 loss on log(predicted / measured), linear from `scale` on, trust region reflective from every combination of
    starts, until a step gains less than the share `tolerance` of the loss.
    """
    from scipy.optimize import least_squares

    bounds = ([p.inward(p.low) for p in parameters], [p.inward(p.high) for p in parameters])
    goal = np.log(measured[rows])
    best: tuple[float, FloatArray] | None = None
    for start in product(*(p.starts for p in parameters)):
        first = np.array([p.inward(value) for p, value in zip(parameters, start, strict=True)])

        def residuals(point: FloatArray, first: FloatArray = first) -> FloatArray:
            predicted = model(_values(parameters, point), rows)
            return np.concatenate([np.log(predicted) - goal, PULL * (point - first)])

        found = least_squares(
            residuals, first, bounds=bounds, loss="soft_l1", f_scale=scale, ftol=tolerance, xtol=tolerance
        )
        if best is None or found.cost < best[0]:
            best = (float(found.cost), found.x)
    assert best is not None
    return {name: rounded(value) for name, value in _values(parameters, best[1]).items()}


def _values(parameters: Sequence[Parameter], point: FloatArray) -> dict[str, float]:
    return {p.name: p.outward(value) for p, value in zip(parameters, point, strict=True)}


def rounded(value: float) -> float:
    """Four significant digits, as descriptors hold: what is scored is what is shipped."""
    return float(f"{value:.4g}")


def unseen_residuals(
    model: Model,
    parameters: Sequence[Parameter],
    measured: FloatArray,
    rows: NDArray[np.int64],
    shapes: Sequence[str],
    tolerance: float = 1e-8,
    scale: float = OUTLIER_SCALE,
) -> FloatArray:
    """[rows] measured over predicted time, each by a fit to the other folds of the fitted half."""
    fold = folds([shapes[row] for row in rows], FOLDS)
    ratio = np.ones(len(rows))
    for number in range(FOLDS):
        apart = fold == number
        if apart.any() and not apart.all():
            values = fit(model, parameters, measured, rows[~apart], tolerance, scale)
            ratio[apart] = measured[rows[apart]] / model(values, rows[apart])
    return ratio


def outliers(series: Sequence[str], size: FloatArray, seconds: FloatArray) -> BoolArray:
    """[rows] points that cannot be right: 1.25 times slower than one of two to four times the size in its series."""
    bad = np.zeros(len(size), dtype=bool)
    labels = np.asarray(series)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        ratio = size[rows][None, :] / size[rows][:, None]
        larger = (ratio > 1.0) & (ratio <= 4.0)
        bad[rows] = (larger & (seconds[rows][:, None] > TOO_SLOW * seconds[rows][None, :])).any(axis=1)
    return bad


def quantiles(ratio: FloatArray) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in np.percentile(ratio, PERCENTILES))


def errors(predicted: FloatArray, measured: FloatArray) -> tuple[float, float]:
    """Median and 90th percentile of the absolute relative error, in percent."""
    percent = np.abs(predicted / measured - 1.0) * 100.0
    return float(np.median(percent)), float(np.percentile(percent, 90))
