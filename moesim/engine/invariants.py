"""What must hold on every run. A violation is an error of the simulator, never of the user's input."""

from __future__ import annotations

import numpy as np

from moesim.fabric.in_switch import IN_SWITCH
from moesim.fabric.transfer import Collective
from moesim.step.graph import ABSENT, RESOURCES, FloatArray, IntArray, Schedule, StepGraph


class InvariantError(RuntimeError):
    """The simulator contradicts itself: a conservation law or an order of events does not hold."""


def require(holds: bool, what: str) -> None:
    """Raises InvariantError(what) unless `holds`."""
    if not holds:
        raise InvariantError(what)


def check_conserved(what: str, put_in: float, came_out: float, relative: float = 1e-9) -> None:
    """Bytes sent are bytes received, tokens in are tokens out. NaN fails."""
    if not abs(put_in - came_out) <= relative * max(abs(put_in), abs(came_out)):
        raise InvariantError(f"{what}: {put_in!r} in, {came_out!r} out")


def check_busy(what: str, busy: IntArray | FloatArray | float, capacity: float, elapsed: float) -> None:
    """Nothing is busy for longer than capacity x elapsed (all in the same unit of time, 1e-9 of slack)."""
    worst = float(np.max(busy, initial=0.0))
    if not worst <= capacity * elapsed * (1 + 1e-9):
        raise InvariantError(f"{what} is busy for {worst!r} of {capacity * elapsed!r}")


def check_collective(collective: Collective) -> None:
    """In every group, what leaves the lanes arrives at them; unless switches add up or multiply it on the way."""
    for transfer in collective.transfers:
        if transfer.algorithm not in IN_SWITCH:
            check_conserved(
                f"bytes of {collective.operation}", float(transfer.sent.sum()), float(transfer.received.sum())
            )


def check_schedule(graph: StepGraph, schedule: Schedule, free: IntArray | None = None) -> None:
    """Cheap checks of every executed step, a few array operations: every node ran, none for less than its duration,
    no resource for longer than there was time (`free` [resources, lanes]: when it became available)."""
    present = graph.duration != ABSENT
    require(bool(((schedule.finish != ABSENT) == present).all()), "a node of the step did not run, or one too many did")
    lasted = schedule.finish - schedule.start
    require(bool((lasted >= np.where(present, graph.duration, 0)).all()), "a node ran for less than its duration")
    end = schedule.makespan
    for index, resource in enumerate(RESOURCES):
        rows = graph.resource == index
        if rows.any():
            begin = 0 if free is None else free[index]
            excess = int(np.max(lasted[rows].sum(axis=0) - np.maximum(end - begin, 0)))
            require(excess <= 0, f"a {resource.name} resource is busy {excess} ps longer than the step lasts")


def check_order(graph: StepGraph, schedule: Schedule) -> None:
    """The definition of a valid schedule, node by node (StepGraph); for tests and for debugging an executor."""
    last: dict[tuple[int, int], int] = {}
    for row in range(graph.rows):
        labels = graph.partitions[graph.partition[row]]
        for lane in np.flatnonzero(graph.duration[row] != ABSENT):
            start, group = schedule.start[row, lane], np.flatnonzero(labels == labels[lane])
            for before in graph.predecessors[row]:
                require(schedule.finish[before, group].max() <= start, f"{graph.name[row]} starts before its input")
            if graph.joint[row]:
                together = schedule.start[row, group][graph.duration[row, group] != ABSENT]
                require(bool((together == start).all()), f"{graph.name[row]} does not start on all lanes at once")
        for lane in np.flatnonzero(graph.duration[row] != ABSENT):
            key = (int(graph.resource[row]), int(lane))
            require(last.get(key, 0) <= schedule.start[row, lane], f"{graph.name[row]} overlaps its resource")
            last[key] = int(schedule.finish[row, lane])
