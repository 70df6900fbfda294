"""The requests of a run as columns, whatever they came from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

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
class Sessions:
    """Conversations, whose turns are consecutive rows. session, turn: numbers from 0. think: seconds from the last
    token of the turn before, 0 for the first. left: per row the hashes of the blocks that its sequence has filled when
    it ends, () for a last turn; they begin with the row's own."""

    session: IntArray
    turn: IntArray
    think: FloatArray
    left: list[tuple[int, ...]]

    def select(self, keep: IntArray) -> Sessions:
        left = [self.left[i] for i in keep]
        return Sessions(self.session[keep], self.turn[keep], self.think[keep], left)


@dataclass(frozen=True)
class Phase:
    """Consecutive rows of a load that are sent once everything before them has drained.

    first, last: the rows [first, last). stage: number of the load, from 0; -1 for a warm-up, which no metric counts.
    concurrency: requests (or conversations) under way at once; 0: each comes at its arrival, counted from the begin of
    the phase. pause: seconds between the last token of the phase before and the begin. patience: seconds after the last
    arrival in which the phase must drain.
    """

    first: int
    last: int
    stage: int = 0
    concurrency: int = 0
    pause: float = 0.0
    patience: float = math.inf


@dataclass(frozen=True)
class Requests:
    """One row per request, ordered by phase and arrival (ties in the order of the source).

    arrival: seconds from the start of its phase, ascending in each; a later turn has that of its conversation.
    input_tokens, output_tokens: at least 1 each.
    blocks: per request the hashes of its leading full KV blocks of `block_tokens` tokens, in order; two requests with
        equal hashes have equal content up to and including that block. None where nothing is shared.
    block_tokens: tokens that one hash of `blocks` stands for, a multiple of the engine's block size.
    source: "mix NAME", or the trace's file. rows: which line, row or request (`row_kind`) of it each request is.
    identifiers: as the trace gives them, else None.
    dropped_rows, clipped_rows: the rows that exceeded the model's context and were left out or cut.
    notes: what a user should know about the reading, one sentence each.
    classes: name of each request's class, None where there are none. sessions: None where each stands alone.
    phases: in the order in which they are sent; a single one where none is given.
    parts: of which this is the concatenation, where the rows come from several sources.
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
    classes: NDArray[np.str_] | None = None
    sessions: Sessions | None = None
    phases: tuple[Phase, ...] = ()
    parts: tuple[Requests, ...] = ()

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def dropped(self) -> int:
        return len(self.dropped_rows)

    @property
    def clipped(self) -> int:
        return len(self.clipped_rows)

    @property
    def staged(self) -> bool:
        """Whether there is more than one load without a warm-up."""
        return len(self.phases) > 1

    @property
    def reacts(self) -> bool:
        """Whether a request may be sent because another one has finished, beside the begin of a phase."""
        return self.sessions is not None or any(phase.concurrency for phase in self.phases)

    def first_turns(self) -> IntArray:
        """Rows that wait for no other turn of their conversation: all, where there are no conversations."""
        if self.sessions is None:
            return np.arange(len(self))
        session = self.sessions.session
        return np.flatnonzero(np.diff(session, prepend=-1))

    def labels(self, rows: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Columns that only some loads have, of the requests at `rows`."""
        at = np.array(rows, dtype=np.int64)
        columns: dict[str, NDArray[Any]] = {}
        if self.staged:
            stage = np.repeat([p.stage for p in self.phases], [p.last - p.first for p in self.phases])
            columns["stage"] = stage[at]
        if self.classes is not None:
            columns["class"] = self.classes[at]
        if self.sessions is not None:
            columns["session"], columns["turn"] = self.sessions.session[at], self.sessions.turn[at]
        return columns

    def error(self, index: int, what: str, fix: str | None = None) -> MoesimError:
        """An error about the request at `index`, at its place in the source."""
        for part in self.parts:
            if index < len(part):
                return part.error(index, what, fix)
            index -= len(part)
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
            classes=None if self.classes is None else self.classes[keep],
            sessions=None if self.sessions is None else self.sessions.select(keep),
        )
