"""Topologies: directed links between devices, switches, NICs and relays, and how small ones join into large ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moesim.spec.errors import MoesimError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Topology:
    """Directed links between vertices. Vertices 0..endpoints-1 are devices in rank order; the others switches, NICs,
    relays. A cable that works in both directions is two links.

    source, target: [M] vertices of each link. bandwidth: [M] bytes/s that large transfers reach (efficiency applied).
    latency: [M] seconds per traversal; a message's latency is the sum over its path. energy: [M] joules per byte.
    level: [M] part of the machine ("scale_up", "scale_out", "nop", ...), for reports and routing. vertex_name: for
    messages. coordinates: [vertices or endpoints, dimensions] for dimension-order routing, -1 where a vertex has none.
    node: [endpoints] node of each device. reduces: [vertices] can add up and multicast (NVSwitch with SHARP, a NoP
    tree's switches). forwards: [vertices] pass on traffic that is neither from nor to them; None: all do. overhead:
    seconds per collective call (kernel launch, protocol set-up). node_overhead: that of calls within a node, where it
    is another. routing: the policy that the generator advises. cost: [M] what shortest routing adds up, whole numbers
    from 1 (1 for every link where None).

    Raises:
        MoesimError: a link without bandwidth, with a negative latency or energy, from a vertex to itself or to none.
    """

    name: str
    endpoints: int
    vertices: int
    source: IntArray
    target: IntArray
    bandwidth: FloatArray
    latency: FloatArray
    energy: FloatArray
    level: tuple[str, ...]
    vertex_name: tuple[str, ...]
    coordinates: IntArray | None = None
    node: IntArray | None = None
    reduces: BoolArray | None = None
    forwards: BoolArray | None = None
    overhead: float = 0.0
    node_overhead: float | None = None
    routing: str = "shortest"
    cost: IntArray | None = None

    def __post_init__(self) -> None:
        if not 0 < self.endpoints <= self.vertices == len(self.vertex_name):
            raise ValueError(f"{self.name}: {self.endpoints} endpoints of {self.vertices} vertices, all with names")
        columns = (self.source, self.target, self.bandwidth, self.latency, self.energy, self.level)
        if len({len(column) for column in columns}) != 1:
            raise ValueError(f"{self.name}: the columns of its links differ in length")
        ends = np.concatenate([self.source, self.target])
        if len(ends) and not (ends.min() >= 0 and ends.max() < self.vertices):
            raise ValueError(f"{self.name}: a link ends at no vertex")
        self._refuse(self.source == self.target, "joins a vertex to itself", "leave it out")
        self._refuse(~(self.bandwidth > 0), "has no bandwidth", "give it one, or leave the link out")
        for what, column in (("latency", self.latency), ("energy", self.energy)):
            self._refuse(~(np.isfinite(column) & (column >= 0)), f"has no valid {what}", "give it 0 or more")
        self._refuse(self.costs < 1, "costs nothing to shortest routing", "give it 1 or more")

    def _refuse(self, wrong: BoolArray, what: str, fix: str) -> None:
        if wrong.any():
            raise MoesimError(f"{self.name}: link {self.link_name(int(np.argmax(wrong)))} {what}", fix=fix)

    @property
    def links(self) -> int:
        return len(self.source)

    @cached_property
    def costs(self) -> IntArray:
        """[M] cost of each link."""
        return np.ones(self.links, dtype=np.int64) if self.cost is None else self.cost

    def link_name(self, link: int) -> str:
        return f"{self.vertex_name[self.source[link]]} -> {self.vertex_name[self.target[link]]}"

    @cached_property
    def outgoing(self) -> tuple[IntArray, IntArray]:
        """Links by the vertex they leave: `links[pointer[v]:pointer[v + 1]]`, lowest first."""
        counts = np.bincount(self.source, minlength=self.vertices)
        pointer = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return pointer, np.argsort(self.source, kind="stable").astype(np.int64)

    @cached_property
    def passes(self) -> BoolArray:
        """[vertices] whether each forwards traffic of others."""
        return np.ones(self.vertices, dtype=bool) if self.forwards is None else self.forwards

    @cached_property
    def node_of(self) -> IntArray:
        """[endpoints] node of each device; all in node 0 where the topology knows none."""
        return np.zeros(self.endpoints, dtype=np.int64) if self.node is None else self.node


def from_cables(
    name: str,
    endpoints: int,
    vertex_name: Sequence[str],
    ends: ArrayLike,
    *,
    bandwidth: ArrayLike,
    latency: ArrayLike = 0.0,
    energy: ArrayLike = 0.0,
    level: str | Sequence[str] = "scale_up",
    coordinates: IntArray | None = None,
    node: IntArray | None = None,
    reduces: BoolArray | None = None,
    forwards: BoolArray | None = None,
    overhead: float = 0.0,
    routing: str = "shortest",
) -> Topology:
    """A topology of cables that work in both directions: cable i is link 2i from its first end, 2i+1 back.

    Args:
        ends: [E, 2] vertices. bandwidth, latency, energy, level: per cable and direction, or one for all.
    """
    pairs = np.asarray(ends, dtype=np.int64).reshape(-1, 2)
    levels = [level] * len(pairs) if isinstance(level, str) else list(level)

    def column(values: ArrayLike) -> FloatArray:
        return np.repeat(np.broadcast_to(np.asarray(values, dtype=np.float64), len(pairs)), 2)

    return Topology(
        name=name,
        endpoints=endpoints,
        vertices=len(vertex_name),
        source=pairs.ravel(),
        target=pairs[:, ::-1].ravel(),
        bandwidth=column(bandwidth),
        latency=column(latency),
        energy=column(energy),
        level=tuple(each for each in levels for _ in range(2)),
        vertex_name=tuple(vertex_name),
        coordinates=coordinates,
        node=node,
        reduces=reduces,
        forwards=forwards,
        overhead=overhead,
        routing=routing,
    )


def star(
    devices: int,
    bandwidth: ArrayLike,
    latency: float = 0.0,
    *,
    energy: float = 0.0,
    name: str = "switch",
    level: str = "scale_up",
    overhead: float = 0.0,
    reduces: bool = False,
) -> Topology:
    """Devices around one non-blocking switch.

    Args:
        bandwidth: bytes/s per direction of each device's port. latency: seconds from device to device, half on each of
            the two links. energy: joules per byte from device to device, half on each link.
    """
    return from_cables(
        name,
        devices,
        [*(f"gpu{i}" for i in range(devices)), name],
        [(i, devices) for i in range(devices)],
        bandwidth=bandwidth,
        latency=latency / 2,
        energy=energy / 2,
        level=level,
        reduces=np.arange(devices + 1) == devices if reduces else None,
        forwards=np.arange(devices + 1) == devices,
        overhead=overhead,
    )


def nest(
    inner: Sequence[Topology],
    outer: Topology,
    *,
    attach: ArrayLike | None = None,
    bandwidth: float | None = None,
    latency: float = 0.0,
    energy: float = 0.0,
    level: str = "nic",
    name: str | None = None,
    routing: str = "shortest",
) -> Topology:
    """Node topologies joined by an outer one, whose endpoints become NICs, or vertices of the nodes themselves.

    Devices are numbered node by node; then come the nodes' other vertices, then what remains of the outer topology. The
    links beyond the nodes cost so much that no shortest route between devices of one node leaves it.

    Args:
        attach: [K, 3] rows (endpoint of outer, node, vertex of that node's topology). Default: the outer endpoints are
            the devices in rank order, or, where there is one per node, each node's first vertex that is no device.
        bandwidth: bytes/s of the link between an inner vertex and the outer endpoint, which then is a NIC of its own;
            None: the two are one vertex.
    """
    rows = np.asarray(_default_attach(inner, outer) if attach is None else attach, dtype=np.int64).reshape(-1, 3)
    numbering = _Numbering(inner, outer, rows, merge=bandwidth is None)
    parts = [(topology, numbering.inner[i]) for i, topology in enumerate(inner)] + [(outer, numbering.outer)]
    cables = np.empty((0, 2), dtype=np.int64)
    if bandwidth is not None:
        places = np.array([numbering.inner[node][vertex] for _, node, vertex in rows], dtype=np.int64)
        cables = np.stack([places, numbering.outer[rows[:, 0]]], axis=1)
    extra = np.full(2 * len(cables), 1.0)
    beyond = 1 + max(map(_diameter, inner)) // 2  # at least two such links lead out of a node and back
    costs = [*(topology.costs for topology in inner), beyond * outer.costs, np.full(len(extra), beyond, dtype=np.int64)]
    return Topology(
        name=name or f"{inner[0].name} in {outer.name}",
        endpoints=numbering.devices,
        vertices=numbering.vertices,
        source=np.concatenate([*(new[part.source] for part, new in parts), cables.ravel()]),
        target=np.concatenate([*(new[part.target] for part, new in parts), cables[:, ::-1].ravel()]),
        bandwidth=np.concatenate([*(part.bandwidth for part, _ in parts), extra * (bandwidth or 0.0)]),
        latency=np.concatenate([*(part.latency for part, _ in parts), extra * latency]),
        energy=np.concatenate([*(part.energy for part, _ in parts), extra * energy]),
        level=(*(each for part, _ in parts for each in part.level), *([level] * len(extra))),
        vertex_name=numbering.names(),
        node=np.repeat(np.arange(len(inner)), [topology.endpoints for topology in inner]),
        reduces=numbering.merged([part.reduces for part, _ in parts], default=False),
        forwards=numbering.forwards(),
        overhead=max(part.overhead for part, _ in parts),
        node_overhead=max(topology.overhead for topology in inner),
        routing=routing,
        cost=np.concatenate(costs),
    )


def _diameter(topology: Topology) -> int:
    """Cost of the longest of the shortest routes between devices."""
    from moesim.fabric.distance import UNREACHABLE, path_costs

    costs = path_costs(topology, np.arange(topology.endpoints))[: topology.endpoints]
    return int(costs[costs != UNREACHABLE].max(initial=0))


def _default_attach(inner: Sequence[Topology], outer: Topology) -> list[tuple[int, int, int]]:
    devices = [(node, device) for node, topology in enumerate(inner) for device in range(topology.endpoints)]
    if outer.endpoints == len(devices):
        return [(k, node, device) for k, (node, device) in enumerate(devices)]
    if outer.endpoints == len(inner) and all(topology.vertices > topology.endpoints for topology in inner):
        return [(node, node, topology.endpoints) for node, topology in enumerate(inner)]
    raise MoesimError(
        f"{outer.name} has {outer.endpoints} endpoints for {len(inner)} nodes with {len(devices)} devices",
        fix="give it one per device or one per node, or say which vertex joins which endpoint (attach)",
    )


class _Numbering:
    """New vertex numbers: devices node by node, other vertices node by node, the outer topology's."""

    def __init__(self, inner: Sequence[Topology], outer: Topology, rows: IntArray, merge: bool) -> None:
        self.parts = [*inner, outer]
        self.devices = sum(topology.endpoints for topology in inner)
        self.inner: list[IntArray] = []
        device, other = 0, self.devices
        for topology in inner:
            relays = topology.vertices - topology.endpoints
            own = [np.arange(device, device + topology.endpoints), np.arange(other, other + relays)]
            self.inner.append(np.concatenate(own).astype(np.int64))
            device, other = device + topology.endpoints, other + relays
        missing = np.setdiff1d(np.arange(outer.endpoints), rows[:, 0])
        if len(missing):
            raise MoesimError(f"{outer.name}: endpoint {missing[0]} has nothing attached", fix="attach every endpoint")
        self.outer = np.full(outer.vertices, -1, dtype=np.int64)
        if merge:
            if len(rows) != outer.endpoints:
                raise MoesimError(
                    f"{outer.name}: several vertices share an endpoint without a link", fix="give the links a bandwidth"
                )
            self.outer[rows[:, 0]] = [self.inner[node][vertex] for _, node, vertex in rows]
        new, self._first_outer = self.outer < 0, other
        self.outer[new] = np.arange(other, other + new.sum())
        self.vertices = int(other + new.sum())

    def names(self) -> tuple[str, ...]:
        names = [""] * self.vertices
        for vertex, name in zip(self.outer, self.parts[-1].vertex_name, strict=True):
            names[vertex] = name
        for node, (part, new) in enumerate(zip(self.parts, self.inner, strict=False)):
            for vertex, name in zip(new, part.vertex_name, strict=True):
                names[vertex] = f"node{node}/{name}"
        return tuple(names)

    def forwards(self) -> BoolArray | None:
        """Endpoints of the outer topology that became NICs pass traffic on, whatever they did before."""
        flags = self.merged([part.forwards for part in self.parts], default=True)
        if flags is not None:
            nics = self.outer[: self.parts[-1].endpoints]
            flags[nics[nics >= self._first_outer]] = True
        return flags

    def merged(self, flags: Sequence[BoolArray | None], default: bool) -> BoolArray | None:
        """Flags of all vertices. Where two are one vertex, the node's own speaks for it."""
        if all(each is None for each in flags):
            return None
        merged = np.full(self.vertices, default)
        for part, each, new in reversed(list(zip(self.parts, flags, [*self.inner, self.outer], strict=True))):
            merged[new] = np.full(part.vertices, default) if each is None else each
        return merged
