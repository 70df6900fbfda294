"""Measured collectives and expert exchanges: the error of shapes that nothing was fitted to."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from moesim.calibrate.scores import Score, collective_scores, worst
from moesim.spec.errors import MoesimError
from moesim.validate.cases import Found, Setting, case


@case("measured_collectives")
def measured_collectives(
    setting: Setting, *, measurements: str, statistic: Literal["median", "p90"], group: str | None = None
) -> Found:
    """The absolute relative error over the held-out rows of a class of measurements: the median over its groups (a
    device, library, operation and dtype each) of their medians, or of their 90th percentiles.

    Args:
        group: of this group alone.
    """
    assert setting.data is not None
    scores = _scores(setting.data)
    if measurements not in scores:
        raise MoesimError(f"no measurements are called {measurements!r}", fix=f"choose one of {', '.join(scores)}")
    score = scores[measurements]
    if group is None:
        error = score.median if statistic == "median" else score.p90
        last = worst(score, 1)[0]
        return Found(error=error / 100, rows=score.rows, detail=f"{len(score.groups)} groups; worst {last.name}")
    found = next((each for each in score.groups if each.name == group), None)
    if found is None:
        raise MoesimError(f"{measurements} have no group {group!r}")
    error = found.median if statistic == "median" else found.p90
    return Found(error=error / 100, rows=found.rows, detail=found.reason)


@lru_cache(maxsize=2)
def _scores(data: Path) -> dict[str, Score]:
    """The scores of a data folder, computed once for all cases."""
    return {score.case: score for score in collective_scores(data)}
