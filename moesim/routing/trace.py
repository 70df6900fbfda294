"""Routing traces and their Parquet format (docs/reference/routing-trace.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.routing.base import IntArray
from moesim.spec.errors import MoesimError, Where
from moesim.spec.marked import display

if TYPE_CHECKING:
    import pyarrow

FORMAT_VERSION = "1"

#: Numbers of requests, positions and steps, tokens of an expert in a step, and source ranks lie below these.
MOST, MOST_SOURCES = 2**31, 4096


@dataclass(frozen=True)
class TokenTrace:
    """The experts of every token, sorted by request and position, positions 0, 1, 2, ... in each request.

    Attributes:
        request, position: [tokens].
        ids: [tokens, layers, top_k], distinct experts, first choice first.
        experts: number of experts per layer.
    """

    request: IntArray
    position: IntArray
    ids: IntArray
    experts: int


@dataclass(frozen=True)
class CountTrace:
    """Tokens per expert and step, one row per entry, sorted by step; `source` is all 0 where the file has none."""

    step: IntArray
    layer: IntArray
    source: IntArray
    expert: IntArray
    count: IntArray
    layers: int
    experts: int
    top_k: int


def write_trace(path: str | Path, trace: TokenTrace | CountTrace) -> None:
    """Write a trace as Parquet, with its dimensions as metadata of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(trace, TokenTrace):
        tokens, layers, top_k = trace.ids.shape
        columns: dict[str, NDArray[Any]] = {
            "request": np.repeat(trace.request.astype(np.int64), layers),
            "position": np.repeat(trace.position.astype(np.int32), layers),
            "layer": np.tile(np.arange(layers, dtype=np.int16), tokens),
        }
        choices = trace.ids.reshape(-1, top_k).astype(np.int16)
        columns |= {f"e{place}": np.ascontiguousarray(choices[:, place]) for place in range(top_k)}
        kind = "tokens"
    else:
        layers, top_k, kind = trace.layers, trace.top_k, "counts"
        names = ("step", "layer", "source", "expert", "count")
        columns = {name: getattr(trace, name) for name in names}
    dimensions = {"kind": kind, "layers": layers, "experts": trace.experts, "top_k": top_k, "version": FORMAT_VERSION}
    table = pa.table(columns).replace_schema_metadata(
        {f"moesim.{key}": str(value) for key, value in dimensions.items()}
    )
    pq.write_table(table, path, compression="zstd")


def read_trace(path: str | Path, layers: int, experts: int, top_k: int) -> TokenTrace | CountTrace:
    """Read and check a trace for a model of `layers` MoE layers with `experts` experts, `top_k` per token.

    Raises:
        MoesimError: the file is missing, no Parquet, empty, of other dimensions than the model, or says something
            impossible; with the row, counted from 1.
    """
    table = _open(path)
    file = _File(display(Path(path)), table)
    file.check_dimensions({"layers": layers, "experts": experts, "top_k": top_k})
    if table.num_rows == 0:
        raise MoesimError("the routing trace is empty", where=Where(file.path), fix="give a trace with tokens in it")
    if "count" in table.column_names:
        return _read_counts(file, layers, experts, top_k)
    return _read_tokens(file, layers, experts, top_k)


def _open(path: str | Path) -> pyarrow.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = Where(display(Path(path)))
    if not Path(path).is_file():
        raise MoesimError(f"no routing trace {display(Path(path))!r}", where=where, fix="check routing.trace")
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise MoesimError(
            f"cannot read the routing trace: {reason}", where=where, fix="routing traces are Parquet files"
        ) from None


class _File:
    """Columns of the file as checked integers, and errors that name the row."""

    def __init__(self, path: str, table: pyarrow.Table) -> None:
        self.path, self.table = path, table

    def reject(self, bad: NDArray[np.bool_], what: str, fix: str, row: IntArray | None = None) -> None:
        """Raise for the first row where `bad` is true; `what` may hold {0}, the index into `bad`."""
        if bad.any():
            at = int(np.argmax(bad))
            line = (at if row is None else int(row[at])) + 1
            raise MoesimError(what.format(at), where=Where(self.path, line), fix=fix)

    def integers(self, name: str, low: int, high: int) -> IntArray:
        """A column of integers in [low, high)."""
        where = Where(self.path)
        if name not in self.table.column_names:
            raise MoesimError(
                f"the routing trace has no column {name!r}", where=where, fix="see the format of routing traces"
            )
        try:
            values = self.table.column(name).to_numpy()
            numbers = values.astype(np.float64)
        except (ValueError, TypeError):
            raise MoesimError(f"column {name!r} holds no numbers", where=where, fix="write integers") from None
        with np.errstate(invalid="ignore"):
            odd = ~np.isfinite(numbers) | (numbers != np.rint(numbers))
            self.reject(odd, f"{name} is not an integer", "write integers, no NaN and no empty cells")
            outside = (numbers < low) | (numbers >= high)
        if outside.any():
            value = int(numbers[np.argmax(outside)])
            self.reject(outside, f"{name} {value} is out of range", f"allowed are {low} to {high - 1}")
        return np.asarray(values.astype(np.int64))

    def check_dimensions(self, model: dict[str, int]) -> None:
        """The dimensions written in the file's metadata are those of the model."""
        metadata = {key.decode(): value.decode() for key, value in (self.table.schema.metadata or {}).items()}
        version = metadata.get("moesim.version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise MoesimError(
                f"routing trace of format version {version}", where=Where(self.path), fix=f"write {FORMAT_VERSION}"
            )
        for name, wanted in model.items():
            found = metadata.get(f"moesim.{name}")
            if found is not None and found != str(wanted):
                raise MoesimError(
                    f"the trace has {name} {found}, the model {wanted}",
                    where=Where(self.path),
                    fix="use a trace of this model",
                )


def _read_tokens(file: _File, layers: int, experts: int, top_k: int) -> TokenTrace:
    request = file.integers("request", 0, MOST)
    position = file.integers("position", 0, MOST)
    layer = file.integers("layer", 0, layers)
    places = sorted(name for name in file.table.column_names if name.startswith("e") and name[1:].isdecimal())
    if len(places) != top_k:
        raise MoesimError(
            f"the trace has {len(places)} experts per token, the model {top_k}",
            where=Where(file.path),
            fix=f"give columns e0 to e{top_k - 1}",
        )
    ids = np.stack([file.integers(f"e{place}", 0, experts) for place in range(top_k)], axis=1)
    ordered = np.sort(ids, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    file.reject(twice, "a token chooses an expert twice", "the experts of a token are distinct")
    row = np.lexsort((layer, position, request))
    request, position, layer, ids = request[row], position[row], layer[row], ids[row]
    _check_complete(file, request, position, layer, layers, row)
    shaped = ids.reshape(-1, layers, top_k)
    return TokenTrace(request[::layers], position[::layers], shaped, experts)


def _check_complete(
    file: _File, request: IntArray, position: IntArray, layer: IntArray, layers: int, row: IntArray
) -> None:
    """Sorted rows hold every layer of every token once, and every position of every request from 0 on."""
    expected = np.arange(len(layer)) % layers
    file.reject(
        layer != expected,
        "a token has not exactly one row for each layer",
        f"write layers 0 to {layers - 1} of every token once",
        row,
    )
    if len(layer) % layers:
        raise MoesimError(
            "the last token lacks layers", where=Where(file.path, int(row[-1]) + 1), fix=f"write all {layers} layers"
        )
    first = np.arange(0, len(layer), layers)
    same = (request == np.repeat(request[first], layers)) & (position == np.repeat(position[first], layers))
    file.reject(~same, "a token has not exactly one row for each layer", f"write all {layers} layers", row)
    start = np.r_[True, request[first][1:] != request[first][:-1]]
    begin = np.maximum.accumulate(np.where(start, np.arange(len(first)), 0))
    gap = position[first] != np.arange(len(first)) - begin
    file.reject(gap, "a position is missing or there twice", "positions of a request are 0, 1, 2, ...", row[first])


def _read_counts(file: _File, layers: int, experts: int, top_k: int) -> CountTrace:
    step = file.integers("step", 0, MOST)
    layer = file.integers("layer", 0, layers)
    expert = file.integers("expert", 0, experts)
    count = file.integers("count", 0, MOST)
    has_source = "source" in file.table.column_names
    source = file.integers("source", 0, MOST_SOURCES) if has_source else np.zeros_like(step)
    row = np.lexsort((expert, source, layer, step))
    step, layer, source, expert, count = (column[row] for column in (step, layer, source, expert, count))
    _check_sums(file, np.stack([step, layer, source]), count, top_k, row)
    _check_steps(file, step, layer, count, layers, row)
    again = np.zeros(len(step), dtype=np.bool_)
    again[1:] = (np.diff(np.stack([step, layer, source, expert]), axis=1) == 0).all(axis=0)
    file.reject(again, "an expert is there twice in a step, layer and source", "add the two counts up", row)
    return CountTrace(step, layer, source, expert, count, layers, experts, top_k)


def _check_steps(file: _File, step: IntArray, layer: IntArray, count: IntArray, layers: int, row: IntArray) -> None:
    """Every step has tokens, the same number of them in every layer."""
    _, start, index = np.unique(step, return_index=True, return_inverse=True)
    tokens = np.bincount(index * layers + layer, weights=count, minlength=len(start) * layers).reshape(-1, layers)
    file.reject(tokens.max(axis=1) == 0, "a step routes no tokens", "leave the step out", row[start])
    lacking = (tokens == 0).any(axis=1)
    file.reject(lacking, "a step lacks layers", f"write its tokens in all {layers} MoE layers", row[start])
    unequal = tokens.min(axis=1) != tokens.max(axis=1)
    what = "two layers of a step have different numbers of tokens"
    file.reject(unequal, what, "write all tokens of a step in every layer", row[start])


def _check_sums(file: _File, keys: IntArray, count: IntArray, top_k: int, row: IntArray) -> None:
    """In each (step, layer, source) the counts are a whole number of tokens, and no expert has more than these."""
    start = np.flatnonzero(np.r_[True, (np.diff(keys, axis=1) != 0).any(axis=0)])
    total = np.add.reduceat(count, start)
    file.reject(
        total % top_k != 0,
        f"the counts of a step, layer and source are no multiple of top_k {top_k}",
        f"every token counts for {top_k} experts",
        row[start],
    )
    tokens = np.repeat(total // top_k, np.diff(np.r_[start, len(count)]))
    file.reject(count > tokens, "an expert has more tokens than there are", "a token chooses an expert once", row)
    # All layers of a step and source see the same tokens.
    order = np.lexsort((keys[1, start], keys[2, start], keys[0, start]))
    step, source, tokens = keys[0, start][order], keys[2, start][order], (total // top_k)[order]
    differs = (np.diff(step) == 0) & (np.diff(source) == 0) & (np.diff(tokens) != 0)
    file.reject(
        np.r_[False, differs],
        "two layers of a step have different numbers of tokens",
        "write all tokens of a step in every layer",
        row[start][order],
    )
