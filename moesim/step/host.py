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
        self._asynchronous = engine.asynchronous_scheduling
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
        work: IntArray = self._step + self._sequence * np.maximum.reduce(sizes.sequences, axis=1)
        if self._request and sizes.prompts:
            work[0] += self._request * int((sizes.sequences - sizes.decodes - sizes.idle)[0].max())
        launching = self._launching(sizes)
        if not self._asynchronous:
            work += np.maximum(launching - device, 0)
            return work
        hidden: IntArray = np.maximum(launching + work - device, self._exposed)
        if rested:
            hidden[0] = work[0] + max(int(launching[0] - device[0]), self._exposed)
        return hidden

    def beyond_one(self, device: int, sequences: int, captured: bool, prompts: int, rested: bool) -> int:
        """The same of one step of a single rank, `captured` in a graph or not, with chunks of so many prompts."""
        work = self._step + self._sequence * sequences + self._request * prompts
        launching = self._launches.item((1 if prompts else 2) * captured)
        if not self._asynchronous:
            return work + max(launching - device, 0)
        if rested:
            return work + max(launching - device, self._exposed)
        return max(launching + work - device, self._exposed)

    def _launching(self, sizes: Sizes) -> IntArray:
        """[steps] picoseconds."""
        launching: IntArray = self._launches.take(2 * (sizes.graph > 0))
        if sizes.prompts:
            launching[0] = self._launches[int(sizes.graph[0] > 0)]
        return launching
