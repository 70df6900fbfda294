"""The record of executed steps, column by column, without an object per step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.transfer import PICOSECONDS
from moesim.step.graph import IntArray

#: Columns that are counted in steps' own units; times are added apart.
COUNTS = (
    "replica", "prefill_tokens", "decode_tokens", "sequences", "prefill_sequences", "waiting", "kv_tokens",
    "output_tokens",
)  # fmt: skip


class StepRecorder:
    """Rows of consecutive steps, appended in blocks. Memory: 80 bytes per step."""

    def __init__(self) -> None:
        self._columns: dict[str, list[IntArray]] = {name: [] for name in ("start", "end", *COUNTS)}
        self._gaps: list[IntArray] = []
        self._weights: list[IntArray] = []
        self._single_gaps: list[int] = []

    def add(self, start: IntArray, end: IntArray, **counts: IntArray | int) -> None:
        """Args: start, end: [steps] picoseconds. counts: one value or [steps] for each of COUNTS."""
        self._columns["start"].append(start)
        self._columns["end"].append(end)
        for name in COUNTS:
            value = counts[name]
            self._columns[name].append(value if isinstance(value, np.ndarray) else np.full(len(start), value))

    def add_gaps(self, gaps: IntArray, weights: IntArray) -> None:
        """Inter-token latencies [steps] in picoseconds and how many sequences had each."""
        self._gaps.append(gaps)
        self._weights.append(weights)

    def add_gap(self, gap: int) -> None:
        self._single_gaps.append(gap)

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Times in seconds; rows ordered by start, then replica; `step` numbers each replica's steps."""
        raw = {name: _joined(parts) for name, parts in self._columns.items()}
        order = np.lexsort((raw["replica"], raw["start"]))
        columns: dict[str, NDArray[np.generic]] = {name: values[order] for name, values in raw.items()}
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

    def gaps(self) -> dict[str, NDArray[np.generic]]:
        """Inter-token latencies as a weighted sample: duration (seconds), count."""
        gaps = _joined([*self._gaps, np.array(self._single_gaps, dtype=np.int64)])
        weights = _joined([*self._weights, np.ones(len(self._single_gaps), dtype=np.int64)])
        values, inverse = np.unique(gaps, return_inverse=True)
        count = np.bincount(inverse, weights=weights, minlength=len(values)).astype(np.int64)
        return {"duration": values[count > 0] / PICOSECONDS, "count": count[count > 0]}


def _joined(parts: list[IntArray]) -> IntArray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
