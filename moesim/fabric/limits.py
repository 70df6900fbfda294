"""The least time that any algorithm needs for a collective: what has to cross cuts, and the distance it has to travel.

For a set of devices A and the rest B of a group, bytes that must get from A to B take at least their sum over the
capacity from A to B, the maximum flow (Ford and Fulkerson, 1956). What must cross, with n lanes, S bytes per lane:

    all-to-all           the traffic from A to B
    all-reduce           S: a sum of A's parts has to leave, however it is made; and where no switch adds up, the lanes
                         send 2 (n-1) S in all (Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms, 2009)
    all-gather           |A| chunks; reduce-scatter: |B| chunks
    broadcast            S, from the root's side

An all-to-all also takes at least its bytes times their hops over the capacity of all links.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from moesim.fabric.links import GroupLinks
from moesim.fabric.topology import FloatArray, IntArray, Topology
from moesim.fabric.transfer import BoolArray, Operation

#: Links up to which maximum flows between sets of devices are computed; beyond, the lanes' own links count.
MOST_LINKS = 20_000
#: Capacities are whole numbers of this share of the largest one in the maximum flow.
RESOLUTION = 1e-6


class Limit:
    """Lower bounds of collectives over one group, with its cuts kept."""

    def __init__(self, group: GroupLinks) -> None:
        self.group = group
        self.cuts = list(_cuts(group))
        self.latency = _farthest(group)

    def seconds(self, operation: Operation, traffic: FloatArray) -> float:
        """The overhead of the call, the latency between the two most distant lanes, and the slowest cut.

        Args:
            traffic: bytes: [lanes, lanes] of an all-to-all, the size of others: per lane of an all-reduce, of a chunk
                in gathers and scatters, of the root.
        """
        crossing = max((self._crossing(operation, traffic, cut[0]) / cut[1] for cut in self.cuts), default=0.0)
        if operation == "all_reduce" and self.group.topology.reduces is None:
            lanes = self.group.lanes
            crossing = max(crossing, 2 * (lanes - 1) / lanes * float(traffic) / self._port())
        if operation == "all_to_all":
            crossing = max(crossing, self._distance(traffic))
        return self.group.overhead + self.latency + crossing

    def _crossing(self, operation: Operation, traffic: FloatArray, inside: BoolArray) -> float:
        """Bytes that must get out of the lanes `inside`."""
        if operation == "all_to_all":
            return float(traffic[np.ix_(inside, ~inside)].sum())
        size = float(traffic)
        if operation == "all_gather":
            return size * int(inside.sum())
        if operation == "reduce_scatter":
            return size * int((~inside).sum())
        if operation in ("broadcast", "multicast", "send"):
            return size if inside[0] else 0.0
        return size

    def _port(self) -> float:
        """Bytes per second of the links out of all lanes, on average."""
        topology = self.group.topology
        own = np.isin(topology.source, self.group.devices)
        return float(topology.bandwidth[own].sum()) / self.group.lanes

    def _distance(self, traffic: FloatArray) -> float:
        """Bytes times hops over the capacity of all links."""
        if self.group.topology.links > MOST_LINKS:
            return 0.0
        return float((traffic * self._hops).sum()) / float(self.group.topology.bandwidth.sum())

    @cached_property
    def _hops(self) -> FloatArray:
        """[lanes, lanes] fewest links between each two."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import shortest_path

        topology, devices = self.group.topology, self.group.devices
        ones = np.ones(topology.links)
        graph = coo_matrix((ones, (topology.source, topology.target)), shape=(topology.vertices,) * 2).tocsr()
        found: FloatArray = shortest_path(graph, unweighted=True, indices=devices)[:, devices]
        return found


def _farthest(group: GroupLinks) -> float:
    """Seconds of latency between the two lanes that are farthest apart."""
    return float(group.flows(group.every_pair).latency)


def _cuts(group: GroupLinks) -> Iterator[tuple[BoolArray, float]]:
    """Sets of lanes, and bytes per second that can get out of each: every lane, all others, every node, and the halves
    of every dimension of a grid."""
    topology, devices = group.topology, group.devices
    alone = np.eye(group.lanes, dtype=bool)
    into, out = (np.bincount(end, topology.bandwidth, topology.vertices) for end in (topology.target, topology.source))
    for lane, device in enumerate(devices.tolist()):
        yield alone[lane], float(out[device])
        yield ~alone[lane], float(into[device])
    if topology.links > MOST_LINKS:
        return
    for inside in _sets(group):
        if inside.any() and not inside.all():
            yield inside, _maximum_flow(topology, devices[inside], devices[~inside])
            yield ~inside, _maximum_flow(topology, devices[~inside], devices[inside])


def _sets(group: GroupLinks) -> Iterator[BoolArray]:
    for node in np.unique(group.node) if group.several_nodes else ():
        yield group.node == node
    if group.places is not None:
        for column in group.places.T:
            yield column < np.median(np.unique(column))


def _maximum_flow(topology: Topology, sources: IntArray, sinks: IntArray) -> float:
    """Bytes per second from a set of devices to another."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import maximum_flow

    begin, end = topology.vertices, topology.vertices + 1
    finite = topology.bandwidth[np.isfinite(topology.bandwidth)]
    unit = float(finite.max(initial=1.0)) * RESOLUTION
    whole = np.minimum(np.floor(topology.bandwidth / unit), 2**30)
    rows = np.concatenate([topology.source, np.full(len(sources), begin), sinks])
    columns = np.concatenate([topology.target, sources, np.full(len(sinks), end)])
    values = np.concatenate([whole, np.full(len(sources) + len(sinks), 2.0**30)]).astype(np.int32)
    graph = coo_matrix((values, (rows, columns)), shape=(end + 1, end + 1)).tocsr()
    return float(maximum_flow(graph, begin, end).flow_value + 1) * unit
