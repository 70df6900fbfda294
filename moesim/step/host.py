"""What the host adds to the steps of a replica, and how much of it the devices' work hides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.step.graph import PICOSECONDS, IntArray
from moesim.step.program import StageProgram
from moesim.step.sizes import Sizes
from moesim.step.tables import StepContext


class HostCosts:
    """Host time of steps. Kernels that are launched one by one keep the devices waiting where they are faster than the
    launches; graphs are launched at once, piecewise ones with the attention kernels between them."""

    def __init__(self, context: StepContext, programs: Sequence[StageProgram]) -> None:
        engine = context.engine
        self._graphs, self._asynchronous = context.graphs, engine.asynchronous_scheduling
        self._step, self._sequence, self._request, self._exposed = (
            round(seconds * PICOSECONDS)
            for seconds in (
                engine.step_overhead, engine.sequence_overhead, engine.request_overhead, engine.exposed_overhead
            )
        )  # fmt: skip
        rows = [row for program in programs for row in program.rows]
        attention = sum(row.action == "attention" for row in rows)
        launches = np.array([len(rows), 2 * attention + 1, 0])
        #: Picoseconds that the launches of a step take: eager, with piecewise graphs, with a full one.
        self._launches = np.rint(launches * engine.launch_overhead * PICOSECONDS).astype(np.int64)

    def beyond(self, device: IntArray, sizes: Sizes, rested: bool = False) -> IntArray:
        """[steps] picoseconds that steps take beyond those of their devices, [steps].

        Args:
            rested: the devices were idle before the first step, so that nothing hides its host work.
        """
        work: IntArray = self._step + self._sequence * sizes.sequences.max(axis=1)
        if self._request and sizes.chunked.any():
            work[0] += self._request * int((sizes.sequences - sizes.decodes - sizes.idle)[0].max())
        if not self._asynchronous:
            return work if not self._launches.any() else work + np.maximum(self._launching(sizes) - device, 0)
        launching = self._launching(sizes)
        hidden: IntArray = np.maximum(launching + work - device, self._exposed)
        if rested:
            hidden[0] = work[0] + max(int(launching[0] - device[0]), self._exposed)
        return hidden

    def _launching(self, sizes: Sizes) -> IntArray:
        """[steps] picoseconds."""
        if not self._launches.any():
            return np.zeros(len(sizes.tokens), dtype=np.int64)
        kind = 2 * (sizes.tokens.max(axis=1) <= self._graphs.largest).astype(np.int64)
        if sizes.chunked.any():
            kind[0] = int(self._graphs.captured(sizes.tokens[:1], sizes.chunked)[0] > 0)
        launching: IntArray = self._launches[kind]
        return launching
