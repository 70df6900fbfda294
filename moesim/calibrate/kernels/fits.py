"""Fits of one group: terms from the fitted half of its shapes, errors on the other half."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.fitting import Parameter, Values, errors, fit, quantiles, unseen_residuals
from moesim.calibrate.kernels.groups import KernelGroup
from moesim.kernels.forms import Times, find_form, make_form
from moesim.kernels.shapes import rows_of
from moesim.spec.errors import MoesimError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Rows that a fit looks at; more change its terms by less than their rounding and take longer.
MOST_ROWS = 1500

#: A fit ends when a step gains less of its loss: far below what a term's rounding changes.
TOLERANCE = 1e-5

#: Relative error from which on a point counts linearly. Below that of collectives: libraries choose among kernels, and
#: the next shape's may be another, so that errors have long tails.
SCALE = 0.03

#: A regime with fewer unseen points keeps no residuals of its own.
FEWEST_RESIDUALS = 20


@dataclass(frozen=True)
class FittedKernel:
    """Terms, and how good they are: see moesim.spec.kernels.KernelRecord. errors: (median, p90) in percent."""

    values: Values
    fitted: int
    rejected: int
    scored: int
    errors: tuple[float, float]
    rank: float
    residuals: dict[str, tuple[float, ...]]
    covered: float


def predict(group: KernelGroup, values: Values, rows: IntArray) -> Times:
    """Times of some of a group's rows from terms."""
    return make_form(group.kernel, values).times(rows_of(group.shape, rows), group.rates)


def fit_kernel(group: KernelGroup) -> FittedKernel:
    """The terms of a group, from the fitted half of its shapes, and their errors on the other half.

    Raises:
        MoesimError: there are too few measurements.
    """
    rows = np.flatnonzero(group.fitted & ~group.rejected)
    apart = np.flatnonzero(~group.fitted)
    needed = 2 * len(group.parameters)
    if len(rows) < needed or not len(apart):
        what = f"{group.name}: {len(rows)} points to fit {len(group.parameters)} terms to"
        raise MoesimError(what, fix=f"measure at least {2 * needed}, half of which are fitted")

    constants = _constants(group)

    def model(values: Values, chosen: IntArray) -> FloatArray:
        return predict(group, {**constants, **values}, chosen).seconds

    used = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).astype(np.int64)]
    values = constants | fit(model, group.parameters, group.seconds, used, TOLERANCE, SCALE)
    near = [_started(parameter, values[parameter.name]) for parameter in group.parameters]
    unseen = unseen_residuals(model, near, group.seconds, used, group.split, TOLERANCE, SCALE)
    regime = regimes(predict(group, values, used))
    residuals = {"all": quantiles(unseen)}
    for name in np.unique(regime).tolist():
        if (regime == name).sum() >= FEWEST_RESIDUALS:
            residuals[name] = quantiles(unseen[regime == name])
    scored = predict(group, values, apart)
    ratio = group.seconds[apart] / scored.seconds
    bounds = np.array([residuals.get(name, residuals["all"])[:: len(residuals["all"]) - 1] for name in regimes(scored)])
    return FittedKernel(
        values=values,
        fitted=len(used),
        rejected=int((group.fitted & group.rejected).sum()),
        scored=len(apart),
        errors=errors(scored.seconds, group.seconds[apart]),
        rank=rank_correlation(scored.seconds, group.seconds[apart]),
        residuals=residuals,
        covered=float(((ratio >= bounds[:, 0]) & (ratio <= bounds[:, 1])).mean()),
    )


def _constants(group: KernelGroup) -> dict[str, float]:
    """The terms of the group's form that are not fitted."""
    return {each.name: each.default for each in fields(find_form(group.kernel)) if each.default is not MISSING}


def _started(parameter: Parameter, value: float) -> Parameter:
    """The parameter, searched from one value, where it is inside its bounds: folds differ little from the whole. Not so
    one that is pulled towards its start by more than a trifle: the pull would tell a fold of the rows kept apart."""
    if type(parameter) is not Parameter:
        return parameter
    margin = 1e-3 * (parameter.high - parameter.low)
    return replace(parameter, starts=(float(np.clip(value, parameter.low + margin, parameter.high - margin)),))


def regimes(times: Times) -> NDArray[np.str_]:
    """What the calls spend most of their time on: overhead ("latency"), "compute" or "memory"."""
    busy = np.maximum(times.compute, times.memory)
    bound = np.where(times.compute > times.memory, "compute", "memory")
    return np.where(busy < times.seconds / 2, "latency", bound)


def rank_correlation(predicted: FloatArray, measured: FloatArray) -> float:
    """Spearman's rho."""
    from scipy.stats import spearmanr

    return float(spearmanr(predicted, measured).statistic)
