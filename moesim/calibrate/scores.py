"""How well the shipped coefficients predict the shapes that they were not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate import published
from moesim.calibrate.fits import expert_model
from moesim.calibrate.fitting import errors
from moesim.calibrate.measured import CollectiveGroup, ExpertGroup, collective_groups, expert_groups
from moesim.fabric.calibrated import collective_terms, expert_terms
from moesim.spec.calibration import CollectiveCalibration, CollectiveFit, ExpertFit, load_collective_calibrations
from moesim.spec.errors import MoesimError

FloatArray = NDArray[np.float64]

_DATABASE = "AIConfigurator database (NVIDIA, Apache-2.0)"


@dataclass(frozen=True)
class GroupScore:
    """One group's held-out error in percent. rejected: rows left out of the fit. reason: where it errs most."""

    name: str
    rows: int
    median: float
    p90: float
    rejected: int
    reason: str


@dataclass(frozen=True)
class Score:
    """One class of measurements. median, p90: medians over its groups of the groups' own, in percent; tolerance,
    p90_tolerance: what they must meet, None where they are only reported. status: all are predictions of held-out rows.
    """

    case: str
    source: str
    groups: tuple[GroupScore, ...]
    tolerance: float | None
    p90_tolerance: float | None
    status: str = "predicted"

    @property
    def median(self) -> float:
        return float(np.median([group.median for group in self.groups]))

    @property
    def p90(self) -> float:
        return float(np.median([group.p90 for group in self.groups]))

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)

    @property
    def met(self) -> bool:
        """Whether both medians keep their tolerance."""
        limits = ((self.median, self.tolerance), (self.p90, self.p90_tolerance))
        return all(limit is None or value <= limit for value, limit in limits)


def collective_scores(data: Path) -> list[Score]:
    """Errors of the shipped coefficients on the scored half of the measured shapes.

    NCCL on 2, 4 and 8 GPUs; the all-reduce kernels of serving engines; DeepEP within a node, over several, and on a
    device that was never fitted. The L40S is apart: its measurements fall into two branches, at times four times apart,
    for the same call.

    Raises:
        MoesimError: a table cannot be used, or a measured group has no coefficients.
    """
    calls = [(group, _score_collective(group)) for group in collective_groups(data)]
    kernels = [(group, _score_experts(group)) for group in expert_groups(data)]

    def collectives(chosen: Callable[[CollectiveGroup], bool]) -> tuple[GroupScore, ...]:
        return tuple(score for group, score in calls if chosen(group))

    def bimodal(group: CollectiveGroup) -> bool:
        return group.target.name == "l40s"

    def nccl(group: CollectiveGroup) -> bool:
        return group.library.startswith("nccl")

    within = tuple(score for group, score in kernels if not group.scattered)
    across = tuple(score for group, score in kernels if group.scattered)
    h800 = np.array([[each.predicted, each.published] for each in published.h800()]).T
    taken_over = GroupScore("h800-sxm, README", h800.shape[1], *errors(*h800), 0, "coefficients of the H100")
    return [
        Score("NCCL collectives", _DATABASE, collectives(lambda g: nccl(g) and not bimodal(g)), 6.0, 18.0),
        Score("all-reduce kernels", _DATABASE, collectives(lambda g: not nccl(g) and not bimodal(g)), 6.0, 18.0),
        Score("DeepEP within a node", _DATABASE, within, 6.0, 22.0),
        Score("DeepEP over nodes", _DATABASE, across, 6.0, 22.0),
        Score("DeepEP on H800", "DeepEP (github.com/deepseek-ai/DeepEP), README, 2025", (taken_over,), None, None),
        Score("collectives on L40S", _DATABASE, collectives(bimodal), None, None),
    ]


def worst(score: Score, count: int = 5) -> list[GroupScore]:
    """The groups with the largest P90."""
    return sorted(score.groups, key=lambda group: -group.p90)[:count]


def lines(scores: Iterable[Score]) -> list[str]:
    """A table of the classes, in plain text."""
    rows = [("class", "groups", "rows", "median", "P90", "must meet")]
    for score in scores:
        limit = f"{score.tolerance:g} / {score.p90_tolerance:g} %" if score.tolerance is not None else "-"
        counted = (str(len(score.groups)), str(score.rows))
        rows.append((score.case, *counted, f"{score.median:.1f} %", f"{score.p90:.1f} %", limit))
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width[i]) for i, cell in enumerate(row)).rstrip() for row in rows]


def _score_collective(group: CollectiveGroup) -> GroupScore:
    calibration = _calibration(group.target.name)
    fit = _find_collective(calibration, group)
    terms = collective_terms(fit)
    predicted = terms.seconds(group.operation, group.size, group.ranks, calibration.port)
    series = [f"{ranks:.0f} ranks" for ranks in group.ranks]
    return _group(group, predicted, series, group.size, _bytes)


def _score_experts(group: ExpertGroup) -> GroupScore:
    calibration = _calibration(group.target.name)
    fit = _find_experts(calibration, group)
    model = expert_model(group, calibration.port, calibration.nic or np.inf, calibration.units)
    predicted = model(vars(expert_terms(fit)), np.arange(len(group.tokens)))
    shapes = zip(group.ranks, group.hidden, group.top_k, group.experts, group.units, strict=True)
    series = [f"EP {r}, hidden {h:.0f}, top-{k} of {e}, {u:.0f} SMs" for r, h, k, e, u in shapes]
    return _group(group, predicted, series, group.tokens, lambda tokens: f"{tokens:,.0f} tokens")


def _group(
    group: CollectiveGroup | ExpertGroup,
    predicted: FloatArray,
    series: Sequence[str],
    size: FloatArray,
    written: Callable[[float], str],
) -> GroupScore:
    rows = np.flatnonzero(~group.fitted)
    median, p90 = errors(predicted[rows], group.seconds[rows])
    ratio = predicted[rows] / group.seconds[rows]
    largest = int(rows[int(np.argmax(np.abs(ratio - 1.0)))])
    off = (predicted[largest] / group.seconds[largest] - 1.0) * 100.0
    reason = f"{off:+.0f} % at {series[largest]}, {written(float(size[largest]))}"
    step = _step(series, size, group.seconds, series[largest])
    if step is not None and step[0] > STEP:
        reason += f"; measured there: x{step[0]:.1f} from {written(step[1])} to {written(step[2])}"
    return GroupScore(group.name, len(rows), median, p90, int(group.rejected.sum()), reason)


#: Times by which twice the size takes longer from which on it is a step: a change of protocol or algorithm.
STEP = 2.05


def _step(
    series: Sequence[str], size: FloatArray, seconds: FloatArray, wanted: str
) -> tuple[float, float, float] | None:
    """The steepest rise of a series relative to its sizes: (times per doubling, from, to)."""
    rows = np.array([i for i, each in enumerate(series) if each == wanted])
    rows = rows[np.argsort(size[rows], kind="stable")]
    if len(rows) < 2:
        return None
    doublings = np.log2(size[rows[1:]] / size[rows[:-1]])
    rise = (seconds[rows[1:]] / seconds[rows[:-1]]) ** (1.0 / doublings)
    at = int(np.argmax(rise))
    return float(rise[at]), float(size[rows[at]]), float(size[rows[at + 1]])


def _bytes(size: float) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:g} {unit}"
    return f"{size:g} B"


def _calibration(name: str) -> CollectiveCalibration:
    found = next((each for each in load_collective_calibrations() if each.name == name), None)
    if found is None:
        raise MoesimError(f"there is no calibration {name!r}", fix="python -m moesim.calibrate.collectives writes it")
    return found


def _find_collective(calibration: CollectiveCalibration, group: CollectiveGroup) -> CollectiveFit:
    wanted = (group.library, group.operation, group.element)
    for fit in calibration.collectives:
        if (fit.library, fit.operation, fit.element) == wanted:
            return fit
    raise _missing(group.name)


def _find_experts(calibration: CollectiveCalibration, group: ExpertGroup) -> ExpertFit:
    wanted = (group.library, group.mode, group.direction, group.scattered)
    for fit in calibration.experts:
        if (fit.library, fit.mode, fit.direction, fit.nodes != (1,)) == wanted:
            return fit
    raise _missing(group.name)


def _missing(name: str) -> MoesimError:
    return MoesimError(f"no coefficients are known for {name}", fix="python -m moesim.calibrate.collectives fits them")
