"""The results folder: written whole or not at all, and loaded again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from moesim.engine.record import RunRecord
from moesim.results.metrics import summarise
from moesim.results.provenance import FORMAT
from moesim.results.tables import REPEATS, TABLES, Columns, all_columns, frame, read_parquet, write_parquet
from moesim.spec.errors import MoesimError, Where
from moesim.spec.serving import SloSpec

if TYPE_CHECKING:
    import pandas as pd

MANIFEST, SUMMARY, SPEC = "manifest.json", "summary.json", "spec.yaml"


def table_names(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """The tables of a run: those of a serving run, or those that its manifest names."""
    return tuple(manifest.get("tables", TABLES))


@dataclass(frozen=True, repr=False)
class Results:
    """A run's results. The tables are pandas DataFrames, read when first asked for (times in seconds).

    spec: the resolved experiment. manifest: versions, seed, options, wall times. summary: see `metrics.summarise`.
    """

    spec: dict[str, Any]
    manifest: dict[str, Any]
    summary: dict[str, Any]
    read: Callable[[str], pd.DataFrame]
    path: Path | None = None
    _tables: dict[str, pd.DataFrame] = field(default_factory=dict, compare=False)

    def table(self, name: str) -> pd.DataFrame:
        """One of `tables.TABLES`, or `tables.REPEATS` where the run was repeated.

        Raises:
            MoesimError: it was not.
        """
        if name not in self.tables and name in TABLES:
            raise MoesimError(f"a training step has no {name}", fix=f"its tables are {', '.join(self.tables)}")
        if name not in self._tables:
            self._tables[name] = self.read(name)
        return self._tables[name]

    @property
    def requests(self) -> pd.DataFrame:
        return self.table("requests")

    @property
    def iterations(self) -> pd.DataFrame:
        return self.table("iterations")

    @property
    def devices(self) -> pd.DataFrame:
        return self.table("devices")

    @property
    def operators(self) -> pd.DataFrame:
        return self.table("operators")

    @property
    def links(self) -> pd.DataFrame:
        return self.table("links")

    @property
    def experts(self) -> pd.DataFrame:
        return self.table("experts")

    @property
    def itl(self) -> pd.DataFrame:
        """Inter-token latencies: duration (seconds), count."""
        return self.table("itl")

    @property
    def uncertainty(self) -> pd.DataFrame:
        """The repeats of `moesim run --uncertainty`: seed, factors, metrics. Raises MoesimError without any."""
        return self.table(REPEATS)

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else str(self.path)
        size = f"{self.summary['requests']['total']} requests" if "requests" in self.summary else "a training step"
        return f"Results({self.name!r}, {where}, {size})"

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables, but for that of repeats."""
        return table_names(self.manifest)

    @property
    def trains(self) -> bool:
        """Whether this is of a training step, which has no requests and no iterations."""
        return "training" in self.summary

    @property
    def name(self) -> str:
        return str(self.spec.get("name", "experiment"))


def from_record(
    record: RunRecord,
    spec: Mapping[str, Any],
    manifest: Mapping[str, Any],
    slo: SloSpec | None = None,
) -> Results:
    """The results of a run that has just ended, in memory. `spec` is the resolved document, as plain data."""
    columns = all_columns(record)
    summary = summarise(record, slo, columns)
    return Results(dict(spec), dict(manifest), summary, lambda name: frame(columns[name]))


def with_repeats(results: Results, repeats: Columns, intervals: Mapping[str, Any]) -> Results:
    """The results with what repeating the run gave, see `moesim.uncertainty`."""
    summary = {**results.summary, "intervals": dict(intervals)}
    read = results.read
    return replace(results, summary=summary, read=lambda name: frame(repeats) if name == REPEATS else read(name))


def prepare(path: str | os.PathLike[str], *, overwrite: bool = False, mark: str = MANIFEST) -> Path:
    """Check, before the run, that its results can be written to `path`; creates nothing.

    Args:
        mark: the file that only folders of this kind hold; no other is overwritten.

    Raises:
        MoesimError: the folder exists (without `overwrite`), is no results folder (with it), or cannot be created.
    """
    try:
        os.fspath(path).encode()  # what Parquet files can be called
        target = Path(path).resolve()
        _check_target(target, path, overwrite=overwrite, mark=mark)
    except (OSError, ValueError) as error:  # no permission, a name too long, a null byte
        raise _unwritable(path, error) from None
    return target


def _check_target(target: Path, path: str | os.PathLike[str], *, overwrite: bool, mark: str) -> None:
    if target.exists() and not target.is_dir():
        raise MoesimError(f"results path {path} is a file", fix="choose another --output")
    if target.exists() and any(target.iterdir()):
        if not overwrite:
            raise MoesimError(f"results folder {path} exists", fix="choose another --output or give --overwrite")
        if not (target / mark).is_file():
            raise MoesimError(
                f"folder {path} holds no results (no {mark}) and is not overwritten", fix="choose another --output"
            )
    existing = next((parent for parent in target.parents if parent.exists()), target)
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise MoesimError(f"results folder {path} cannot be created in {existing}", fix="choose another --output")


def _unwritable(path: str | os.PathLike[str], error: OSError | ValueError) -> MoesimError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return MoesimError(f"cannot write results folder {path}: {reason}", fix="choose another --output")


def write(
    path: str | os.PathLike[str],
    results: Results,
    *,
    overwrite: bool = False,
    extras: Iterable[Callable[[Path], object]] = (),
) -> Results:
    """Write the folder: spec.yaml, manifest.json, summary.json, one Parquet file per table, and what `extras` add (each
    is called with the folder: figures, timeline), whole or not at all.

    Returns: the results as loaded from the folder.

    Raises:
        MoesimError: as `prepare`, or it cannot be written (the disk is full). Nothing is left behind.
    """
    return load(write_whole(path, [lambda folder: write_contents(folder, results), *extras], overwrite=overwrite))


def write_whole(
    path: str | os.PathLike[str],
    contents: Iterable[Callable[[Path], object]],
    *,
    overwrite: bool = False,
    mark: str = MANIFEST,
) -> Path:
    """Write a folder of which each of the `contents` fills a part; all goes to a sibling folder that takes the name at
    the end.

    Raises:
        MoesimError: as `prepare`, or it cannot be written (the disk is full). Nothing is left behind.
    """
    target = prepare(path, overwrite=overwrite, mark=mark)
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        _write_draft(target, contents)
    except BaseException as error:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise _unwritable(path, error) from error
        raise
    return target


def _write_draft(target: Path, contents: Iterable[Callable[[Path], object]]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}.", dir=target.parent))
    try:
        draft.chmod(0o777 & ~_umask())
        for fill in contents:
            fill(draft)
        with _undivided():
            _replace(draft, target)
    except BaseException:  # an interrupt too must leave nothing behind
        with _undivided():
            shutil.rmtree(draft, ignore_errors=True)
        raise


@contextmanager
def _undivided() -> Iterator[None]:
    """Holds Ctrl-C back until the block is through."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            before(*held[0])


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_contents(folder: Path, results: Results) -> None:
    """Write the files of results into a folder, which is created."""
    import yaml

    folder.mkdir(parents=True, exist_ok=True)

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump(results.spec, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    (folder / SPEC).write_text(text, encoding="utf-8")
    for name, document in ((MANIFEST, results.manifest), (SUMMARY, results.summary)):
        content = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / name).write_text(content + "\n", encoding="utf-8")
    for name in (*results.tables, REPEATS) if "intervals" in results.summary else results.tables:
        table = results.table(name)
        write_parquet({str(column): table[column].to_numpy() for column in table.columns}, folder / f"{name}.parquet")


def _replace(draft: Path, target: Path) -> None:
    """Put the draft in the target's place; the old folder goes only once the new one stands."""
    if not target.exists():
        draft.rename(target)
        return
    old = draft.with_name(draft.name + ".old")
    target.rename(old)
    try:
        draft.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def load(path: str | os.PathLike[str]) -> Results:
    """Open a results folder.

    Raises:
        MoesimError: no such folder, or it is not one that this version wrote.
    """
    folder = Path(path).resolve()
    if not folder.is_dir():
        raise MoesimError(f"no results folder {path}", fix="run an experiment first: moesim run EXPERIMENT")
    manifest = _document(folder / MANIFEST)
    if str(manifest.get("format", "")).startswith("moesim-study-"):
        raise MoesimError("this is the folder of a sweep or search, not of one run", where=Where(str(path)),
                          fix="give a run's folder; moesim report and plot read both")  # fmt: skip
    if manifest.get("format") != FORMAT:
        raise _malformed(folder / MANIFEST, f"format {manifest.get('format')!r} is not {FORMAT!r}")
    missing = [name for name in table_names(manifest) if not (folder / f"{name}.parquet").is_file()]
    if missing:
        raise _malformed(folder / f"{missing[0]}.parquet", "the table is missing")
    return Results(_spec(folder / SPEC), manifest, _document(folder / SUMMARY), partial(_table, folder), folder)


def _malformed(path: Path, problem: str) -> MoesimError:
    return MoesimError(
        f"malformed results folder: {problem}", where=Where(str(path)), fix="run the experiment again with --overwrite"
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _malformed(path, "the file is missing") from None
    except ValueError as error:
        raise _malformed(path, f"no JSON ({error})") from None
    if not isinstance(document, dict):
        raise _malformed(path, "no JSON object")
    return document


def _spec(path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise _malformed(path, "the file is missing") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise _malformed(path, "no YAML") from None
    if not isinstance(document, dict):
        raise _malformed(path, "no YAML mapping")
    return document


def _table(folder: Path, name: str) -> pd.DataFrame:
    import pyarrow as pa

    path = folder / f"{name}.parquet"
    if name == REPEATS and not path.is_file():
        what = "the run was not repeated, there is no table of repeats"
        raise MoesimError(what, where=Where(str(path)), fix="run the experiment again with --uncertainty --overwrite")
    try:
        return read_parquet(path)
    except (OSError, pa.ArrowException) as error:
        raise _malformed(path, f"the table cannot be read ({str(error).splitlines()[0]})") from None
