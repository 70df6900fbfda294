"""The step graph: one forward step as a columnar DAG over the resources of its lanes.

A *lane* is a device of the replica, in rank order. A *row* is one operator or collective; a node is a (row, lane) pair,
so a step of R rows on N lanes is an R x N matrix of durations instead of R x N objects. Rows are in topological order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.transfer import PICOSECONDS, Collective, FloatArray, IntArray, Phase, picoseconds

__all__ = [
    "ABSENT",
    "COMPUTE",
    "COPROCESSORS",
    "COPY",
    "HOST",
    "NETWORK",
    "PEER",
    "PICOSECONDS",
    "RESOURCES",
    "SIDE_COMPUTE",
    "Collective",
    "FloatArray",
    "IntArray",
    "Phase",
    "Resource",
    "Schedule",
    "StepGraph",
    "picoseconds",
]

ABSENT = -1


@dataclass(frozen=True)
class Resource:
    """Something each lane has one of, on which nodes run one after another, in row order."""

    name: str


COMPUTE, SIDE_COMPUTE, NETWORK = 0, 1, 2
#: Those of a device's coprocessors, in the order of its descriptor.
COPROCESSORS = (3, 4)
#: The engine that moves data between memory tiers, what sends to other pipeline stages beside the collectives, and the
#: host's processor.
COPY, PEER, HOST = 5, 6, 7
#: The compute stream, a second compute stream beside it, the ports, coprocessors, copies, sends and the host; memory
#: bandwidth is the shared one.
RESOURCES = tuple(
    Resource(name)
    for name in ("compute", "side_compute", "network", "coprocessor", "second_coprocessor", "copy", "peer", "host")
)


@dataclass(frozen=True)
class StepGraph:
    """One step. Shapes: R rows, N lanes, P partitions.

    A node starts when (1) for every predecessor row, the nodes of all lanes of the node's own group have finished,
    (2) its lane's resource has finished every earlier row on it, and (3), where the row is `joint` (a collective), the
    same holds for every lane of its group that has a node. The groups of row r are given by row `partition[r]` of
    `partitions`; partition 0 is each lane alone, and so is a lane with a label below 0.
    """

    name: tuple[str, ...]
    kind: tuple[str, ...]
    layer: IntArray  # [R], -1 outside the layers
    resource: IntArray  # [R], index into RESOURCES
    duration: IntArray  # [R, N] picoseconds, ABSENT where the lane has no such node
    partition: IntArray  # [R]
    partitions: IntArray  # [P, N] group label per lane; partitions[0] is arange(N)
    joint: NDArray[np.bool_]  # [R]
    predecessors: tuple[tuple[int, ...], ...]  # rows, all smaller than the row itself
    collectives: dict[int, Collective] = field(default_factory=dict)  # by row
    #: [R, N] bytes a node moves over its lane's shared memory, and the lane's bandwidth [N]; None: nothing is shared.
    demand: FloatArray | None = None
    capacity: FloatArray | None = None

    @property
    def rows(self) -> int:
        return len(self.name)

    @property
    def lanes(self) -> int:
        return int(self.duration.shape[1])


@dataclass(frozen=True)
class Schedule:
    """When each node ran: start and finish in picoseconds from the step's start [R, N], ABSENT where there is none."""

    start: IntArray
    finish: IntArray

    @property
    def makespan(self) -> int:
        return int(self.finish.max(initial=0))
