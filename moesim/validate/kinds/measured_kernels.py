"""Measured kernels: the error of the shipped terms on shapes that nothing was fitted to."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from moesim.calibrate.kernels.scores import KernelScore, Transfer, find_score, kernel_scores, transfers
from moesim.spec.errors import MoesimError
from moesim.validate.cases import Found, Setting, case


@case("measured_kernels")
def measured_kernels(setting: Setting, *, kernels: str, statistic: Literal["median", "p90"]) -> Found:
    """The absolute relative error over the held-out rows of a class of kernels: the median over its groups (a device,
    software stack, number format and implementation each) of their medians, or of their 90th percentiles; then the
    detail names the five worst groups, and where they err."""
    assert setting.data is not None
    score = find_score(_scores(setting.data), kernels)
    lines = [f"{len(score.groups)} groups" + (", the worst:" if statistic == "p90" else "")]
    if statistic == "p90":
        lines += [f"{each.name}: {each.median:.1f} / {each.p90:.1f} %, {each.reason}" for each in score.worst()]
    return Found(error=score.middle(statistic) / 100, rows=score.rows, detail="\n".join(lines))


@case("kernel_statistic")
def kernel_statistic(setting: Setting, *, kernels: str, statistic: Literal["rank", "covered", "width"]) -> Found:
    """Over the groups of a class, the median of the rank correlation of predicted and measured times; of the share of
    held-out rows within the 80 % interval; or of that interval's median width relative to the prediction."""
    assert setting.data is not None
    score = find_score(_scores(setting.data), kernels)
    return Found(round(score.middle(statistic), 4), rows=score.rows, detail=f"{len(score.groups)} groups")


@case("kernel_transfer")
def kernel_transfer(setting: Setting, *, architecture: Literal["same", "other"]) -> Found:
    """Measured kernels predicted by another device's terms with the rates of their own datasheet. Within an
    architecture: the median over the groups of their median error over that of their own terms. Across: the median
    over the groups of their median error."""
    assert setting.data is not None
    found = _transfers(setting.data, architecture == "same")
    if not found:
        raise MoesimError("no kernel was measured on two devices", fix="give the folder of all measured tables")
    measure = [each.median / each.own if architecture == "same" else each.median / 100 for each in found]
    last = found[int(np.argmax(measure))]
    detail = f"{len(found)} groups; farthest {last.name}: {last.median:.1f} % instead of {last.own:.1f} %"
    return Found(round(float(np.median(measure)), 4), rows=sum(each.rows for each in found), detail=detail)


@lru_cache(maxsize=2)
def _scores(data: Path) -> tuple[KernelScore, ...]:
    """The scores of a data folder, computed once for all cases."""
    return tuple(kernel_scores(data))


@lru_cache(maxsize=4)
def _transfers(data: Path, within: bool) -> tuple[Transfer, ...]:
    return tuple(transfers(data, within))
