"""Trace files as named columns: CSV, JSON lines or Parquet, the text formats gzipped or not."""

from __future__ import annotations

import csv
import difflib
import gzip
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from moesim.serving.requests.table import RowKind, bad_row
from moesim.spec.errors import MoesimError, Where
from moesim.spec.marked import display

_SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True)
class Columns:
    """A file's values by column, and where each row stands.

    values: as the file has them: text in CSV, JSON values (None where a line lacks the key), Parquet arrays or lists.
    rows: the line of each row, or its number from 1 in Parquet (`row_kind`).
    """

    file: str
    row_kind: RowKind
    rows: Sequence[int]
    values: dict[str, Sequence[Any]]

    def error(self, index: int, what: str, fix: str | None = None) -> MoesimError:
        """An error about the row at `index`."""
        return bad_row(self.file, self.rows[index], self.row_kind, what, fix)


def read_columns(path: Path) -> Columns:
    """All columns of a trace file.

    Raises:
        MoesimError: there is no such file, its name ends in none of the known ways, or it cannot be read.
    """
    name = path.name.lower()
    suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
    if suffix is None:
        fix = f"its name ends in {', '.join(_SUFFIXES)}"
        raise MoesimError("a trace of no known kind", where=Where(display(path)), fix=fix)
    if not path.is_file():
        raise MoesimError(f"the trace {display(path)} does not exist", fix=_nearest_file(path))
    if suffix == ".parquet":
        return _read_parquet(path)
    with _opened(path, compressed=suffix.endswith(".gz")) as stream:
        return _read_csv(stream, display(path)) if suffix.startswith(".csv") else _read_jsonl(stream, display(path))


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {display(path.parent)}"
    names = [other.name for other in path.parent.iterdir() if other.name.lower().endswith(_SUFFIXES)]
    near = difflib.get_close_matches(path.name, names, n=1)
    if near:
        return f"did you mean {display(path.parent / near[0])!r}?"
    return f"{display(path.parent)} holds {len(names)} trace files"


@contextmanager
def _opened(path: Path, *, compressed: bool) -> Iterator[TextIO]:
    """The file as text, a byte order mark skipped."""
    try:
        if compressed:
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as stream:
                yield stream
        else:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                yield stream
    except UnicodeDecodeError:
        raise MoesimError("this is no text in UTF-8", where=Where(display(path))) from None
    except (OSError, EOFError) as error:
        raise MoesimError(f"the file cannot be read: {error}", where=Where(display(path))) from None


def _read_csv(stream: TextIO, file: str) -> Columns:
    reader = csv.reader(stream, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        lines, records = [], []
        for record in reader:
            if not record:
                continue
            if len(record) != len(header):
                what = f"{len(record)} fields, but the header names {len(header)}"
                raise MoesimError(what, where=Where(file, reader.line_num), fix="write one value for each column")
            lines.append(reader.line_num)
            records.append(record)
    except csv.Error as error:
        raise MoesimError(f"this is no CSV: {error}", where=Where(file, reader.line_num)) from None
    if not header:
        raise MoesimError("the file is empty", where=Where(file), fix="the first line names the columns")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise MoesimError(f"two columns are named {twice!r}", where=Where(file, 1))
    columns = zip(*records, strict=True) if records else ([] for _ in header)
    return Columns(file, "line", lines, dict(zip(header, columns, strict=True)))


def _read_jsonl(stream: TextIO, file: str) -> Columns:
    lines: list[int] = []
    records: list[dict[str, Any]] = []
    for line, text in enumerate(stream, start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except ValueError as error:
            message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise MoesimError(f"this is no JSON: {message}", where=Where(file, line)) from None
        if not isinstance(record, dict):
            raise MoesimError("this is no JSON object", where=Where(file, line), fix="write one object on each line")
        lines.append(line)
        records.append(record)
    if not records:
        raise MoesimError("the file is empty", where=Where(file), fix="write one JSON object on each line")
    names = dict.fromkeys(name for record in records for name in record)
    return Columns(file, "line", lines, {name: [record.get(name) for record in records] for name in names})


def _read_parquet(path: Path) -> Columns:
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as source:
            table = source.read()
    except (arrow.ArrowException, OSError) as error:
        message = str(error).splitlines()[0]
        raise MoesimError(f"this is no Parquet file: {message}", where=Where(display(path))) from None
    values: dict[str, Sequence[Any]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        plain = arrow.types.is_integer(column.type) or arrow.types.is_floating(column.type)
        values[name] = column.to_numpy() if plain and not column.null_count else _objects(column, arrow)
    return Columns(display(path), "row", range(1, table.num_rows + 1), values)


def _objects(column: Any, arrow: Any) -> Sequence[Any]:
    """A column as Python objects; time stamps as text, in UTC where they know their zone."""
    if arrow.types.is_timestamp(column.type):
        naive = column.cast(arrow.timestamp("ns"))
        column = naive.cast(arrow.string())
    values: list[Any] = column.to_pylist()
    return values
