"""Collectives inside the network: switches that add up what comes from below and multicast what goes down.

sharp    the switches do all of it: every port carries S each way (Graham et al., Scalable Hierarchical Aggregation
         and Reduction Protocol, COM-HPC 2016)
nvls     every device pulls the sum of its share through the switch and multicasts it: (n+1)/n S each way, which is
         (n-1)/(n+1) of a port's two directions as bus bandwidth (NVLink SHARP of NVSwitch 3)
write-accumulate   a memory that all share adds up what is written to it; then all read it: S each way, in turn
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from moesim.fabric.distance import UNREACHABLE, CostArray, path_costs
from moesim.fabric.links import GroupLinks, OnLinks, Pattern, UniformPhase, link_uses
from moesim.fabric.routes import next_hops, path_links
from moesim.fabric.topology import FloatArray, IntArray, Topology
from moesim.fabric.transfer import Group, GroupPorts, Phase, PortPhase, Use, picoseconds, spelled
from moesim.spec.errors import MoesimError

#: What a transfer is called in which bytes out of the lanes need not be bytes into them.
IN_SWITCH = ("nvls", "sharp", "write-accumulate", "in-network")


@dataclass(frozen=True, eq=False)
class Tree:
    """The way from every device of a group up to one switch, or to a device at the root that does the same.

    up, down: [E] links of each edge. below: [E, lanes] which lanes an edge serves. streams: [E] how many copies of one
    message it carries, because the switches below it cannot merge or multicast them. latency: seconds to the top.
    """

    up: IntArray
    down: IntArray
    below: FloatArray
    streams: FloatArray
    latency: float

    @cached_property
    def lanes_below(self) -> FloatArray:
        return np.asarray(self.below.sum(axis=1))


def can_combine(group: Group) -> bool:
    """Whether a switch that adds up is within reach of all lanes."""
    if isinstance(group, GroupPorts):
        return group.reduces and not group.several_nodes
    return group.topology.reduces is not None and len(_tops(group.topology, group.devices)[0]) > 0


def in_switch(operation: str, algorithm: str, group: Group, size: FloatArray, root: int = 0) -> tuple[Phase, ...]:
    """Phases of an operation on `size` [...] bytes: per lane (all_reduce), per chunk (all_gather, reduce_scatter), or
    of the root (broadcast).

    Raises:
        MoesimError: no switch of the fabric can add up.
    """
    if not can_combine(group):
        raise MoesimError(
            f"{algorithm} needs a switch that adds up and reaches all devices of the group",
            fix="choose ring, or a fabric whose switches reduce",
        )
    if isinstance(group, GroupPorts):
        return _on_ports(operation, algorithm, group, size, root)
    tree = combining_tree(group.topology, group.devices)
    if algorithm == "write-accumulate":
        up, down = _shared_memory(operation, group.lanes, root)
        alone = tree.lanes_below
        stages = [(alone * up, 0 * alone), (0 * alone, alone * down)]
        round_trip = 2 * tree.latency  # a write and its acknowledgement, a request and its answer
        return tuple(UniformPhase(_pattern(group, tree, *stage, round_trip), 1, size) for stage in stages)
    up_load, down_load = _loads(operation, algorithm, tree, group.lanes, root)
    return (UniformPhase(_pattern(group, tree, up_load, down_load, 2 * tree.latency), 1, size),)


def _shared_memory(operation: str, lanes: int, root: int) -> tuple[float, float]:
    """Shares of the size that each lane writes, then reads."""
    shares = {"all_reduce": (1.0, 1.0), "all_gather": (1.0, lanes - 1.0), "reduce_scatter": (float(lanes), 1.0)}
    if operation not in shares:
        raise MoesimError(f"write-accumulate serves no {operation}", fix=f"it serves {', '.join(shares)}")
    return shares[operation]


def _loads(operation: str, algorithm: str, tree: Tree, lanes: int, root: int) -> tuple[FloatArray, FloatArray]:
    """Shares of the size over the up and down link of each edge."""
    below, beyond = tree.lanes_below, lanes - tree.lanes_below
    if operation == "all_reduce":
        pulled = below / lanes if algorithm == "nvls" else 0 * below
        return tree.streams + pulled, tree.streams + pulled
    if operation == "all_gather":
        return below, tree.streams * (beyond + (below if algorithm == "nvls" else 0))
    if operation == "reduce_scatter":
        up, down = _loads("all_gather", algorithm, tree, lanes, root)
        return down, up
    sender = tree.below[:, root]
    return sender, tree.streams * (below > sender)


def single_switch(group: GroupPorts) -> Tree:
    """Ports around one switch: every lane is an edge of its own."""
    lanes = np.arange(group.lanes)
    return Tree(lanes, lanes, np.eye(group.lanes), np.ones(group.lanes), group.up_latency / 2)


@dataclass(frozen=True, eq=False)
class TreePhase(OnLinks):
    """One round of uneven loads on a tree, `up` and `down` [..., E] bytes over each edge; see transfer.Phase."""

    tree: Tree
    topology: Topology
    devices: IntArray
    up: FloatArray
    down: FloatArray
    parallel: bool = False
    rounds: int = 1

    @property
    def sent(self) -> FloatArray:
        return self._at_lanes(self.topology.source)

    @property
    def received(self) -> FloatArray:
        return self._at_lanes(self.topology.target)

    def _at_lanes(self, end: IntArray) -> FloatArray:
        place = end[self.links][:, None] == self.devices
        lanes: FloatArray = self.load @ place.astype(np.float64)
        return lanes

    @property
    def links(self) -> IntArray:
        return np.concatenate([self.tree.up, self.tree.down])

    @property
    def load(self) -> FloatArray:
        """[..., 2 E] bytes over each link."""
        return np.concatenate([self.up, self.down], axis=-1)

    @property
    def latency(self) -> float:
        return 2 * self.tree.latency

    def _seconds(self) -> FloatArray:
        return self.latency + self.load / self.topology.bandwidth[self.links]

    def round_picoseconds(self, group: Group) -> IntArray:
        return picoseconds(self._seconds().max(axis=-1))

    def joules(self, group: Group) -> FloatArray:
        """What switches add up or multiply belongs to no one lane: an equal part to each."""
        total = self.load @ self.topology.energy[self.links] / len(self.devices)
        return np.repeat(total[..., None], len(self.devices), axis=-1)

    def uses(self, group: Group, members: Sequence[int]) -> list[Use]:
        return link_uses(group, self.links, picoseconds(self._seconds()), members)

    def at(self, place: tuple[int, ...], shape: tuple[int, ...], lanes: int) -> TreePhase:
        up, down = (spelled(each, place, shape, each.shape[-1]) for each in (self.up, self.down))
        return TreePhase(self.tree, self.topology, self.devices, up, down, self.parallel)


def tree_phase(group: Group, tree: Tree, up: FloatArray, down: FloatArray) -> Phase:
    """One round with `up` and `down` [..., E] bytes over the edges of a tree."""
    if isinstance(group, GroupPorts):
        return PortPhase("scale_up", 1, up, down)
    return TreePhase(tree, group.topology, group.devices, up, down)


def _on_ports(operation: str, algorithm: str, group: GroupPorts, size: FloatArray, root: int) -> tuple[Phase, ...]:
    """On one switch every device is an edge of its own."""
    tree = single_switch(group)
    bytes_of = size[..., None]
    if algorithm == "write-accumulate":
        up, down = _shared_memory(operation, group.lanes, root)
        whole = np.ones(group.lanes)
        write = PortPhase("scale_up", 1, bytes_of * (whole * up), bytes_of * (whole * 0))
        return write, PortPhase("scale_up", 1, bytes_of * (whole * 0), bytes_of * (whole * down))
    up_load, down_load = _loads(operation, algorithm, tree, group.lanes, root)
    return (PortPhase("scale_up", 1, bytes_of * up_load, bytes_of * down_load),)


def combining_tree(topology: Topology, devices: IntArray) -> Tree:
    """Up to the switch that adds up and is nearest to the farthest device; the lowest of equals."""
    tops, hops = _tops(topology, devices)
    top = tops[int(np.argmin(hops[devices].max(axis=0)))]
    counts = path_costs(topology, np.array([top]))
    vertices, parent, links = _edges(topology, counts[:, 0], devices)
    place = {vertex: index for index, vertex in enumerate(vertices)}
    below = np.zeros((len(vertices), len(devices)))
    streams, latency = np.zeros(len(vertices)), np.zeros(len(vertices))
    for lane, device in enumerate(devices.tolist()):
        if device != top:  # a device at the root is below no edge
            below[place[device], lane] = 1
            streams[place[device]] += 1
    reduces = topology.reduces if topology.reduces is not None else np.zeros(topology.vertices, dtype=bool)
    for index, vertex in enumerate(vertices):  # from the farthest to the nearest
        if reduces[vertex]:
            streams[index] = 1
        if parent[index] != top:
            over = place[parent[index]]
            below[over] += below[index]
            streams[over] += streams[index]
            latency[over] = max(latency[over], latency[index] + topology.latency[links[index]])
    to_top = [late + topology.latency[link] for late, link in zip(latency, links, strict=True)]
    down = [path_links(topology, [over, vertex])[0] for vertex, over in zip(vertices, parent, strict=True)]
    return Tree(np.array(links), np.array(down), below, streams, float(max(to_top, default=0.0)))


def _tops(topology: Topology, devices: IntArray) -> tuple[IntArray, IntArray]:
    """Switches that add up and that all devices reach, and the hops to each of them, [vertices, switches]."""
    assert topology.reduces is not None
    switches = np.flatnonzero(topology.reduces)
    hops = path_costs(topology, switches)
    reached = (hops[devices] != UNREACHABLE).all(axis=0)
    return switches[reached], hops[:, reached].astype(np.int64)


def _edges(topology: Topology, left: CostArray, devices: IntArray) -> tuple[list[int], list[int], list[int]]:
    """(vertex, next vertex, link) of every edge on the way of the devices to the top, from far to near."""
    vertices: list[int] = []
    parents: list[int] = []
    links: list[int] = []
    counts = left[:, None]
    for distance in range(int(left[devices].max()), 0, -1):
        here = {*devices[left[devices] == distance].tolist(), *(p for p in parents if left[p] == distance)}
        level = np.array(sorted(here), dtype=np.int64)
        walker, link = next_hops(topology, counts, level, np.zeros(len(level), dtype=np.int64))
        first = link[np.searchsorted(walker, np.arange(len(level)))]
        vertices += level.tolist()
        parents += topology.target[first].tolist()
        links += first.tolist()
    return vertices, parents, links


def _pattern(group: GroupLinks, tree: Tree, up: FloatArray, down: FloatArray, latency: float) -> Pattern:
    topology = group.topology
    links, load = np.concatenate([tree.up, tree.down]), np.concatenate([up, down])
    used = load > 0
    links, load = links[used], load[used]
    place = np.full(topology.vertices, group.lanes, dtype=np.int64)
    place[group.devices] = np.arange(group.lanes)
    sent, received = (
        np.bincount(place[end[links]], load, minlength=group.lanes + 1)[: group.lanes].astype(np.float64)
        for end in (topology.source, topology.target)
    )
    joules = np.full(group.lanes, float(load @ topology.energy[links]) / group.lanes)
    bandwidth = topology.bandwidth[links]
    return Pattern(links, bandwidth, load, load, sent, received, joules, latency)
