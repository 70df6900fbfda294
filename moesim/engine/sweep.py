"""The max-plus sweep: when every node of a step runs, exact for fifo resources, without an event per node.

A node starts at the maximum of what it waits for and ends its duration later (StepGraph gives the rules); rows are in
topological order, so one pass over them suffices. Where all lanes meet in a barrier, as at the end of a layer with
expert parallelism, what follows is independent of what came before but for the instant, so that layers of one shape are
swept side by side and then put one after another.
"""

from __future__ import annotations

from functools import cached_property
from itertools import count
from typing import Literal

import numpy as np

from moesim import accelerate
from moesim.engine.topology import Block, Topology
from moesim.step.graph import ABSENT, RESOURCES, IntArray, Schedule, StepGraph

Kernel = Literal["auto", "numpy", "numba"]

#: Compiling, or loading what was compiled, takes as long as some hundred sweeps: only a run with more of them does.
_PATIENCE = 300
_swept = count()


class Sweep:
    """The sweep over all graphs of one shape; analysing the shape once makes repeated sweeps cheap."""

    def __init__(self, graph: StepGraph) -> None:
        self.topology = Topology(graph)

    def run(
        self, duration: IntArray, start: IntArray | None = None, free: IntArray | None = None, kernel: Kernel = "auto"
    ) -> Schedule:
        """The schedule of nodes that take `duration` [R, N] picoseconds, ABSENT where the graph's shape has none.

        Args:
            start: [N] the earliest instant of each lane's nodes. free: [resources, N] when each resource is available.
            kernel: numpy, numba, or whichever there is. The results are the same bytes.
        """
        lanes = duration.shape[1]
        released = np.zeros((len(RESOURCES), lanes), dtype=np.int64) if free is None else free.astype(np.int64)
        if start is not None:
            released = np.maximum(released, start)
        if kernel == "numba" or (kernel == "auto" and accelerate.HAVE_NUMBA and next(_swept) >= _PATIENCE):
            return self._compiled(duration, released)
        return self._vectorised(duration, released)

    def _vectorised(self, duration: IntArray, released: IntArray) -> Schedule:
        topology, blocks = self.topology, self.topology.blocks
        if not self._meets(duration, released):
            blocks = (Block(0, duration.shape[0]),)
        start, finish = np.empty_like(duration), np.empty_like(duration)
        for alike in self._shapes if len(blocks) > 1 else (blocks,):
            origin = released if alike[0].first == 0 else np.zeros_like(released)
            rows = np.concatenate([np.arange(block.first, block.last) for block in alike])
            begun, ended = self._sweep_blocks(duration, alike, origin)
            start[rows], finish[rows] = begun.reshape(len(rows), -1), ended.reshape(len(rows), -1)
        offset = np.cumsum([0, *(finish[block.last - 1, 0] for block in blocks[:-1])])
        shift = np.repeat(offset, [block.last - block.first for block in blocks])[:, None]
        absent = ~topology.present
        start, finish = start + shift, finish + shift
        start[absent] = finish[absent] = ABSENT
        return Schedule(start, finish)

    def _meets(self, duration: IntArray, released: IntArray) -> bool:
        """Whether the barriers are barriers with these durations: they end on all lanes at once, and no resource is
        released only after the first of them."""
        blocks = self.topology.blocks
        ends = duration[[block.last - 1 for block in blocks[:-1]]]
        if len(blocks) == 1 or (ends != ends[:, :1]).any():
            return False
        return not released.any() or bool(released.max() <= self._sweep_blocks(duration, blocks[:1], released)[1].max())

    @cached_property
    def _shapes(self) -> tuple[tuple[Block, ...], ...]:
        """Blocks grouped by shape; the first is by itself, it alone may start unevenly."""
        alike: dict[object, list[Block]] = {}
        for block in self.topology.blocks[1:]:
            alike.setdefault(self.topology.key(block), []).append(block)
        return (self.topology.blocks[:1], *(tuple(blocks) for blocks in alike.values()))

    def _sweep_blocks(
        self, duration: IntArray, alike: tuple[Block, ...], released: IntArray
    ) -> tuple[IntArray, IntArray]:
        """[blocks, rows, N] start and finish of blocks of one shape, each from its own time zero on."""
        topology, model = self.topology, alike[0]
        lanes, rows = duration.shape[1], model.last - model.first
        index = np.array([block.first for block in alike])[:, None] + np.arange(rows)
        took = duration[index]
        start, finish = np.empty_like(took), np.empty_like(took)
        free = [np.broadcast_to(each, (len(alike), lanes)) for each in released]
        for i in range(rows):
            row = model.first + i
            groups, present, resource = topology.groups[row], topology.present[row], topology.resource[row]
            begun = (
                free[resource] if not topology.joint[row] else groups.spread_max(np.where(present, free[resource], 0))
            )
            for p in topology.local_predecessors(row, model):
                begun = np.maximum(begun, groups.spread_max(finish[:, p]))
            start[:, i] = begun
            if present.all():
                free[resource] = finish[:, i] = begun + took[:, i]
            else:
                finish[:, i] = np.where(present, begun + took[:, i], ABSENT)
                free[resource] = np.where(present, finish[:, i], free[resource])
        return start, finish

    def _compiled(self, duration: IntArray, released: IntArray) -> Schedule:
        start, finish = np.empty_like(duration), np.empty_like(duration)
        accelerate.compiled(sweep_loop)(duration, released.copy(), *self._flat, start, finish)
        return Schedule(start, finish)

    @cached_property
    def _flat(self) -> tuple[IntArray, ...]:
        """The shape as plain arrays: resource and joint [R], group label [R, N], predecessors in compressed rows."""
        topology = self.topology
        counts = [len(p) for p in topology.predecessors]
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        flat = np.array([p for row in topology.predecessors for p in row], dtype=np.int64)
        labels = np.array([groups.label for groups in topology.groups], dtype=np.int64).reshape(topology.present.shape)
        return (np.array(topology.resource), np.array(topology.joint, dtype=np.int64), labels, offsets, flat)


def sweep_loop(
    duration: IntArray,
    free: IntArray,
    resource: IntArray,
    joint: IntArray,
    label: IntArray,
    offsets: IntArray,
    predecessors: IntArray,
    start: IntArray,
    finish: IntArray,
) -> None:
    """The sweep node by node, in the form that numba compiles. Writes `start` and `finish`, overwrites `free`."""
    rows, lanes = duration.shape
    waits = np.empty(lanes, dtype=np.int64)
    for row in range(rows):
        waits[:] = 0  # by group: the latest of what its nodes wait for together
        for k in range(offsets[row], offsets[row + 1]):
            for lane in range(lanes):
                waits[label[row, lane]] = max(waits[label[row, lane]], finish[predecessors[k], lane])
        if joint[row]:
            for lane in range(lanes):
                if duration[row, lane] >= 0:
                    waits[label[row, lane]] = max(waits[label[row, lane]], free[resource[row], lane])
        for lane in range(lanes):
            start[row, lane] = finish[row, lane] = -1
            if duration[row, lane] >= 0:
                start[row, lane] = max(waits[label[row, lane]], free[resource[row], lane])
                finish[row, lane] = start[row, lane] + duration[row, lane]
                free[resource[row], lane] = finish[row, lane]


_recent: list[Sweep] = []


def sweep(
    graph: StepGraph, start: IntArray | None = None, free: IntArray | None = None, kernel: Kernel = "auto"
) -> Schedule:
    """The schedule of one step on fifo resources; shared bandwidth (`demand`) is taken as unlimited.

    Shapes are remembered by identity: graphs that share all arrays but their durations are analysed once.

    Args:
        start: [N] the earliest instant of each lane's nodes. free: [resources, N] when each resource is available.
    """
    known = next((s for s in _recent if s.topology.fits(graph)), None)
    if known is None:
        known = Sweep(graph)
        _recent.append(known)
        del _recent[:-8]
    return known.run(graph.duration, start, free, kernel)
