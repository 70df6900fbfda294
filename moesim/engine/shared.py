"""Steps whose nodes share their lane's memory bandwidth, by progressive filling.

Nodes on different resources of a lane run side by side. Those that move bytes divide the lane's capacity max-min fair,
none taking more than it would alone; the others run at full speed. Rates change only when a node of the lane starts or
ends, so the schedule is exact between these instants (Bertsekas and Gallager, Data Networks, section 6.5.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np

from moesim.engine.invariants import require
from moesim.engine.topology import Groups
from moesim.step.graph import ABSENT, PICOSECONDS, RESOURCES, Schedule, StepGraph


def fill(graph: StepGraph) -> Schedule:
    """The schedule of a graph with `demand` and `capacity`; completions are rounded to the nearest picosecond.

    The same as the sweep where nothing overlaps, never earlier anywhere.
    """
    return _Filling(graph).run()


def max_min(wanted: list[float], capacity: float) -> list[float]:
    """Max-min fair shares of `capacity`; who wants no more than a fair share (to 1e-9) gets exactly what it wants."""
    shares, left = [0.0] * len(wanted), capacity
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    for i, flow in enumerate(order):
        fair = left / (len(order) - i)
        shares[flow] = wanted[flow] if wanted[flow] <= fair * (1 + 1e-9) else fair
        left = max(left - shares[flow], 0.0)
    return shares


#: When a node ends whose rate is not known yet.
NEVER = 2**63 - 1


@dataclass(slots=True)
class _Running:
    """A node in progress: picoseconds `left` at full speed, bytes per second `wanted` alone, share of full speed."""

    row: int
    left: float
    wanted: float
    rate: float = 1.0
    due: int = NEVER


class _Filling:
    """The state of one execution. Lists rather than arrays: it is walked node by node."""

    def __init__(self, graph: StepGraph) -> None:
        self.graph, lanes = graph, graph.lanes
        self.duration = graph.duration.tolist()
        self.wanted = self._alone(graph)
        self.capacity = np.full(lanes, np.inf).tolist() if graph.capacity is None else graph.capacity.tolist()
        self.groups = [Groups(labels) for labels in graph.partitions]
        self.group = [self.groups[p] for p in graph.partition]
        self.label = [groups.label.tolist() for groups in self.group]
        self.resource, self.joint = graph.resource.tolist(), graph.joint.tolist()
        self.successors: list[list[int]] = [[] for _ in range(graph.rows)]
        for row, before in enumerate(graph.predecessors):
            for p in dict.fromkeys(before):
                self.successors[p].append(row)
        self.members, self.inputs, self.absent = self._counts()
        self.queue = [[self._program(r, lane) for lane in range(lanes)] for r in range(len(RESOURCES))]
        self.position = [[0] * lanes for _ in RESOURCES]
        self.running: list[list[_Running]] = [[] for _ in range(lanes)]
        self.updated, self.version = [0] * lanes, [0] * lanes
        self.calendar: list[tuple[int, int, int]] = []  # due, lane, the lane's version when it was computed
        self.changed: dict[int, None] = {}  # lanes whose nodes started or ended at this instant, in that order
        self.start = np.full(graph.duration.shape, ABSENT, dtype=np.int64)
        self.finish = self.start.copy()

    @staticmethod
    def _alone(graph: StepGraph) -> Any:
        """[R, N] bytes per second of each node when alone, at most its lane's capacity; 0 where it moves none."""
        if graph.demand is None or graph.capacity is None:
            return np.zeros(graph.duration.shape).tolist()
        moves = (graph.duration > 0) & (graph.demand > 0)
        rate = np.where(moves, graph.demand, 0.0) / np.where(moves, graph.duration, 1) * PICOSECONDS
        return np.minimum(rate, graph.capacity).tolist()

    def _counts(self) -> tuple[list[list[list[int]]], list[list[int]], list[list[int]]]:
        """Per row and group: the lanes with a node, the number of unfinished inputs, of lanes yet to arrive."""
        members: list[list[list[int]]] = []
        inputs: list[list[int]] = []
        present = self.graph.duration != ABSENT
        for row, groups in enumerate(self.group):
            of_group: list[list[int]] = [[] for _ in range(groups.count)]
            for lane in np.flatnonzero(present[row]).tolist():
                of_group[self.label[row][lane]].append(lane)
            members.append(of_group)
            feeding = present[list(dict.fromkeys(self.graph.predecessors[row]))].sum(axis=0)
            inputs.append(np.bincount(groups.label, feeding, groups.count).astype(int).tolist())
        return members, inputs, [[len(lanes) for lanes in row] for row in members]

    def _program(self, resource: int, lane: int) -> list[int]:
        on_lane = (self.graph.resource == resource) & (self.graph.duration[:, lane] != ABSENT)
        return np.flatnonzero(on_lane).tolist()

    def run(self) -> Schedule:
        for resource in range(len(RESOURCES)):
            for lane in range(self.graph.lanes):
                self._arrive(resource, lane, 0)
        self._divide(0)
        while self.calendar:
            now = self.calendar[0][0]
            while self.calendar and self.calendar[0][0] == now:
                _, lane, version = heappop(self.calendar)
                if version == self.version[lane]:
                    self._advance(lane, now)
                    self._end(lane, [node for node in self.running[lane] if node.due <= now], now)
            self._divide(now)
        require(bool(((self.finish == ABSENT) == (self.graph.duration == ABSENT)).all()), "a step is stuck")
        return Schedule(self.start, self.finish)

    def _arrive(self, resource: int, lane: int, now: int) -> None:
        """The lane's next node on the resource is at its turn; it starts if nothing else keeps it waiting."""
        place = self.position[resource][lane]
        if place < len(self.queue[resource][lane]):
            row = self.queue[resource][lane][place]
            self.absent[row][self.label[row][lane]] -= 1
            self._try(row, self.label[row][lane], [lane], now)

    def _try(self, row: int, label: int, lanes: list[int], now: int) -> None:
        """Start the row on those of the lanes, or all lanes of a joint group, that wait for nothing else."""
        if self.inputs[row][label] or (self.joint[row] and self.absent[row][label]):
            return
        resource = self.resource[row]
        for lane in self.members[row][label] if self.joint[row] else lanes:
            queue, place = self.queue[resource][lane], self.position[resource][lane]
            if place < len(queue) and queue[place] == row and self.start[row, lane] == ABSENT:
                self._advance(lane, now)
                self.start[row, lane] = now
                self.running[lane].append(_Running(row, float(self.duration[row][lane]), self.wanted[row][lane]))
                self.changed[lane] = None

    def _end(self, lane: int, nodes: Iterable[_Running], now: int) -> None:
        for node in nodes:
            row = node.row
            self.running[lane].remove(node)
            self.finish[row, lane] = now
            self.changed[lane] = None
            self.position[self.resource[row]][lane] += 1
            self._arrive(self.resource[row], lane, now)
            for later in self.successors[row]:
                label = self.label[later][lane]
                self.inputs[later][label] -= 1
                if not self.inputs[later][label]:
                    self._try(later, label, self.members[later][label], now)

    def _advance(self, lane: int, now: int) -> None:
        elapsed = now - self.updated[lane]
        if elapsed:
            for node in self.running[lane]:
                node.left -= node.rate * elapsed
            self.updated[lane] = now

    def _divide(self, now: int) -> None:
        """New rates and completions on the lanes that changed."""
        for lane in self.changed:
            nodes = self.running[lane]
            self.version[lane] += 1
            sharing = [node for node in nodes if node.wanted > 0]
            for node, share in zip(sharing, max_min([n.wanted for n in sharing], self.capacity[lane]), strict=True):
                node.rate = share / node.wanted
            for node in nodes:
                node.due = max(now, now + math.floor(node.left / node.rate + 0.5))
            if nodes:
                heappush(self.calendar, (min(node.due for node in nodes), lane, self.version[lane]))
        self.changed.clear()
