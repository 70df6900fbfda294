"""Requests replayed from a trace file. The formats are documented in docs/reference/request-traces.md."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moesim.serving.requests import values
from moesim.serving.requests.columns import Columns, read_columns
from moesim.serving.requests.table import FloatArray, Requests
from moesim.spec.errors import MoesimError, Where

#: Tokens per hash of `hash_ids`, in Mooncake's traces and ours.
HASH_TOKENS = 512


def _milliseconds(columns: Columns, name: str) -> FloatArray:
    times = values.seconds(columns, name)
    return np.asarray((times - times.min()) / 1e3, dtype=np.float64)


@dataclass(frozen=True)
class _Format:
    """Column names of one format, alternatives in the order of preference, and how arrivals are read."""

    name: str
    arrival: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    read_arrival: Callable[[Columns, str], FloatArray]
    identifiers: tuple[str, ...] = ()
    hashes: str | None = None
    classes: str | None = None
    prefix: tuple[str, str] | None = None

    @property
    def required(self) -> tuple[tuple[str, ...], ...]:
        return ((self.arrival,), self.inputs, self.outputs)


_FORMATS = (
    _Format(
        "moesim", "arrival_s", ("input_tokens", "prompt_tokens"), ("output_tokens",), values.seconds,
        identifiers=("request_id", "req_id"), hashes="hash_ids", classes="class",
        prefix=("prefix_id", "prefix_tokens"),
    ),
    _Format("Azure", "TIMESTAMP", ("ContextTokens",), ("GeneratedTokens",), values.since_first),
    _Format("Mooncake", "timestamp", ("input_length",), ("output_length",), _milliseconds, hashes="hash_ids"),
)  # fmt: skip


def replay(
    path: Path, count: int | None, duration: float | None, block_size: int, scale: float = 1.0
) -> Requests:  # fmt: skip
    """The requests of a trace, by arrival, whatever the model's context.

    Args:
        path: the file; its format is recognised by its columns.
        count: only the first so many to arrive.
        duration: only those that arrive before it, in seconds.
        block_size: tokens per KV block.
        scale: by which the times are divided.

    Raises:
        MoesimError: the file cannot be read, lacks a column, holds a value that is none, or no request.
    """
    columns = read_columns(path)
    form = _recognised(columns)
    if not len(columns.rows):
        raise MoesimError("the trace holds no requests", where=Where(columns.file), fix="write one in each row")
    inputs, outputs = (_first_present(columns, names) for names in (form.inputs, form.outputs))
    blocks, block_tokens, sharing = _blocks(columns, form, block_size)
    identifier = _first_present(columns, form.identifiers)
    requests = Requests(
        arrival=form.read_arrival(columns, form.arrival) / scale,
        input_tokens=values.tokens(columns, inputs),
        output_tokens=values.tokens(columns, outputs),
        blocks=blocks,
        block_tokens=block_tokens,
        source=columns.file,
        rows=np.array(columns.rows, dtype=np.int64),
        row_kind=columns.row_kind,
        identifiers=tuple(map(str, columns.values[identifier])) if identifier else None,
        notes=_notes(columns, {form.arrival, inputs, outputs, identifier, form.classes or "", *sharing}),
        classes=_classes(columns, form.classes),
    )
    order = np.argsort(requests.arrival, kind="stable")
    if duration is not None:
        order = order[requests.arrival[order] < duration]
        if not len(order):
            what, fix = f"no request arrives before {duration:g} s", "extend requests.duration"
            raise MoesimError(what, where=Where(columns.file), fix=fix)
    return _full_blocks(requests.select(order[:count]))


def _first_present(columns: Columns, names: Sequence[str]) -> str:
    """The first of `names` that is a column; empty if none is."""
    return next((name for name in names if name in columns.values), "")


def _recognised(columns: Columns) -> _Format:
    """The format with most of its columns there; of equals the first.

    Raises:
        MoesimError: a column is missing.
    """

    def present(form: _Format) -> int:
        return sum(bool(_first_present(columns, names)) for names in form.required)

    form = max(_FORMATS, key=present)
    missing = [names[0] for names in form.required if not _first_present(columns, names)]
    if not missing:
        return form
    where = Where(columns.file, 1 if columns.row_kind == "line" else None)
    used = {name for names in form.required for name in names}
    near = difflib.get_close_matches(missing[0], [name for name in columns.values if name not in used], n=1)
    if near:
        raise MoesimError(f"the column {missing[0]!r} is missing", where=where, fix=f"is it {near[0]!r}? rename that")
    expected = " or ".join(",".join(names[0] for names in form.required) for form in _FORMATS)
    found = ", ".join(columns.values) or "none"
    raise MoesimError(f"the column {missing[0]!r} is missing among {found}", where=where, fix=f"expected {expected}")


def _classes(columns: Columns, name: str | None) -> NDArray[np.str_] | None:
    """Names of the requests' classes.

    Raises:
        MoesimError: a request has none.
    """
    if name not in columns.values:
        return None
    for index, value in enumerate(columns.values[name]):
        if value is None or value == "":
            raise columns.error(index, f"{name} is empty, expected the name of the request's class")
    return np.array([str(value) for value in columns.values[name]])


def _notes(columns: Columns, read: set[str]) -> tuple[str, ...]:
    ignored = [name for name in columns.values if name not in read]
    return (f"columns not read: {', '.join(ignored)}",) if ignored else ()


def _blocks(
    columns: Columns, form: _Format, block_size: int
) -> tuple[list[tuple[int, ...]] | None, int, tuple[str, ...]]:
    """Hashes of every row's full blocks (not yet cut to its input), tokens per hash, the columns read."""
    if form.hashes in columns.values:
        # A hash stands for all content up to its end: every n-th of them is the hash of a block n times as long.
        block_tokens = math.lcm(HASH_TOKENS, block_size)
        step = block_tokens // HASH_TOKENS
        lists = values.hash_lists(columns, str(form.hashes))
        return [tuple(hashes[step - 1 :: step]) for hashes in lists], block_tokens, (str(form.hashes),)
    if form.prefix is None or not set(form.prefix) & columns.values.keys():
        return None, block_size, ()
    for name in form.prefix:
        if name not in columns.values:
            raise MoesimError(f"{' and '.join(form.prefix)} go together, {name} is missing", where=Where(columns.file))
    return _prefix_blocks(columns, *form.prefix, block_size), block_size, form.prefix


def _prefix_blocks(columns: Columns, key: str, length: str, block_size: int) -> list[tuple[int, ...]]:
    """Hashes of the full blocks of named prefixes: a number for each (prefix, block), in order of appearance."""
    numbers: dict[tuple[str, int], int] = {}
    nothing = [value is None or value == "" for value in columns.values[key]]
    lengths = [0 if none else text for none, text in zip(nothing, columns.values[length], strict=True)]
    counts = values.tokens(replace(columns, values={length: lengths}), length, least=0)
    return [
        tuple(numbers.setdefault((str(name), block), len(numbers)) for block in range(count // block_size))
        for name, count in zip(columns.values[key], counts.tolist(), strict=True)
    ]


def _full_blocks(requests: Requests) -> Requests:
    """Hashes beyond the input's full blocks are cut: the last one of a Mooncake row stands for a partial block."""
    if requests.blocks is None:
        return requests
    full = (requests.input_tokens // requests.block_tokens).tolist()
    blocks = [hashes[:count] for hashes, count in zip(requests.blocks, full, strict=True)]
    return replace(requests, blocks=blocks)
