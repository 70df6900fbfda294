"""What figures and reports are made of: runs, and the points of sweeps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.results.folder import MANIFEST, Results, load
from moesim.results.metrics import numbers
from moesim.spec.errors import MoesimError, Where
from moesim.spec.marked import display

if TYPE_CHECKING:
    import pandas as pd

#: The table in the folder of a sweep or search, and what was asked for.
POINTS, STUDY = "points.parquet", "study.yaml"
#: Columns of a sweep's table that are neither axes nor metrics.
_ABOUT = ("point", "repeat", "status", "reason", "fidelity", "front", "hypervolume")


@dataclass(frozen=True)
class Sweep:
    """The points of a sweep: a row per point that ran, with the axes and metrics as columns; `low` and `high`, the 10th
    and 90th percentile of each metric over its repeats, where there are any. `points` has the others too. documents:
    texts of the study and of what it was made with, where they lie beside the table."""

    label: str
    axes: tuple[str, ...]
    metrics: tuple[str, ...]
    points: pd.DataFrame
    ran: pd.DataFrame
    low: pd.DataFrame | None = None
    high: pd.DataFrame | None = None
    documents: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sources:
    """Runs by label, sweeps, routing traces, and tables of what parameters change (for the tornado)."""

    runs: Mapping[str, Results]
    sweeps: tuple[Sweep, ...] = ()
    traces: tuple[Path, ...] = ()
    changes: tuple[tuple[str, pd.DataFrame], ...] = ()

    @cached_property
    def loads(self) -> list[dict[str, Any]]:
        """A row per load: of each run (each stage, where it has several) and each point of a sweep, `series`, `point`,
        `load` in requests per second, the metrics, and their intervals in METRIC.low and METRIC.high."""
        return [*_run_loads(self.runs), *(row for sweep in self.sweeps for row in _sweep_loads(sweep))]


def open_sources(paths: Sequence[Path]) -> Sources:
    """Results folders (or a folder of several), the tables of sweeps (or their folders), routing traces, tables of
    changes.

    Raises:
        MoesimError: a path is none of these, or cannot be read.
    """
    runs: list[tuple[Path, Results]] = []
    sweeps: list[Sweep] = []
    traces: list[Path] = []
    changes: list[tuple[str, pd.DataFrame]] = []
    for path in chain.from_iterable(map(_folders, paths)):
        if not path.exists() or ((path / MANIFEST).is_file() and not (path / POINTS).is_file()):
            runs.append((path, load(path)))
            continue
        for file in _tables(path):
            table = _read(file)
            columns = set(table.columns)
            if {"point", "status"} <= columns:
                sweep = _sweep(file.stem if path.is_file() else path.resolve().name, table)
                sweeps.append(replace(sweep, documents=_documents(file.parent)))
            elif {"parameter", "low", "high"} <= columns:
                changes.append((file.stem, table))
            elif {"request", "position", "layer", "e0"} <= columns:
                traces.append(file)
            elif file == path:
                raise _unknown(path)
    found = Sources(_labelled(runs), tuple(sweeps), tuple(traces), tuple(changes))
    if paths and not (found.runs or sweeps or traces or changes):
        raise _unknown(paths[0])
    return found


def _folders(path: Path) -> list[Path]:
    """The results below a folder that holds none itself, else the path."""
    if not path.is_dir() or (path / MANIFEST).is_file() or _tables(path):
        return [path]
    return sorted(each.parent for each in path.glob(f"*/{MANIFEST}")) or [path]


def _documents(folder: Path) -> dict[str, str]:
    paths = [folder / name for name in (STUDY, MANIFEST)]
    return {path.name: path.read_text(encoding="utf-8") for path in paths if path.is_file()}


def _unknown(path: Path) -> MoesimError:
    what = f"{display(path)} holds no results of a run and no table of a sweep"
    return MoesimError(what, fix="give results folders, Parquet tables of sweeps, or routing traces")


def _tables(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted([*path.glob("*.parquet"), *path.glob("*.csv")])
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise _unknown(path)
    return [path]


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    try:
        if path.suffix.lower() == ".csv":
            return pd.read_csv(path)
        import pyarrow.parquet as pq

        table: pd.DataFrame = pq.read_table(path).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise MoesimError(f"cannot be read: {str(error).splitlines()[0]}", where=Where(display(path))) from None
    return table


def _labelled(runs: Sequence[tuple[Path, Results]]) -> dict[str, Results]:
    """By their names; those that share one by their folders, then by their paths, then by number."""
    names = [results.name for _, results in runs]
    for other in ([path.name or str(path) for path, _ in runs], [str(path) for path, _ in runs]):
        names = [new if names.count(old) > 1 else old for old, new in zip(names, other, strict=True)]
    found: dict[str, Results] = {}
    for name, (_, results) in zip(names, runs, strict=True):
        number = 2
        label = name
        while label in found:
            label, number = f"{name} ({number})", number + 1
        found[label] = results
    return found


def _sweep(label: str, table: pd.DataFrame) -> Sweep:
    columns = list(table.columns)
    before = columns[: columns.index("status")]
    axes = tuple(name for name in before if name not in _ABOUT)
    metrics = tuple(name for name in columns[columns.index("status") :] if name not in _ABOUT)
    metrics = tuple(name for name in metrics if table[name].dtype.kind in "fiu")
    first = table[table["repeat"] == 0] if "repeat" in table else table
    whole = (first["status"] == "ok") & (first["fidelity"].to_numpy() == 1 if "fidelity" in first else True)
    ran = first[whole].reset_index(drop=True)  # a search stops trials that promise little at fewer requests
    low = high = None
    if "repeat" in table:
        repeats = table[(table["repeat"] > 0) & (table["status"] == "ok")].groupby("point")[list(metrics)]
        low, high = (repeats.quantile(level).reindex(ran["point"]).reset_index(drop=True) for level in (0.1, 0.9))
    return Sweep(label, axes, metrics, first.reset_index(drop=True), ran, low, high)


def _run_loads(runs: Mapping[str, Results]) -> Iterator[dict[str, Any]]:
    names = _series(runs)
    for label, results in runs.items():
        stages = results.summary.get("stages", [])
        if len(stages) > 1:
            for stage in stages:
                seconds = max(stage["end"] - stage["begin"], 1e-12)
                point = f"{label} stage {stage['stage']}"
                yield {"series": names[label], "point": point, "load": stage["total"] / seconds, **numbers(stage)}
            continue
        metrics = numbers(results.summary)
        ends = results.summary.get("intervals", {}).get("metrics", {})
        limits = {f"{name}.{end}": pair[i] for name, pair in ends.items() for i, end in enumerate(("low", "high"))}
        yield {"series": names[label], "point": label, "load": _offered(results), **metrics, **limits}


def _offered(results: Results) -> float:
    """Requests sent per second: n - 1 gaps between n arrivals; none by a training step."""
    if results.trains:
        return float("nan")
    arrival = results.requests["arrival"].to_numpy(dtype=float)
    span = float(arrival.max() - arrival.min()) if len(arrival) else 0.0
    return (len(arrival) - 1) / span if span > 0 else float("nan")


#: What two runs may differ in and still be points of one curve.
_LOAD = ("requests", "name", "description", "seed", "slo")


def _series(runs: Mapping[str, Results]) -> dict[str, str]:
    """A name for the curve of each run: runs that differ in nothing but the load share one, that of the first."""
    keys: dict[str, str] = {}
    found = {}
    for label, results in runs.items():
        system = repr({key: value for key, value in results.spec.items() if key not in _LOAD})
        found[label] = keys.setdefault(system, label)
    return found


def _sweep_loads(sweep: Sweep) -> Iterator[dict[str, Any]]:
    load_axis = next((axis for axis in sweep.axes if re.search(r"\brate\b|concurrency", axis)), None)
    others = [axis for axis in sweep.axes if axis != load_axis and sweep.ran[axis].nunique() > 1]
    for index, row in enumerate(sweep.ran.to_dict("records")):
        series = ", ".join(f"{axis.rpartition('.')[2]} {row[axis]}" for axis in others) or sweep.label
        load = float("nan") if load_axis is None else _number(row[load_axis])
        limits = {}
        if sweep.low is not None and sweep.high is not None:
            for name in sweep.metrics:
                limits[f"{name}.low"], limits[f"{name}.high"] = sweep.low[name][index], sweep.high[name][index]
        about = {"series": series, "point": str(row["point"]), "load": load}
        yield about | {name: row[name] for name in sweep.metrics} | limits


def _number(value: object) -> float:
    """10.0 of '10 requests/s' or of 10."""
    match = re.match(r"\s*([\d.]+(?:[eE][+-]?\d+)?)", str(value))
    return float(match[1]) if match else float("nan")
