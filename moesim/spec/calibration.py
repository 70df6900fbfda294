"""What was measured of communication libraries, as fitted coefficients: hardware/calibrations/collectives/*.yaml."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from moesim.spec.base import Descriptor, Schema
from moesim.spec.complaints import validate
from moesim.spec.library import builtin_root
from moesim.spec.marked import read_yaml
from moesim.spec.units import BytesPerSecond, Seconds

Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]

#: Measured over predicted time at the 10th, 25th, 50th, 75th and 90th percentile.
Quantiles = tuple[Positive, Positive, Positive, Positive, Positive]

CollectiveName = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]

_FOLDER = Path("hardware") / "calibrations" / "collectives"


class FitRecord(Schema):
    """How good a fit is.

    fitted, rejected, scored: measured points used, left out as outliers, and kept apart to score. median, p90: of the
    absolute relative error on the scored points, in percent. residuals: by regime, of points that the fit did not see
    (cross-validation within the fitted half, so that the scored half stays unseen). covered: share of the scored points
    between the outer percentiles of the residuals.
    """

    fitted: Count
    rejected: Count
    scored: Count
    median: Annotated[float, Field(ge=0)]
    p90: Annotated[float, Field(ge=0)]
    covered: Annotated[float, Field(ge=0, le=1)]
    residuals: dict[Literal["latency", "ramp", "bandwidth"], Quantiles] = {}


class CollectiveFit(Schema):
    """The terms of one operation of one library; their meaning and form: moesim.fabric.protocol.

    element: bytes per element. ranks: group sizes that were measured.
    """

    library: str
    operation: CollectiveName
    element: Literal[1, 2]
    ranks: tuple[int, ...]
    launch: Seconds
    round: Seconds
    efficiency: Share
    local: Positive | None = None
    ramp: Seconds = 0.0
    exponent: Annotated[float, Field(gt=0, le=1)] = 0.5
    contention: Annotated[float, Field(ge=0, le=1)] = 0.0
    direct: Share | None = None
    staging: Seconds = 0.0
    in_switch: Share | None = None
    switch_ranks: Annotated[int, Field(ge=2)] = 8
    record: FitRecord


class ExpertFit(Schema):
    """The terms of one kernel that dispatches to or combines from experts; form: moesim.fabric.expert_protocol.

    nodes: spans that were measured; one node, or several.
    """

    library: str
    mode: Literal["normal", "low_latency"]
    direction: Literal["dispatch", "combine"]
    nodes: tuple[int, ...]
    launch: Seconds
    efficiency: Share
    expert: Seconds = 0.0
    message: BytesPerSecond | None = None
    hop: Seconds = 0.0
    fill: Seconds = 0.0
    fill_tokens: Positive = 1.0
    out_efficiency: Share = 1.0
    copy_time: Seconds = 0.0
    copy_rate: BytesPerSecond | None = None
    token_time: Seconds = 0.0
    token_rate: BytesPerSecond | None = None
    sharpness: Annotated[float, Field(ge=1)]
    record: FitRecord


class CollectiveCalibration(Descriptor):
    """What a device's libraries were measured to take.

    devices: descriptors of the devices that the measurements speak for. link, port: the port in use, bytes/s per
    direction. nic: the scale-out port's. units: SMs, CUs, cores.
    """

    devices: tuple[str, ...]
    family: str
    link: str
    port: BytesPerSecond
    nic: BytesPerSecond | None = None
    units: Annotated[int, Field(gt=0)]
    collectives: tuple[CollectiveFit, ...] = ()
    experts: tuple[ExpertFit, ...] = ()


def load_collective_calibrations(
    link: str | None = None, device: str | None = None
) -> tuple[CollectiveCalibration, ...]:
    """Every calibration by name; one of the user's own folders (MOESIM_PATH) goes before ours of the same name.

    Args:
        link, device: only those of this link, and of this device; the others are not read beyond the line that says
            so.

    Raises:
        MoesimError: a file does not fit the schema.
    """
    files = _files(os.environ.get("MOESIM_PATH", ""))
    wanted = {key: value for key, value in (("link", link), ("devices", device)) if value is not None}
    found = (_load(path) for path in files if _may_speak_of(path, wanted))
    return tuple(each for each in found if link in (None, each.link) and (device is None or device in each.devices))


def _files(search_path: str) -> list[Path]:
    roots = [Path(entry).expanduser() for entry in search_path.split(os.pathsep) if entry]
    files: dict[str, Path] = {}
    for root in (*roots, builtin_root()):
        for path in sorted((root / _FOLDER).glob("*.yaml")):
            files.setdefault(path.stem, path)
    return [path for _, path in sorted(files.items())]


@lru_cache(maxsize=64)
def _load(path: Path) -> CollectiveCalibration:
    return validate(CollectiveCalibration, read_yaml(path))


def _may_speak_of(path: Path, wanted: dict[str, str]) -> bool:
    """False where a line says that it is of something else: reading a whole file takes its time."""
    if not wanted:
        return True
    text = path.read_text(encoding="utf-8")
    for key, value in wanted.items():
        said = re.search(rf"^{key}:[ \t]*(\S.*)$", text, flags=re.MULTILINE)
        if said is not None and value not in re.findall(r"[\w.-]+", said.group(1)):
            return False
    return True
