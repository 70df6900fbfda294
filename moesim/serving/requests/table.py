"""The requests of a run as columns, whatever they came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moesim.spec.errors import MoesimError, Where

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: What a row number counts: lines of a text file, rows of a table, requests of a mix; the first is 1.
RowKind = Literal["line", "row", "request"]


def bad_row(source: str, row: int, row_kind: RowKind, what: str, fix: str | None = None) -> MoesimError:
    """An error about one row of a trace or mix, at its place."""
    if row_kind == "line":
        return MoesimError(what, where=Where(source, row), fix=fix)
    if row_kind == "row":
        return MoesimError(f"row {row}: {what}", where=Where(source), fix=fix)
    return MoesimError(f"{source}: request {row}: {what}", key="requests", fix=fix)


@dataclass(frozen=True)
class Requests:
    """One row per request, ordered by arrival (ties in the order of the source).

    arrival: seconds from the start of the run, ascending.
    input_tokens, output_tokens: at least 1 each.
    blocks: per request the hashes of its leading full KV blocks of `block_tokens` tokens, in order; two requests with
        equal hashes have equal content up to and including that block. None where nothing is shared.
    block_tokens: tokens that one hash of `blocks` stands for, a multiple of the engine's block size.
    source: "mix NAME", or the trace's file. rows: which line, row or request (`row_kind`) of it each request is.
    identifiers: as the trace gives them, else None.
    dropped_rows, clipped_rows: the rows that exceeded the model's context and were left out or cut.
    notes: what a user should know about the reading, one sentence each.
    """

    arrival: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray
    blocks: list[tuple[int, ...]] | None
    block_tokens: int
    source: str
    rows: IntArray
    row_kind: RowKind = "line"
    identifiers: tuple[str, ...] | None = None
    dropped_rows: tuple[int, ...] = ()
    clipped_rows: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def dropped(self) -> int:
        return len(self.dropped_rows)

    @property
    def clipped(self) -> int:
        return len(self.clipped_rows)

    def error(self, index: int, what: str, fix: str | None = None) -> MoesimError:
        """An error about the request at `index`, at its place in the source."""
        return bad_row(self.source, int(self.rows[index]), self.row_kind, what, fix)

    def select(self, keep: IntArray) -> Requests:
        """The requests at the positions `keep`, in that order."""
        return replace(
            self,
            arrival=self.arrival[keep],
            input_tokens=self.input_tokens[keep],
            output_tokens=self.output_tokens[keep],
            blocks=None if self.blocks is None else [self.blocks[i] for i in keep],
            rows=self.rows[keep],
            identifiers=None if self.identifiers is None else tuple(self.identifiers[i] for i in keep),
        )
