"""What a schedule says: how long each resource was busy, and which chain of nodes made the step as long as it was."""

from __future__ import annotations

import numpy as np

from moesim.engine.topology import previous_on_resource
from moesim.step.graph import ABSENT, NETWORK, RESOURCES, IntArray, Schedule, StepGraph


def busy(graph: StepGraph, schedule: Schedule) -> IntArray:
    """[resources, N] picoseconds in which each resource runs a node."""
    lasted = schedule.finish - schedule.start
    return np.array([lasted[graph.resource == index].sum(axis=0) for index in range(len(RESOURCES))])


def hidden_communication(graph: StepGraph, schedule: Schedule) -> int:
    """Picoseconds in which a lane both communicates and computes; the mean over the lanes that have nodes."""
    network = graph.resource == NETWORK
    present = graph.duration != ABSENT
    hidden = 0
    for lane in np.flatnonzero(present.any(axis=0)):
        spans = np.stack([schedule.start[:, lane], schedule.finish[:, lane]], axis=1)
        hidden += _overlap(spans[present[:, lane] & ~network], spans[present[:, lane] & network])
    return hidden // max(int(present.any(axis=0).sum()), 1)


def _overlap(computing: IntArray, talking: IntArray) -> int:
    """Time in spans [n, 2] that lies in others [m, 2] too; the former may overlap each other, the latter do not."""
    begin, end = computing[np.argsort(computing[:, 0], kind="stable")].T
    end = np.maximum.accumulate(end)
    begin = np.maximum(begin, np.concatenate([begin[:1], end[:-1]]))  # what an earlier one covers counts once
    both = np.minimum(end[:, None], talking[:, 1]) - np.maximum(begin[:, None], talking[:, 0])
    return int(both.clip(min=0).sum())


def critical_path(graph: StepGraph, schedule: Schedule) -> list[tuple[int, int]]:
    """(row, lane) of the nodes that end last, one starting as the one before ends, in the order of time.

    Begins with a node that waits for no other. Ties: the input before the resource, the own lane before others.
    """
    if not graph.rows or schedule.finish.max(initial=ABSENT) == ABSENT:
        return []
    previous = previous_on_resource(graph)
    flat = int(np.argmax(schedule.finish[::-1]))  # the last row among those that end last
    node = (graph.rows - 1 - flat // graph.lanes, flat % graph.lanes)
    path = [node]
    while (before := _binding(graph, schedule, previous, *node)) is not None:
        path.append(node := before)
    return path[::-1]


def _binding(graph: StepGraph, schedule: Schedule, previous: IntArray, row: int, lane: int) -> tuple[int, int] | None:
    """The node whose end let this one start; None where it was free to start all along."""
    start = schedule.start[row, lane]
    labels = graph.partitions[graph.partition[row]]
    group = np.flatnonzero(labels == labels[lane]) if labels[lane] >= 0 else np.array([lane])
    group = np.concatenate([[lane], group[group != lane]])
    for p in reversed(graph.predecessors[row]):
        binding = group[schedule.finish[p, group] == start]
        if len(binding):
            return p, int(binding[0])
    users = [g for g in group if graph.duration[row, g] != ABSENT] if graph.joint[row] else [lane]
    for user in users:
        p = int(previous[row, user])
        if p >= 0 and schedule.finish[p, user] == start:
            return p, int(user)
    return None
