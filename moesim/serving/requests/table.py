"""The requests of a run as columns, whatever they came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Requests:
    """One row per request, ordered by arrival (ties in the order of the source).

    arrival: seconds from the start of the run, ascending.
    input_tokens, output_tokens: at least 1 each.
    blocks: per request the hashes of its leading full KV blocks of `block_tokens` tokens, in order; two requests with
        equal hashes have equal content up to and including that block. None where nothing is shared.
    block_tokens: tokens that one hash of `blocks` stands for, a multiple of the engine's block size.
    source: the mix's name or the trace's file. rows: of each request the line of the trace it came from (the row,
        counted from 1, in Parquet files and mixes). identifiers: as the trace gives them, else None.
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

    def select(self, keep: IntArray) -> Requests:
        """The requests at the positions `keep`, in that order; counts and notes stay."""
        return Requests(
            arrival=self.arrival[keep],
            input_tokens=self.input_tokens[keep],
            output_tokens=self.output_tokens[keep],
            blocks=None if self.blocks is None else [self.blocks[i] for i in keep],
            block_tokens=self.block_tokens,
            source=self.source,
            rows=self.rows[keep],
            identifiers=None if self.identifiers is None else tuple(self.identifiers[i] for i in keep),
            dropped_rows=self.dropped_rows,
            clipped_rows=self.clipped_rows,
            notes=self.notes,
        )
