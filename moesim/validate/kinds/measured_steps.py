"""Whole layers and steps of machines that we measured: how far sums of fitted kernels are off."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from moesim.calibrate.whole_steps import StepReport, error_percentiles, measured_folder, whole_steps
from moesim.spec.errors import MoesimError
from moesim.validate.cases import Found, Setting, case


@case("measured_steps")
def measured_steps(setting: Setting, *, machine: str, steps: str, statistic: Literal["median", "p90"]) -> Found:
    """The absolute relative error over measured layers or steps (`moe layer, decode`, ..., or `all`) of a machine,
    which are predicted from kernels alone: nothing is fitted to any of them."""
    groups = _report(machine).groups()
    if steps not in groups:
        raise MoesimError(f"{machine} has no steps called {steps!r}", fix=f"choose one of {'; '.join(groups)}")
    error = error_percentiles(groups[steps])[("median", "p90").index(statistic)]
    return Found(error=error / 100, rows=len(groups[steps]))


@lru_cache(maxsize=4)
def _report(machine: str) -> StepReport:
    """The kernels of a machine fitted and its steps predicted, once for all cases."""
    return whole_steps(measured_folder(machine))
