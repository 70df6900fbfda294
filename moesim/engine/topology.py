"""What of a step graph does not depend on durations: groups, the predecessors that matter, and where all lanes meet."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from moesim.step.graph import ABSENT, RESOURCES, IntArray, StepGraph

BoolArray = NDArray[np.bool_]


class Groups:
    """A partition of the lanes; lanes without a label (below 0) are groups of their own."""

    def __init__(self, labels: IntArray) -> None:
        lanes = len(labels)
        named = np.where(labels < 0, labels.max(initial=0) + 1 + np.arange(lanes), labels)
        self.label = np.unique(named, return_inverse=True)[1].astype(np.int64)
        self.count = int(self.label.max(initial=-1)) + 1
        self._order = np.argsort(self.label, kind="stable")
        self._first = np.searchsorted(self.label[self._order], np.arange(self.count))
        self.alone = self.count == lanes
        self.single = self.count == 1

    def spread_max(self, values: IntArray) -> IntArray:
        """[..., N] -> [..., N]: for every lane the maximum over its group."""
        if self.alone:
            return values
        if self.single:
            return np.broadcast_to(values.max(axis=-1, keepdims=True), values.shape)
        highest: IntArray = np.maximum.reduceat(values[..., self._order], self._first, axis=-1)[..., self.label]
        return highest

    def spread_any(self, mask: BoolArray) -> BoolArray:
        """[N] -> [N]: for every lane whether any lane of its group is marked."""
        return self.spread_max(mask.astype(np.int64)) > 0


@dataclass(frozen=True)
class Block:
    """Rows `first` to `last` (exclusive). At the start of any but the first block all lanes have finished all earlier
    rows, at the instant in which the previous block's last row ends."""

    first: int
    last: int


class Topology:
    """A graph's shape. `predecessors` leaves out those that the order of a resource implies."""

    def __init__(self, graph: StepGraph) -> None:
        self.graph = graph
        self.present: BoolArray = graph.duration != ABSENT
        self.resource: list[int] = graph.resource.tolist()
        self.joint: list[bool] = graph.joint.tolist()
        distinct = [Groups(labels) for labels in graph.partitions]
        self.groups: list[Groups] = [distinct[p] for p in graph.partition.tolist()]
        self.predecessors = tuple(self._needed(row) for row in range(graph.rows))
        self.blocks = self._blocks()

    def fits(self, graph: StepGraph) -> bool:
        """Whether the graph differs from this one in its durations alone."""
        mine = self.graph
        same = (
            graph.predecessors is mine.predecessors
            and graph.resource is mine.resource
            and graph.partition is mine.partition
            and graph.partitions is mine.partitions
            and graph.joint is mine.joint
        )
        return same and np.array_equal(graph.duration != ABSENT, self.present)

    def key(self, block: Block) -> tuple[object, ...]:
        """Equal for blocks of the same shape."""
        rows = slice(block.first, block.last)
        inner = tuple(self.local_predecessors(row, block) for row in range(block.first, block.last))
        partition, present = self.graph.partition[rows].tobytes(), self.present[rows].tobytes()
        return tuple(self.resource[rows]), tuple(self.joint[rows]), partition, present, inner

    def local_predecessors(self, row: int, block: Block) -> tuple[int, ...]:
        """Predecessors inside the block, counted from its first row."""
        return tuple(p - block.first for p in self.predecessors[row] if p >= block.first)

    def _within(self, row: int, other: int) -> bool:
        """Whether `other` has a node wherever `row` has one."""
        return not (self.present[row] & ~self.present[other]).any()

    def _needed(self, row: int) -> tuple[int, ...]:
        """The row waits for its resource anyway, on its own lane, and where it is joint on every lane that it uses."""
        alone, joint = self.groups[row].alone, self.joint[row]

        def implied(p: int) -> bool:
            return self.resource[p] == self.resource[row] and (alone or (joint and self._within(p, row)))

        return tuple(p for p in self.graph.predecessors[row] if not implied(p))

    def _blocks(self) -> tuple[Block, ...]:
        rows, barriers = self.graph.rows, self._barriers()
        edges = [0, *[row + 1 for row in barriers]]
        edges += [rows] if edges[-1] < rows or rows == 0 else []
        return tuple(Block(a, b) for a, b in pairwise(edges))

    def _barriers(self) -> list[int]:
        """Rows at whose end everything before has finished and before which nothing after can start."""
        previous = previous_on_resource(self.graph)
        candidates: list[int] = []
        for row in range(self.graph.rows):
            meets = self.joint[row] and self.groups[row].single and self.present[row].all()
            if meets and self._waits_for_all(row, candidates[-1] if candidates else 0, previous):
                candidates.append(row)
        barriers: list[int] = []
        until = self.graph.rows
        for row in reversed(candidates):
            if self._holds_all(row, until):
                barriers.append(row)
                until = row + 1
        return barriers[::-1]

    def _waits_for_all(self, barrier: int, after: int, previous: IntArray) -> bool:
        """Whether all nodes of the rows from `after` on end before the barrier begins: walks back from it."""
        awaited = np.zeros((barrier + 1, self.graph.lanes), dtype=bool)
        awaited[barrier] = True
        for row in range(barrier, after - 1, -1):
            if not (awaited[row] | ~self.present[row]).all():
                return False
            group = self.groups[row].spread_any(awaited[row] & self.present[row])
            for p in self.graph.predecessors[row]:
                awaited[p] |= group
            lanes = np.flatnonzero(
                (group if self.joint[row] else awaited[row]) & (previous[row] >= 0) & self.present[row]
            )
            awaited[previous[row, lanes], lanes] = True
        return True

    def _holds_all(self, barrier: int, until: int) -> bool:
        """Whether no node of the rows after the barrier, up to `until`, can begin before the barrier ends."""
        held = np.zeros((until - barrier, self.graph.lanes), dtype=bool)
        held[0] = True
        latest = np.zeros((len(RESOURCES), self.graph.lanes), dtype=bool)
        latest[self.resource[barrier]] = True
        for row in range(barrier + 1, until):
            groups, present = self.groups[row], self.present[row]
            inputs = [held[p - barrier] for p in self.graph.predecessors[row] if p >= barrier]
            own = latest[self.resource[row]] & present
            waits = groups.spread_any(np.logical_or.reduce([*inputs, own])) if self.joint[row] else own
            waits = waits | groups.spread_any(np.logical_or.reduce(inputs)) if inputs else waits
            if not (waits | ~present).all():
                return False
            held[row - barrier] = present
            latest[self.resource[row]] |= present
        return True


def previous_on_resource(graph: StepGraph) -> IntArray:
    """[R, N] the row that runs before a node on its lane's resource, -1 where it is the first."""
    last = np.full((len(RESOURCES), graph.lanes), -1, dtype=np.int64)
    previous = np.full(graph.duration.shape, -1, dtype=np.int64)
    for row, resource in enumerate(graph.resource.tolist()):
        previous[row] = last[resource]
        last[resource] = np.where(graph.duration[row] != ABSENT, row, last[resource])
    return previous
