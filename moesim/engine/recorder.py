"""The record of executed steps, column by column, without an object per step."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.transfer import PICOSECONDS
from moesim.step.graph import IntArray

#: What a block of steps has one value of, and what each of its steps has one of.
_OF_BLOCK = ("replica", "begin", "prefill_tokens", "prefill_sequences", "emitted", "gaps", "joined", "drafts")
_OF_STEP = ("end", "decodes", "waiting", "kv_tokens", "accepted")


class StepRecorder:
    """Rows of consecutive steps, appended in blocks. Memory: 40 bytes per step and 72 per block."""

    def __init__(self) -> None:
        self._blocks = array("q")  # row by row
        self._columns = [array("q") for _ in _OF_STEP]
        self._lengths = array("q")
        self._single_gaps = array("q")

    def add(
        self,
        *,
        replica: int,
        begin: int,
        end: Sequence[int],
        decodes: Sequence[int],
        waiting: Sequence[int],
        kv_tokens: Sequence[int],
        prefill_tokens: int = 0,
        prefill_sequences: int = 0,
        emitted: int = 0,
        gaps: bool = True,
        joined: int = 0,
        drafts: int = 0,
        accepted: Sequence[int] | None = None,
    ) -> None:
        """Steps that follow each other without a pause, the first of which begins at `begin`.

        Args:
            begin, end: picoseconds; end: [steps].
            decodes, waiting, kv_tokens: [steps] decoding sequences, requests, tokens.
            prefill_tokens, prefill_sequences: of the first step; the others have none.
            emitted: tokens that its prompts emit at its end.
            drafts: verified for each decoding sequence. accepted: [steps] of them all; none where it is not given.
            gaps: the first step, too, is the inter-token latency of its decoding sequences, as the others are, but for
                `joined` of them.
        """
        self._blocks.extend((replica, begin, prefill_tokens, prefill_sequences, emitted, gaps, joined, drafts))
        steps = (end, decodes, waiting, kv_tokens, accepted or [0] * len(end))
        for column, values in zip(self._columns, steps, strict=True):
            column.extend(values)
        self._lengths.append(len(end))

    def add_gap(self, gap: int) -> None:
        """One more inter-token latency, in picoseconds."""
        self._single_gaps.append(gap)

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Times in seconds; rows ordered by start, then replica; `step` numbers each replica's steps."""
        rows = self._rows()
        order = np.lexsort((rows["replica"], rows["start"]))
        columns: dict[str, NDArray[np.generic]] = {name: values[order] for name, values in rows.items()}
        del columns["decodes"], columns["accepted"]
        step = np.zeros(len(order), dtype=np.int64)
        for replica in np.unique(columns["replica"]):
            mine = columns["replica"] == replica
            step[mine] = np.arange(int(mine.sum()))
        return {
            **columns,
            "step": step,
            "start": columns["start"].astype(np.float64) / PICOSECONDS,
            "end": columns["end"].astype(np.float64) / PICOSECONDS,
        }

    def _rows(self) -> dict[str, IntArray]:
        """A row for each step, as they were added, times in picoseconds."""
        steps = {name: _column(values) for name, values in zip(_OF_STEP, self._columns, strict=True)}
        blocks = self._of_blocks()
        start = np.concatenate([[0], steps["end"]])[:-1].astype(np.int64)
        first = self._first()
        start[first] = blocks["begin"]
        of_first = {name: np.zeros_like(start) for name in ("prefill_tokens", "prefill_sequences", "emitted")}
        for name, values in of_first.items():
            values[first] = blocks[name]
        lengths = _column(self._lengths)
        return {
            "start": start,
            "end": steps["end"],
            "replica": np.repeat(blocks["replica"], lengths),
            "prefill_tokens": of_first["prefill_tokens"],
            "decode_tokens": steps["decodes"] * (1 + np.repeat(blocks["drafts"], lengths)),
            "decodes": steps["decodes"],
            "accepted": steps["accepted"],
            "sequences": steps["decodes"] + of_first["prefill_sequences"],
            "prefill_sequences": of_first["prefill_sequences"],
            "waiting": steps["waiting"],
            "kv_tokens": steps["kv_tokens"],
            "output_tokens": steps["decodes"] + steps["accepted"] + of_first["emitted"],
        }

    def _of_blocks(self) -> dict[str, IntArray]:
        """A column of each block's values."""
        return dict(zip(_OF_BLOCK, _column(self._blocks).reshape(-1, len(_OF_BLOCK)).T, strict=True))

    def _first(self) -> IntArray:
        """Where each block begins."""
        lengths = _column(self._lengths)
        first: IntArray = np.cumsum(lengths) - lengths
        return first

    def gaps(self) -> dict[str, NDArray[np.generic]]:
        """Inter-token latencies as a weighted sample: duration (seconds), count. Accepted drafts come at once."""
        rows = self._rows()
        first = self._first()
        decoding = rows["decodes"].copy()
        blocks = self._of_blocks()
        decoding[first] *= blocks["gaps"]
        decoding[first] -= blocks["joined"]
        single = _column(self._single_gaps)
        gaps = np.concatenate([rows["end"] - rows["start"], single, [0]])
        weights = np.concatenate([decoding, np.ones(len(single), dtype=np.int64), [rows["accepted"].sum()]])
        values, inverse = np.unique(gaps, return_inverse=True)
        count = np.bincount(inverse, weights=weights, minlength=len(values)).astype(np.int64)
        return {"duration": values[count > 0] / PICOSECONDS, "count": count[count > 0]}


def _column(values: array[int]) -> IntArray:
    return np.array(values, dtype=np.int64)
