"""What travels between devices: phases of synchronous rounds over ports or links, and the time they take.

A transfer is a short list of phases; its duration is a closed form over them, and an executor that moves the same
phases link by link, round by round, arrives at the same picosecond, because every round is rounded on its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from moesim.fabric.links import GroupLinks

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: Simulated time is counted in integer picoseconds, so that sums do not depend on their order.
PICOSECONDS = 1_000_000_000_000

#: No operation and no step takes an hour on a machine that works; 64 bits hold 2,500 of them.
LONGEST_STEP = 3600 * PICOSECONDS

PortKind = Literal["scale_up", "scale_out"]
Operation = Literal[
    "all_reduce", "all_gather", "reduce_scatter", "broadcast", "multicast", "gather", "all_to_all", "send"
]


def picoseconds(seconds: FloatArray | float) -> IntArray:
    """Durations as the calendar counts them, rounded to the nearest picosecond; an hour stands for more than one."""
    return np.rint(np.minimum(np.multiply(seconds, PICOSECONDS), LONGEST_STEP)).astype(np.int64)


class Port(NamedTuple):
    """One kind of port of a group: bytes/s per lane and direction, seconds per round, joules per byte."""

    bandwidth: FloatArray
    latency: float
    energy: float


@dataclass(frozen=True, eq=False)
class Lanes:
    """The lanes (devices) of a communicator, in the group's order. node: the node of each."""

    node: IntArray

    @cached_property
    def lanes(self) -> int:
        return len(self.node)

    def name(self, lane: int) -> str:
        """Of a lane, in messages."""
        return f"lane {lane}"

    @cached_property
    def several_nodes(self) -> bool:
        return bool((self.node != self.node[0]).any())

    @cached_property
    def order(self) -> IntArray:
        """Lanes sorted by node: a ring in this order crosses between nodes as rarely as it can."""
        return np.argsort(self.node, kind="stable").astype(np.int64)

    @property
    def lattice(self) -> IntArray | None:
        """Lanes as they lie on a grid, [rows, columns, ...]; None where they fill none."""
        return None

    @cached_property
    def grid(self) -> IntArray | None:
        """Lanes as [nodes, lanes of a node], or None where the nodes hold different numbers of them."""
        counts = np.unique(self.node, return_counts=True)[1]
        return self.order.reshape(len(counts), -1) if (counts == counts[0]).all() else None


@dataclass(frozen=True, eq=False)
class GroupPorts(Lanes):
    """A group on a non-blocking switch per node and ports between nodes: only the lanes' own ports limit.

    up_bandwidth, out_bandwidth: bytes/s per direction that large transfers reach, towards the own node (inf where the
    lane is alone in it) and towards other nodes (0 where all lanes share one node).
    up_latency, out_latency: seconds per round. overhead: seconds per call. up_energy, out_energy: joules per byte.
    reduces: whether the node's switch can add up and multicast. names: of the devices, for messages.
    """

    up_bandwidth: FloatArray
    out_bandwidth: FloatArray
    up_latency: float = 0.0
    out_latency: float = 0.0
    overhead: float = 0.0
    up_energy: float = 0.0
    out_energy: float = 0.0
    reduces: bool = False
    names: tuple[str, ...] = ()

    def name(self, lane: int) -> str:
        return self.names[lane] if self.names else super().name(lane)

    def part(self, lanes: Sequence[int]) -> GroupPorts:
        """Some of the lanes, as a group of their own."""
        chosen = list(lanes)
        names = tuple(self.names[lane] for lane in chosen) if self.names else ()
        up, out = self.up_bandwidth[chosen], self.out_bandwidth[chosen]
        return replace(self, node=self.node[chosen], up_bandwidth=up, out_bandwidth=out, names=names)

    def port(self, kind: PortKind) -> Port:
        if kind == "scale_up":
            return Port(self.up_bandwidth, self.up_latency, self.up_energy)
        return Port(self.out_bandwidth, self.out_latency, self.out_energy)


#: What a transfer runs on: ports of a switch, or the links of any topology.
Group: TypeAlias = "GroupPorts | GroupLinks"


class Use(NamedTuple):
    """What a round of a single size occupies: a port or link, by a name of its own in the graph, for picoseconds."""

    resource: Hashable
    duration: int


class Phase(Protocol):
    """`rounds` synchronous rounds, in each of which lane i moves `sent[..., i]` bytes out and `received[..., i]` bytes
    in. Phases follow each other, except that a `parallel` one runs beside the one before it. Shapes: sizes x lanes; the
    last axis may be 1 where all lanes move the same."""

    @property
    def rounds(self) -> int: ...
    @property
    def parallel(self) -> bool: ...
    @property
    def sent(self) -> FloatArray: ...
    @property
    def received(self) -> FloatArray: ...

    def round_picoseconds(self, group: Group) -> IntArray:
        """[...] duration of one round: the latency and the busiest port or link."""

    def joules(self, group: Group) -> FloatArray:
        """[..., lanes] energy of the bytes each lane sends in one round."""

    def pause(self, group: Group) -> int:
        """Picoseconds of a round in which nothing moves: the call is made all the same."""

    def uses(self, group: Group, members: Sequence[int]) -> list[Use]:
        """What one round of a single size occupies; `members`: the lanes of the graph that the group's lanes are."""

    def at(self, place: tuple[int, ...], shape: tuple[int, ...], lanes: int) -> Phase:
        """The phase of one size of `shape`, spelled out lane by lane."""


@dataclass(frozen=True, eq=False)
class PortPhase:
    """A phase on the `port` of one kind of all lanes of a GroupPorts (full duplex); see Phase.

    depth: hops of a pipeline, each of which adds its latency while the bytes stream through.
    """

    port: PortKind
    rounds: int
    sent: FloatArray
    received: FloatArray
    parallel: bool = False
    depth: int = 1

    def round_picoseconds(self, group: Group) -> IntArray:
        port, moved = self._port(group), np.maximum(self.sent, self.received)
        alike = moved.shape[-1] == 1  # then the slowest port is the busiest
        busiest = moved[..., 0] / port.bandwidth.min() if alike else (moved / port.bandwidth).max(axis=-1)
        return picoseconds(port.latency * self.depth + busiest)

    def joules(self, group: Group) -> FloatArray:
        return self.sent * self._port(group).energy

    def pause(self, group: Group) -> int:
        return int(picoseconds(self._port(group).latency * self.depth))

    def uses(self, group: Group, members: Sequence[int]) -> list[Use]:
        port = self._port(group)
        uses = []
        for i, lane in enumerate(members):
            for direction, moved in (("egress", self.sent[i]), ("ingress", self.received[i])):
                if moved > 0:
                    took = int(picoseconds(port.latency * self.depth + moved / port.bandwidth[i]))
                    uses.append(Use((lane, self.port, direction), took))
        return uses

    def at(self, place: tuple[int, ...], shape: tuple[int, ...], lanes: int) -> PortPhase:
        sent, received = (spelled(moved, place, shape, lanes) for moved in (self.sent, self.received))
        return PortPhase(self.port, self.rounds, sent, received, self.parallel, self.depth)

    def _port(self, group: Group) -> Port:
        assert isinstance(group, GroupPorts)
        return group.port(self.port)


def spelled(moved: FloatArray, place: tuple[int, ...], shape: tuple[int, ...], lanes: int) -> FloatArray:
    """[..., lanes] `moved` at one place of `shape`."""
    picked: FloatArray = np.broadcast_to(moved, (*shape, lanes))[place].copy()
    return picked


@dataclass(frozen=True, eq=False)
class Transfer:
    """What the lanes of one group exchange, for a whole array of sizes at once (`shape`, empty for a single size)."""

    operation: Operation
    algorithm: str
    ports: Group
    phases: tuple[Phase, ...]
    shape: tuple[int, ...] = ()

    @cached_property
    def picoseconds(self) -> IntArray:
        """[*shape] duration, from the last lane's arrival to the end on every lane."""
        return phases_picoseconds(self.phases, self.ports, self.shape)

    @cached_property
    def sent(self) -> FloatArray:
        """[*shape, lanes] bytes out of each lane, over all its ports."""
        return self._total([phase.rounds * phase.sent for phase in self.phases])

    @cached_property
    def received(self) -> FloatArray:
        """[*shape, lanes] bytes into each lane, over all its ports."""
        return self._total([phase.rounds * phase.received for phase in self.phases])

    @cached_property
    def joules(self) -> FloatArray:
        """[*shape, lanes] energy of the bytes each lane sends."""
        return self._total([phase.rounds * phase.joules(self.ports) for phase in self.phases])

    def at(self, index: int | tuple[int, ...]) -> Transfer:
        """The transfer of one size of `shape`, every phase spelled out lane by lane."""
        place = index if isinstance(index, tuple) else (index,)
        phases = tuple(phase.at(place, self.shape, self.ports.lanes) for phase in self.phases)
        return Transfer(self.operation, self.algorithm, self.ports, phases, self.shape[len(place) :])

    def _total(self, parts: list[FloatArray]) -> FloatArray:
        total = np.zeros((*self.shape, self.ports.lanes))
        for part in parts:
            total += part
        return total


@dataclass(frozen=True)
class Collective:
    """What travels in one communication row of a step graph: per communicator its lanes, in the order of the transfer's
    ports, and its transfer of a single size."""

    operation: Operation
    members: tuple[tuple[int, ...], ...]
    transfers: tuple[Transfer, ...]

    @property
    def algorithm(self) -> str:
        return self.transfers[0].algorithm

    def sent(self, lanes: int) -> FloatArray:
        """[lanes] bytes each lane of the graph sends."""
        return self._scatter([transfer.sent for transfer in self.transfers], lanes)

    def received(self, lanes: int) -> FloatArray:
        """[lanes] bytes each lane of the graph receives."""
        return self._scatter([transfer.received for transfer in self.transfers], lanes)

    def _scatter(self, parts: list[FloatArray], lanes: int) -> FloatArray:
        total = np.zeros(lanes)
        for group, part in zip(self.members, parts, strict=True):
            total[list(group)] = part
        return total


def collective(
    members: Sequence[Sequence[int]], transfers: Sequence[Transfer], index: int | tuple[int, ...] = ()
) -> Collective:
    """The collective of one row of a step graph, taken at `index` of the transfers' sizes.

    Args:
        members: the lanes of each communicator, in the order of the devices that its transfer was made for.
        transfers: one per communicator, all of the same operation.
    """
    groups = tuple(tuple(int(lane) for lane in group) for group in members)
    if len({transfer.operation for transfer in transfers}) != 1:
        raise ValueError("a collective has one operation")
    if [len(group) for group in groups] != [transfer.ports.lanes for transfer in transfers]:
        raise ValueError("each communicator needs as many lanes as its transfer has ports")
    return Collective(transfers[0].operation, groups, tuple(transfer.at(index) for transfer in transfers))


def concurrent(phases: Sequence[Phase]) -> list[list[Phase]]:
    """Phases that follow each other, each with those that run beside it."""
    stages: list[list[Phase]] = []
    for phase in phases:
        if phase.parallel and stages:
            stages[-1].append(phase)
        else:
            stages.append([phase])
    return stages


def phases_picoseconds(phases: Sequence[Phase], ports: Group, shape: tuple[int, ...] = ()) -> IntArray:
    """[*shape] overhead + sum over stages of max over their phases of rounds x (latency + busiest port or link).

    A transfer without phases takes no time: a lane alone makes no call.
    """
    if not phases:
        return np.zeros(shape, dtype=np.int64)
    total = np.broadcast_to(picoseconds(ports.overhead), shape).copy()
    for stage in concurrent(phases):
        durations = [phase.rounds * phase.round_picoseconds(ports) for phase in stage]
        total += durations[0] if len(durations) == 1 else np.maximum.reduce(np.broadcast_arrays(*durations))
    return total
