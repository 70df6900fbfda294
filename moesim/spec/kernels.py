"""What was measured of kernels, as fitted terms: hardware/calibrations/kernels/DEVICE/STACK.yaml."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from moesim.spec.base import Descriptor, Schema
from moesim.spec.calibration import Count, Quantiles
from moesim.spec.complaints import validate
from moesim.spec.errors import MoesimError
from moesim.spec.library import builtin_root, did_you_mean
from moesim.spec.marked import read_yaml
from moesim.spec.units import parse

_FOLDER = Path("hardware") / "calibrations" / "kernels"


def _term(value: object) -> object:
    """Times carry a unit; shares, exponents and counts are numbers."""
    return parse(value, "second") if isinstance(value, str) else value


Term = Annotated[float, BeforeValidator(_term), Field(ge=0, allow_inf_nan=False)]


class KernelRecord(Schema):
    """How good a fit is.

    fitted, rejected, scored: measured points used, left out as outliers, and kept apart to score. median, p90: of the
    absolute relative error on the scored points, in percent; rank: their Spearman correlation. residuals: by regime, of
    points that the fit did not see (cross-validation within the fitted half, so that the scored half stays unseen).
    covered: share of the scored points between the outer percentiles of the residuals.
    """

    fitted: Count
    rejected: Count
    scored: Count
    median: Annotated[float, Field(ge=0)]
    p90: Annotated[float, Field(ge=0)]
    rank: Annotated[float, Field(ge=-1, le=1)]
    covered: Annotated[float, Field(ge=0, le=1)]
    residuals: dict[str, Quantiles] = {}


class KernelFit(Schema):
    """The terms of one kernel; their meaning and form: moesim.kernels.forms.

    kernel: name of the form. format: of weights and activations, as `bf16`, `fp8`, `fp8-block`, `nvfp4`.
    implementation: what was measured where a stack has several. range: smallest and largest measured value of each
    size, by name.
    """

    kernel: str
    format: str
    implementation: str = ""
    terms: dict[str, Term]
    range: dict[str, tuple[float, float]] = {}
    record: KernelRecord


class KernelCalibration(Descriptor):
    """What a device's kernels take in one software stack. devices: descriptors that the measurements speak for."""

    devices: tuple[str, ...]
    family: str
    stack: str
    kernels: tuple[KernelFit, ...] = ()


def calibrated_stacks(device: str) -> dict[str, Path]:
    """The calibrations of a folder's device by stack; one of the user's own folders (MOESIM_PATH) goes before ours."""
    return _stacks(device, os.environ.get("MOESIM_PATH", ""))


@lru_cache(maxsize=256)
def _stacks(device: str, search_path: str) -> dict[str, Path]:
    roots = [Path(entry).expanduser() for entry in search_path.split(os.pathsep) if entry]
    found: dict[str, Path] = {}
    for root in (*roots, builtin_root()):
        for path in sorted((root / _FOLDER / device).glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def calibrated_devices() -> tuple[str, ...]:
    """Names of the devices with a calibration, alphabetically."""
    roots = [Path(entry).expanduser() for entry in os.environ.get("MOESIM_PATH", "").split(os.pathsep) if entry]
    folders = {path.parent.name for root in (*roots, builtin_root()) for path in (root / _FOLDER).glob("*/*.yaml")}
    return tuple(sorted(folders))


def check_stacks(wanted: Iterable[str]) -> None:
    """Raises MoesimError: nothing was measured of one of these stacks, on any device."""
    known = sorted({stack for device in calibrated_devices() for stack in calibrated_stacks(device)})
    for place, name in enumerate(wanted):
        if not any(speaks_for(stack, name) for stack in known):
            names = sorted({stack.partition("-")[0] for stack in known} | set(known))
            fix = did_you_mean(name, names) or f"there are measurements of {', '.join(known)}"
            key = ("engine", "kernels", str(place))
            raise MoesimError(f"nothing was measured of the stack {name!r}", key=key, fix=fix)


def speaks_for(stack: str, wanted: str) -> bool:
    """Whether a stack such as `vllm-0.24.0` is meant by `vllm-0.24.0`, `vllm-0.24` or `vllm`."""
    return bool(wanted) and (stack == wanted or stack.startswith((f"{wanted}-", f"{wanted}.")))


@lru_cache(maxsize=64)
def load_kernel_calibration(path: Path) -> KernelCalibration:
    """Raises MoesimError: the file does not fit the schema."""
    return validate(KernelCalibration, read_yaml(path))


def version_order(name: str) -> tuple[int, ...]:
    """Of stacks and libraries: 1.3.0rc20 after 1.3.0rc9, 0.14.0 after 0.9.0; a release after its candidates."""
    numbers = tuple(int(each) for each in re.findall(r"\d+", name))
    return numbers if "rc" in name else (*numbers, 10**6)
