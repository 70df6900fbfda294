"""All measured kernels of a folder of tidy tables, and the calibrations that are fitted to them."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import moesim.calibrate.kernels as package
from moesim.calibrate.kernels.descriptors import FittedStack, text
from moesim.calibrate.kernels.fits import FittedKernel, fit_kernel
from moesim.calibrate.kernels.groups import KernelGroup
from moesim.calibrate.kernels.plausible import check_times
from moesim.calibrate.kernels.tables import TABLES, columns_of, descriptor_name, table_paths
from moesim.spec.errors import MoesimError, Where
from moesim.spec.hardware import DeviceSpec
from moesim.spec.library import did_you_mean, list_descriptors
from moesim.spec.loading import load_descriptor

if TYPE_CHECKING:
    import pandas as pd

#: Slices of the public tables that cannot be: (device, class, source) -> why.
IMPOSSIBLE = {
    ("a100_sxm", "attention_decode", "aic:trtllm-1.0.0"): "up to 1.6 times faster than the memory's bandwidth",
}

Reader = Callable[[Path], Iterator[KernelGroup]]


def readers() -> dict[str, Reader]:
    """The function `groups` of each module of this package that has one, by the module's name."""
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        loaded = importlib.import_module(f"{package.__name__}.{module.name}")
        if hasattr(loaded, "groups"):
            found[module.name] = loaded.groups
    return dict(sorted(found.items()))


@lru_cache(maxsize=1)
def all_groups(data: Path) -> tuple[KernelGroup, ...]:
    """The groups of every class that the folder has tables of, ordered by device and stack.

    Raises:
        MoesimError: there are no tables, or one of them cannot be used.
    """
    _require_tables(data)
    found = [group for read in readers().values() for group in read(data)]
    return tuple(sorted(found, key=lambda group: (group.device, group.stack)))


def _require_tables(data: Path) -> None:
    if not any(table_paths(data, kind) for kind in TABLES):
        fix = "tables are called gemm.csv, moe_NAME.csv, attention_decode_NAME.csv.gz, ..."
        raise MoesimError(f"there are no tables of measured kernels in {data}", fix=fix)


@dataclass(frozen=True)
class Contents:
    """What a folder's tables hold. origins: what stands before the colon of `source`, by device and stack.
    unknown: names of devices that the library does not know, whose rows are passed over."""

    origins: dict[tuple[str, str], set[str]]
    unknown: tuple[str, ...]

    def of(self, device: str, stack: str) -> tuple[str, ...]:
        """Origins of a device's stack; where a stack goes by another name than in the tables, all of the device."""
        exact = self.origins.get((device, stack), set())
        wide = {each for (name, _), found in self.origins.items() if name == device for each in found}
        return tuple(sorted(exact or wide))


def check_tables(data: Path) -> Contents:
    """Read every table, and refuse times that cannot be.

    Raises:
        MoesimError: a table lacks a column, its times cannot be right, or none of its devices is known.
    """
    _require_tables(data)
    origins: dict[tuple[str, str], set[str]] = {}
    unknown: set[str] = set()
    for kind in TABLES:
        for path in table_paths(data, kind):
            for (device, source), rows in sound_rows(path, kind).groupby(["device", "source"]):
                name = descriptor_name(str(device))
                if name is None:
                    unknown.add(str(device))
                    continue
                origin, _, stack = str(source).partition(":")
                origins.setdefault((name, stack), set()).add(origin)
                if (device, kind, source) not in IMPOSSIBLE:
                    check_times(rows, kind, load_descriptor("devices", name), Where(str(path)))
    if not origins:
        name = min(unknown, default="")
        fix = did_you_mean(name, list_descriptors("devices")) or "`moesim list devices` shows those that it knows"
        raise MoesimError(f"the library knows no device {name!r}", where=Where(str(data)), fix=fix)
    return Contents(origins, tuple(sorted(unknown)))


def sound_rows(path: Path, kind: str) -> pd.DataFrame:
    """Rows of a table whose sizes and times are positive numbers; what to do with others, each class decides."""
    import pandas as pd

    table = columns_of(path, kind)
    sizes = [*TABLES[kind], "latency_us"]
    table = table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in sizes})
    values = table[sizes].to_numpy(np.float64)
    sound: pd.DataFrame = table.loc[(np.isfinite(values) & (values >= 0)).all(axis=1)]
    return sound


@dataclass(frozen=True)
class LeftOut:
    """A group that could not be fitted, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Calibrated:
    """One device and stack after its fit. path: the descriptor that was written."""

    fitted: FittedStack
    left_out: tuple[LeftOut, ...]
    path: Path


def calibrate(
    data: Path, out: Path, devices: Collection[str] = (), progress: Callable[[str], None] = lambda _: None
) -> Iterator[Calibrated]:  # fmt: skip
    """Fit a folder's tables and write OUT/DEVICE/STACK.yaml, one after the other, each when it is complete.

    Args:
        devices: to fit, by descriptor; none: all that were measured. progress: called with what is fitted next.

    Raises:
        MoesimError: a table cannot be used, a device was not measured or is a CPU, or nothing could be fitted to.
    """
    contents = check_tables(data)
    _refuse_cpus(data, sorted({name for name, _ in contents.origins if not devices or name in devices}))
    groups = all_groups(data)
    if not groups:
        raise MoesimError(f"{data} holds too few measurements of any kernel", fix="measure a hundred sizes of one")
    measured = sorted({group.device for group in groups})
    for name in devices:
        if name not in measured:
            fix = did_you_mean(name, measured) or f"measured are {', '.join(measured)}"
            raise MoesimError(f"there are no measurements of {name!r} in {data}", fix=fix)
    wanted = [group for group in groups if not devices or group.device in devices]
    found, last = False, ""
    for (device, stack), part in groupby(wanted, key=lambda group: (group.device, group.stack)):
        kernels, left_out = _fit(list(part), progress)
        if kernels:
            spec: DeviceSpec = load_descriptor("devices", device)
            fitted = FittedStack(device, spec.family, stack, contents.of(device, stack), kernels)
            yield Calibrated(fitted, left_out, _write(out / device / f"{stack}.yaml", text(fitted)))
            found = True
        last = left_out[-1].reason if left_out else last
    if not found:
        raise MoesimError(last or f"{data} holds too few measurements", fix="measure more sizes")


def _refuse_cpus(data: Path, devices: Iterable[str]) -> None:
    """The forms of the classes are a GPU's: of tiles, waves and launches, whose terms mean nothing on a CPU."""
    for name in devices:
        spec: DeviceSpec = load_descriptor("devices", name)
        if spec.kind == "cpu":
            fix = f"`moesim calibrate steps {data}` fits a CPU's kernels, and predicts whole steps with them"
            raise MoesimError(f"the kernels of {name} in {data} are a CPU's, only a GPU's can be fitted", fix=fix)


def _fit(
    groups: list[KernelGroup], progress: Callable[[str], None]
) -> tuple[list[tuple[KernelGroup, FittedKernel]], tuple[LeftOut, ...]]:
    kernels, left_out = [], []
    for group in groups:
        progress(group.name)
        try:
            kernels.append((group, fit_kernel(group)))
        except MoesimError as few:
            left_out.append(LeftOut(group.name, few.what))
    return kernels, tuple(left_out)


def _write(path: Path, content: str) -> Path:
    """Whole or not at all: an interruption leaves the old file, or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(content, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise MoesimError(f"cannot write {path}: {error.strerror}") from None
    return path
