"""The record of executed steps, column by column, without an object per step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.transfer import PICOSECONDS
from moesim.step.graph import IntArray

#: What a block of steps has one value of, and what each of its steps has one of.
_OF_BLOCK = ("replica", "begin", "prefill_tokens", "prefill_sequences", "emitted", "gaps", "joined", "drafts")
_OF_STEP = ("end", "decodes", "waiting", "kv_tokens", "accepted")


_NONE = np.zeros((), dtype=np.int64)


class StepRecorder:
    """Rows of consecutive steps, appended in blocks. Memory: 32 bytes per step and 400 per block."""

    def __init__(self) -> None:
        self._blocks: dict[str, list[int]] = {name: [] for name in _OF_BLOCK}
        self._steps: dict[str, list[IntArray]] = {name: [] for name in _OF_STEP}
        self._single_gaps: list[int] = []

    def add(
        self,
        *,
        replica: int,
        begin: int,
        end: IntArray,
        decodes: IntArray,
        waiting: IntArray,
        kv_tokens: IntArray,
        prefill_tokens: int = 0,
        prefill_sequences: int = 0,
        emitted: int = 0,
        gaps: bool = True,
        joined: int = 0,
        drafts: int = 0,
        accepted: IntArray | None = None,
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
        block = (replica, begin, prefill_tokens, prefill_sequences, emitted, int(gaps), joined, drafts)
        for name, value in zip(_OF_BLOCK, block, strict=True):
            self._blocks[name].append(value)
        accepted = np.broadcast_to(_NONE, len(end)) if accepted is None else accepted
        for name, values in zip(_OF_STEP, (end, decodes, waiting, kv_tokens, accepted), strict=True):
            self._steps[name].append(values)

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
        steps = {name: _joined(parts) for name, parts in self._steps.items()}
        start = np.concatenate([[0], steps["end"]])[:-1].astype(np.int64)
        first = np.cumsum([0, *(len(part) for part in self._steps["end"])])[:-1]
        start[first] = self._blocks["begin"]
        of_first = {name: np.zeros_like(start) for name in ("prefill_tokens", "prefill_sequences", "emitted")}
        for name, values in of_first.items():
            values[first] = self._blocks[name]
        return {
            "start": start,
            "end": steps["end"],
            "replica": self._of_block("replica"),
            "prefill_tokens": of_first["prefill_tokens"],
            "decode_tokens": steps["decodes"] * (1 + self._of_block("drafts")),
            "decodes": steps["decodes"],
            "accepted": steps["accepted"],
            "sequences": steps["decodes"] + of_first["prefill_sequences"],
            "prefill_sequences": of_first["prefill_sequences"],
            "waiting": steps["waiting"],
            "kv_tokens": steps["kv_tokens"],
            "output_tokens": steps["decodes"] + steps["accepted"] + of_first["emitted"],
        }

    def _of_block(self, name: str) -> IntArray:
        """A value of each block, repeated for each of its steps."""
        lengths = [len(part) for part in self._steps["end"]]
        return np.repeat(np.array(self._blocks[name], dtype=np.int64), lengths)

    def gaps(self) -> dict[str, NDArray[np.generic]]:
        """Inter-token latencies as a weighted sample: duration (seconds), count. Accepted drafts come at once."""
        rows = self._rows()
        first = np.cumsum([0, *(len(part) for part in self._steps["end"])])[:-1]
        decoding = rows["decodes"].copy()
        decoding[first] *= np.array(self._blocks["gaps"], dtype=np.int64)
        decoding[first] -= np.array(self._blocks["joined"], dtype=np.int64)
        single = np.array(self._single_gaps, dtype=np.int64)
        gaps = np.concatenate([rows["end"] - rows["start"], single, [0]])
        weights = np.concatenate([decoding, np.ones(len(single), dtype=np.int64), [rows["accepted"].sum()]])
        values, inverse = np.unique(gaps, return_inverse=True)
        count = np.bincount(inverse, weights=weights, minlength=len(values)).astype(np.int64)
        return {"duration": values[count > 0] / PICOSECONDS, "count": count[count > 0]}


def _joined(parts: list[IntArray]) -> IntArray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
