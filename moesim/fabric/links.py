"""Groups of devices on any topology, and phases that move flows between them over its links."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from moesim.fabric.policies import make_routing
from moesim.fabric.routes import Routes, csr, product
from moesim.fabric.routing import PairLoads, Routing
from moesim.fabric.topology import FloatArray, IntArray, Topology
from moesim.fabric.transfer import Group, Lanes, Use, picoseconds
from moesim.spec.errors import MoesimError


@dataclass(frozen=True, eq=False)
class Pattern:
    """What one byte of a size puts on links, where every flow of a round moves a fixed share of it.

    links: [K] of the topology. bandwidth: [K] bytes/s. load: [K] bytes over each, and `shared` [K] with what other
    groups move over it at the same time. sent, received, joules: [lanes]. latency: seconds of the longest path. flows,
    share: [F] the flows and what each moves, None where switches add up or multiply on the way.
    """

    links: IntArray
    bandwidth: FloatArray
    load: FloatArray
    shared: FloatArray
    sent: FloatArray
    received: FloatArray
    joules: FloatArray
    latency: float
    flows: RoutedFlows | None = None
    share: FloatArray | None = None

    @cached_property
    def seconds(self) -> FloatArray:
        """[K] per byte of the size, on each link."""
        return self.shared / self.bandwidth

    @cached_property
    def slowest(self) -> float:
        return float(self.seconds.max(initial=0.0))


class OnLinks(ABC):
    """What phases on the links of a topology have in common; see transfer.Phase."""

    @property
    @abstractmethod
    def latency(self) -> float:
        """Seconds of the longest path."""

    def pause(self, group: Group) -> int:
        return int(picoseconds(self.latency))


@dataclass(frozen=True, eq=False)
class UniformPhase(OnLinks):
    """Rounds in which all flows of a pattern move their share of `size` [...] bytes; see transfer.Phase.

    depth: hops of a pipeline, each of which adds its latency while the bytes stream through.
    """

    pattern: Pattern
    rounds: int
    size: FloatArray
    parallel: bool = False
    depth: int = 1

    @property
    def sent(self) -> FloatArray:
        return self.size[..., None] * self.pattern.sent

    @property
    def received(self) -> FloatArray:
        return self.size[..., None] * self.pattern.received

    @property
    def links(self) -> IntArray:
        return self.pattern.links

    @property
    def load(self) -> FloatArray:
        """[..., K] bytes over each link in one round."""
        return self.size[..., None] * self.pattern.load

    @property
    def latency(self) -> float:
        return self.pattern.latency * self.depth

    def round_picoseconds(self, group: Group) -> IntArray:
        return picoseconds(self.latency + self.size * self.pattern.slowest)

    def joules(self, group: Group) -> FloatArray:
        return self.size[..., None] * self.pattern.joules

    def uses(self, group: Group, members: Sequence[int]) -> list[Use]:
        return link_uses(group, self.links, picoseconds(self.latency + self.size * self.pattern.seconds), members)

    def at(self, place: tuple[int, ...], shape: tuple[int, ...], lanes: int) -> UniformPhase:
        size = np.broadcast_to(self.size, shape)[place]
        return UniformPhase(self.pattern, self.rounds, np.asarray(size), self.parallel, self.depth)


class RoutedFlows:
    """F flows between lanes of a group, routed once. A flow from a lane to itself moves nothing.

    Args:
        pairs: [F, 2] lanes. routes: of the pairs of devices that they are.
    """

    def __init__(self, pairs: IntArray, lanes: int, routes: PairLoads, bandwidth: FloatArray) -> None:
        self.pairs, self.lanes, self.routes = pairs, lanes, routes
        self.bandwidth = bandwidth[routes.used]
        self.latency = float(routes.latency.max(initial=0.0))
        self.moves = (pairs[:, 0] != pairs[:, 1]).astype(np.float64)

    def by_lane(self, moved: FloatArray, end: int) -> FloatArray:
        """[..., lanes] sums of [..., F] over the flows that begin (end 0) or arrive (1) at each lane."""
        order = np.argsort(self.pairs[:, end], kind="stable")
        pointer = np.searchsorted(self.pairs[order, end], np.arange(self.lanes + 1))
        return product(csr(self.moves[order], order, pointer, (self.lanes, len(order))), moved)


@dataclass(frozen=True, eq=False)
class TrafficPhase(OnLinks):
    """One round in which every flow moves bytes of its own, `moved` [..., F]; see transfer.Phase."""

    flows: RoutedFlows
    moved: FloatArray
    parallel: bool = False
    rounds: int = 1

    @cached_property
    def sent(self) -> FloatArray:
        return self.flows.by_lane(self.moved, 0)

    @cached_property
    def received(self) -> FloatArray:
        return self.flows.by_lane(self.moved, 1)

    @property
    def links(self) -> IntArray:
        return self.flows.routes.used

    @cached_property
    def load(self) -> FloatArray:
        """[..., K] bytes over each link."""
        return self.flows.routes.loads(self.moved)

    @property
    def latency(self) -> float:
        return self.flows.latency

    def round_picoseconds(self, group: Group) -> IntArray:
        return picoseconds(self.latency + (self.load / self.flows.bandwidth).max(axis=-1, initial=0.0))

    def joules(self, group: Group) -> FloatArray:
        return self.flows.by_lane(self.moved * self.flows.routes.energy, 0)

    def uses(self, group: Group, members: Sequence[int]) -> list[Use]:
        return link_uses(group, self.links, picoseconds(self.latency + self.load / self.flows.bandwidth), members)

    def at(self, place: tuple[int, ...], shape: tuple[int, ...], lanes: int) -> TrafficPhase:
        moved = np.broadcast_to(self.moved, (*shape, self.moved.shape[-1]))[place]
        return TrafficPhase(self.flows, moved, self.parallel)


def link_uses(group: Group, links: IntArray, duration: IntArray, members: Sequence[int]) -> list[Use]:
    """Links by number. Where the durations already count what other groups move at the same time, each group has the
    links to itself."""
    own = members[:1] if isinstance(group, GroupLinks) and group.beside else ()
    return [Use((*own, "link", link), took) for link, took in zip(links.tolist(), duration.tolist(), strict=True)]


@dataclass(frozen=True, eq=False)
class GroupLinks(Lanes):
    """A group of devices of a topology. devices: [lanes] endpoints.

    beside: groups that do the same at the same time, as many lanes each; what they put on this group's links slows it.
    """

    devices: IntArray
    topology: Topology
    routing: Routing
    beside: tuple[GroupLinks, ...] = ()
    _known: dict[bytes, RoutedFlows] = field(default_factory=dict, repr=False)
    _paths: dict[bytes, tuple[IntArray, Routes]] = field(default_factory=dict, repr=False)

    @property
    def overhead(self) -> float:
        """Seconds per call; within a node, those of its own fabric."""
        within = None if self.several_nodes else self.topology.node_overhead
        return self.topology.overhead if within is None else within

    @cached_property
    def every_pair(self) -> IntArray:
        """[lanes x lanes, 2] all pairs of lanes, by the first."""
        return np.stack(np.divmod(np.arange(self.lanes**2), self.lanes), axis=1)

    def flows(self, pairs: IntArray) -> RoutedFlows:
        """Routed flows between lanes [F, 2]; routes are found once per set of flows."""
        key = pairs.tobytes()
        if key not in self._known:
            routes = self.routing.loads(self.topology, self.devices[pairs])
            self._known[key] = RoutedFlows(pairs, self.lanes, routes, self.topology.bandwidth)
        return self._known[key]

    def paths(self, pairs: IntArray) -> tuple[IntArray, Routes]:
        """Routes, link by link, of the flows [F, 2] between different lanes, and their places among the pairs. Every
        lane sends to the one after it first, as libraries do, so that no two start with the same destination."""
        key = pairs.tobytes()
        if key not in self._paths:
            kept = np.flatnonzero(pairs[:, 0] != pairs[:, 1])
            kept = kept[np.argsort((pairs[kept, 1] - pairs[kept, 0]) % self.lanes, kind="stable")]
            self._paths[key] = kept, self.routing.routes(self.topology, self.devices[pairs[kept]])
        return self._paths[key]

    def pattern(self, pairs: IntArray, share: FloatArray) -> Pattern:
        """Flows [F, 2] that move `share` [F] of a size each."""
        flows = self.flows(pairs)
        share = share * flows.moves
        links, load = flows.routes.used, flows.routes.loads(share)
        shared = self._with_others(links, load, [other.pattern(pairs, share) for other in self.beside])
        sent, received = flows.by_lane(share, 0), flows.by_lane(share, 1)
        joules = flows.by_lane(share * flows.routes.energy, 0)
        return Pattern(links, flows.bandwidth, load, shared, sent, received, joules, flows.latency, flows, share)

    def _with_others(self, links: IntArray, load: FloatArray, others: list[Pattern]) -> FloatArray:
        if not others:
            return load
        everywhere = np.zeros(self.topology.links)
        everywhere[links] = load
        for other in others:
            everywhere[other.links] += other.load
        return everywhere[links]

    def part(self, lanes: Sequence[int]) -> GroupLinks:
        """Some of the lanes, as a group of their own."""
        return group_links(self.topology, self.devices[list(lanes)].tolist(), self.routing)

    def name(self, lane: int) -> str:
        return self.topology.vertex_name[int(self.devices[lane])]

    @cached_property
    def order(self) -> IntArray:
        """Lanes node by node; on a grid in a serpentine, so that a ring in this order is made of neighbours."""
        places = self.places
        if places is None:
            return np.argsort(self.node, kind="stable").astype(np.int64)
        keys, turns = [], np.zeros(self.lanes, dtype=np.int64)
        for column in places.T:
            keys.append(np.where(turns % 2 == 0, column, -column))
            turns += column
        return np.lexsort([*reversed(keys), self.node]).astype(np.int64)

    @property
    def lattice(self) -> IntArray | None:
        """Devices that lie at all crossings of some rows, columns, ... of the grid, [rows, columns, ...]."""
        if self.places is None:
            return None
        lines, at = zip(*(np.unique(column, return_inverse=True) for column in self.places.T), strict=True)
        extent = tuple(len(line) for line in lines)
        if self.lanes != np.prod(extent):
            return None
        grid = np.empty(extent, dtype=np.int64)
        grid[tuple(at)] = np.arange(self.lanes)
        return grid

    @cached_property
    def places(self) -> IntArray | None:
        """[lanes, dimensions] coordinates, None where any lane has none."""
        if self.topology.coordinates is None:
            return None
        places = self.topology.coordinates[self.devices]
        return places if (places >= 0).all() else None


def group_links(
    topology: Topology, devices: Sequence[int], routing: Routing | None = None, beside: tuple[GroupLinks, ...] = ()
) -> GroupLinks:
    """The group of these devices, with the topology's own routing where no other is given.

    Raises:
        MoesimError: a device is named twice, or is none of the topology's endpoints.
    """
    check_distinct(devices, topology.vertex_name[: topology.endpoints])
    members = np.asarray(devices, dtype=np.int64)
    node = topology.node_of[members]
    return GroupLinks(node, members, topology, routing or make_routing(topology.routing), beside)


def check_distinct(devices: Sequence[int], names: Sequence[str]) -> None:
    """Raises MoesimError where a group has no device, one that is not there, or one twice."""
    if not len(devices):
        raise MoesimError("a group has no devices", fix=f"name some of {names[0]} to {names[-1]}")
    for device in devices:
        if not 0 <= device < len(names):
            raise MoesimError(f"there is no device {device}", fix=f"the devices count from 0 to {len(names) - 1}")
    if len(set(devices)) < len(devices):
        twice = next(device for place, device in enumerate(devices) if device in devices[:place])
        raise MoesimError(f"a group names {names[twice]} twice", fix="name every device once")
