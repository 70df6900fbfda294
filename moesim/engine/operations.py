"""`fidelity: op`: a step executed operation by operation with SimPy processes, streams, ports and memories.

Every lane launches its nodes in program order onto streams (simpy.Resource), where they queue; a node waits at the head
of its stream for its inputs. Collectives move their phases link by link and round by round. Neither the durations of
collectives nor any chain of nodes is read from the plan, so that agreeing with the sweep is a check that can fail.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import simpy

from moesim.engine.clock import Clock
from moesim.engine.invariants import check_collective, require
from moesim.engine.topology import Groups
from moesim.engine.wires import OwnWires, Wires
from moesim.fabric.transfer import Phase, Transfer, concurrent, picoseconds
from moesim.step.graph import ABSENT, PEER, PICOSECONDS, RESOURCES, Schedule, StepGraph

Steps = Generator[simpy.Event, Any, Any]


def execute(graph: StepGraph) -> Schedule:
    """The schedule of a step, by events on a clock of its own.

    Raises:
        InvariantError: the step cannot finish, or a collective loses bytes.
    """
    clock = Clock()
    step = start(graph, clock)
    clock.run()
    require(step.triggered, "a step is stuck: its nodes wait for each other")
    return cast(Schedule, step.value)


def start(graph: StepGraph, clock: Clock, wires: Wires | None = None) -> simpy.Process:
    """Begin the step now. The process ends with it; its value is the Schedule, from this instant on.

    Args:
        wires: what its collectives travel over; None: ports and links of its own, one transfer after the other.
    """
    return clock.process(_Execution(graph, clock, wires or OwnWires(clock)).run())


class Memory:
    """The memory of one lane: those who read it divide its bandwidth max-min fair."""

    def __init__(self, clock: Clock, capacity: float) -> None:
        self.clock, self.capacity = clock, capacity
        self._reads: list[_Read] = []
        self._updated = clock.now
        self._timer = clock.call_in(0, self._complete)

    def read(self, duration: int, alone: float) -> simpy.Event:
        """An event that comes when what takes `duration` at `alone` bytes per second is done."""
        self._advance()
        read = _Read(self.clock.event(), float(duration), min(alone, self.capacity))
        self._reads.append(read)
        self._divide()
        return read.done

    def _advance(self) -> None:
        for read in self._reads:
            read.left -= read.rate / read.wanted * (self.clock.now - self._updated)
        self._updated = self.clock.now

    def _divide(self) -> None:
        """Raise all rates together; whoever has what it wants drops out (progressive filling)."""
        hungry, left = list(self._reads), self.capacity
        while hungry:
            level = left / len(hungry)
            content = [read for read in hungry if read.wanted <= level * (1 + 1e-9)]
            for read in content or hungry:
                read.rate = read.wanted if content else level
                left -= read.rate
            hungry = [read for read in hungry if read not in content] if content else []
        self._timer.cancel()
        if self._reads:
            self._timer = self.clock.call_in(max(min(map(_Read.due, self._reads)), 0), self._complete)

    def _complete(self) -> None:
        self._advance()
        done = [read for read in self._reads if read.due() <= 0]
        self._reads = [read for read in self._reads if read not in done]
        for read in done:
            read.done.succeed()
        self._divide()


@dataclass(slots=True, eq=False)
class _Read:
    """Picoseconds `left` at full speed, bytes per second `wanted` for it, and granted."""

    done: simpy.Event
    left: float
    wanted: float
    rate: float = 0.0

    def due(self) -> int:
        return math.floor(self.left * self.wanted / self.rate + 0.5)


@dataclass(eq=False)
class _Meeting:
    """Where the lanes of a joint node wait for each other; `begin` comes with the last of them."""

    begin: simpy.Event
    expected: int
    end: simpy.Event | None = None


@dataclass(eq=False)
class _Lane:
    """One device: its streams, its memory."""

    streams: list[simpy.Resource]
    memory: Memory | None
    done: dict[int, simpy.Event] = field(default_factory=dict)  # by row, for the rows that it takes part in


class _Execution:
    def __init__(self, graph: StepGraph, clock: Clock, wires: Wires) -> None:
        self.graph, self.clock, self.origin = graph, clock, clock.now
        # What goes to other pipeline stages runs beside the collectives, in the plan too.
        self.wires, self.beside = wires, OwnWires(clock)
        self.labels = [Groups(labels).label.tolist() for labels in graph.partitions]
        self.lanes = [self._lane(index) for index in range(graph.lanes)]
        for row in range(graph.rows):
            for lane in self._participants(row):
                self.lanes[lane].done[row] = clock.event()
        self.inputs: dict[tuple[int, int], simpy.Event] = {}
        self.meetings: dict[tuple[int, int], _Meeting] = {}
        self.start = np.full(graph.duration.shape, ABSENT, dtype=np.int64)
        self.finish = self.start.copy()

    def _lane(self, index: int) -> _Lane:
        capacity = self.graph.capacity
        memory = None if capacity is None else Memory(self.clock, float(capacity[index]))
        return _Lane([simpy.Resource(self.clock) for _ in RESOURCES], memory)

    def _participants(self, row: int) -> list[int]:
        """The lanes of a row. Who takes part in a collective is the collective's to say."""
        if row in self.graph.collectives:
            check_collective(self.graph.collectives[row])
            return [lane for group in self.graph.collectives[row].members for lane in group]
        return np.flatnonzero(self.graph.duration[row] != ABSENT).tolist()

    def run(self) -> Steps:
        programs = [self.clock.process(self._program(lane)) for lane in range(self.graph.lanes)]
        yield self.clock.all_of(programs)
        yield self.clock.all_of([done for lane in self.lanes for done in lane.done.values()])
        return Schedule(self.start, self.finish)

    def _program(self, lane: int) -> Steps:
        """A lane's host: launches all nodes in order and waits for none of them."""
        for row in self.lanes[lane].done:
            self.clock.process(self._node(row, lane))
        yield self.clock.timeout(0)

    def _node(self, row: int, lane: int) -> Steps:
        with self.lanes[lane].streams[self.graph.resource[row]].request() as turn:
            yield turn
            yield self._inputs(row, lane)
            if self.graph.joint[row] or row in self.graph.collectives:
                yield self._meeting(row, lane).begin
            self.start[row, lane] = self.clock.now - self.origin
            yield self._work(row, lane)
            self.finish[row, lane] = self.clock.now - self.origin
        self.lanes[lane].done[row].succeed()

    def _inputs(self, row: int, lane: int) -> simpy.Event:
        """Comes when all predecessors have finished on all lanes of the node's group; one event per group."""
        labels = self.labels[self.graph.partition[row]]
        key = row, labels[lane]
        if key not in self.inputs:
            group = [self.lanes[other].done for other, label in enumerate(labels) if label == labels[lane]]
            awaited = [done[p] for p in self.graph.predecessors[row] for done in group if p in done]
            self.inputs[key] = self.clock.all_of(awaited)
        return self.inputs[key]

    def _meeting(self, row: int, lane: int) -> _Meeting:
        """Arrive at the node's meeting; the last one to come begins it."""
        label = self.labels[self.graph.partition[row]][lane]
        if (row, label) not in self.meetings:
            labels = self.labels[self.graph.partition[row]]
            group = [other for other, each in enumerate(self.lanes) if labels[other] == label and row in each.done]
            if row in self.graph.collectives:
                members = self.graph.collectives[row].members
                require(
                    any(sorted(m) == group for m in members), f"{self.graph.name[row]}: no communicator is its group"
                )
            self.meetings[row, label] = _Meeting(self.clock.event(), len(group))
        meeting = self.meetings[row, label]
        meeting.expected -= 1
        if not meeting.expected:
            meeting.begin.succeed()
            if row in self.graph.collectives:
                meeting.end = self.clock.process(self._transfer(row, lane))
        return meeting

    def _work(self, row: int, lane: int) -> simpy.Event:
        meeting = self.meetings.get((row, self.labels[self.graph.partition[row]][lane]))
        if meeting is not None and meeting.end is not None:
            return meeting.end
        took, memory, demand = int(self.graph.duration[row, lane]), self.lanes[lane].memory, self.graph.demand
        if memory is not None and demand is not None and took > 0 and demand[row, lane] > 0:
            return memory.read(took, float(demand[row, lane]) / took * PICOSECONDS)
        return self.clock.timeout(took, what=self.graph.name[row])

    def _transfer(self, row: int, lane: int) -> Steps:
        """What the group of `lane` exchanges: the call's overhead, then stage by stage what runs side by side."""
        collective = self.graph.collectives[row]
        wires = self.beside if self.graph.resource[row] == PEER else self.wires
        index = next(i for i, group in enumerate(collective.members) if lane in group)
        members, transfer = collective.members[index], collective.transfers[index]
        if transfer.phases:
            yield self.clock.timeout(int(picoseconds(transfer.ports.overhead)), what=collective.operation)
        for stage in concurrent(transfer.phases):
            phases = [self._phase(phase, transfer, members, wires) for phase in stage]
            yield self.clock.all_of([self.clock.process(phase) for phase in phases])

    def _phase(self, phase: Phase, transfer: Transfer, members: tuple[int, ...], wires: Wires) -> Steps:
        """Synchronous rounds: the next begins when all of this one has arrived."""
        for _ in range(phase.rounds):
            yield wires.round(phase, transfer.ports, members)
