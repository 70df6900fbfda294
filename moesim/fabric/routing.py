"""Routing policies: the shortest way, and ways over way points.

A policy says how the bytes of each pair of devices travel. Those that send them over way points (the corner of a mesh,
the GPU on the right rail, a drawn relay) divide a pair into legs; between the ends of a leg the way is the shortest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from moesim.fabric.propagation import Propagation
from moesim.fabric.routes import Routes, Ties, as_pairs, csr, mixed, product, shortest_routes, transposed
from moesim.fabric.topology import FloatArray, IntArray, Topology
from moesim.spec.errors import MoesimError

#: Pairs from which shortest routes are not spelled out but followed per destination.
MANY_PAIRS = 5_000
#: Devices up to which valiant routing spreads over all of them, and how many relays it draws per pair beyond that.
FEW_DEVICES, DRAWN_RELAYS = 64, 8


class PairLoads(Protocol):
    """What a phase needs to know of the routes of its pairs: links `used` [K], seconds and joules per byte of each
    pair [P], links that a byte crosses [P], and [..., K] bytes per link from [..., P] bytes per pair."""

    @property
    def topology(self) -> Topology: ...
    @property
    def used(self) -> IntArray: ...
    @property
    def latency(self) -> FloatArray: ...
    @property
    def energy(self) -> FloatArray: ...
    @property
    def hops(self) -> FloatArray: ...
    def loads(self, traffic: ArrayLike) -> FloatArray: ...


class Routing(Protocol):
    """How bytes travel. `routes` spells the routes of all pairs out; `loads` folds them, for many pairs.

    Both raise MoesimError where no path joins a pair.
    """

    def routes(self, topology: Topology, pairs: ArrayLike) -> Routes: ...
    def loads(self, topology: Topology, pairs: ArrayLike) -> PairLoads: ...


@dataclass(frozen=True)
class Shortest:
    """Over the fewest links; ties as in `Ties`."""

    ties: Ties = "split"
    seed: int = 0

    def routes(self, topology: Topology, pairs: ArrayLike) -> Routes:
        return shortest_routes(topology, pairs, self.ties, self.seed)

    def loads(self, topology: Topology, pairs: ArrayLike) -> PairLoads:
        ends = as_pairs(pairs)
        if self.ties == "hash" or len(ends) < MANY_PAIRS:
            return self.routes(topology, ends)
        return Propagation(topology, ends, split=self.ties == "split")


@dataclass(frozen=True, eq=False)
class Legs:
    """Q legs: `weight` of the bytes of `pair` travel from ends[:, 0] to ends[:, 1], on the pair's alternative `way`."""

    pair: IntArray
    ends: IntArray
    weight: FloatArray
    way: IntArray


class LegLoads:
    """The routes of pairs by way of their distinct legs: bytes are summed per leg first, then spread over its links.

    Args:
        ways: the routes of pairs [Q, 2] of vertices, spelled out or folded.
    """

    def __init__(
        self, topology: Topology, pairs: IntArray, legs: Legs, ways: Callable[[Topology, IntArray], PairLoads]
    ) -> None:
        self.topology, self.pairs = topology, pairs
        moves = legs.ends[:, 0] != legs.ends[:, 1]
        pair, ends, weight, way = (column[moves] for column in (legs.pair, legs.ends, legs.weight, legs.way))
        key, leg = np.unique(ends[:, 0] * topology.vertices + ends[:, 1], return_inverse=True)
        self.legs = ways(topology, np.stack(np.divmod(key, topology.vertices), axis=1))
        order = np.argsort(pair, kind="stable")
        pointer = np.concatenate([[0], np.cumsum(np.bincount(pair, minlength=len(pairs)))])
        self.weights = csr(weight[order], leg[order], pointer, (len(pairs), len(key)))
        self._of_leg = transposed(self.weights)
        self.latency = self._slowest(pair, way, self.legs.latency[leg])

    def _slowest(self, pair: IntArray, way: IntArray, seconds: FloatArray) -> FloatArray:
        """[P] seconds of the slowest way of each pair, over all its legs."""
        ways = int(way.max(initial=0)) + 1
        along = np.bincount(pair * ways + way, seconds, minlength=len(self.pairs) * ways)
        slowest: FloatArray = along.reshape(-1, ways).max(axis=1)
        return slowest

    @property
    def used(self) -> IntArray:
        return self.legs.used

    @property
    def energy(self) -> FloatArray:
        return np.asarray(self.weights @ self.legs.energy)

    @property
    def hops(self) -> FloatArray:
        return np.asarray(self.weights @ self.legs.hops)

    def loads(self, traffic: ArrayLike) -> FloatArray:
        return self.legs.loads(product(self._of_leg, np.asarray(traffic, dtype=np.float64)))


class OverWayPoints(ABC):
    """Base of the policies that divide pairs into legs."""

    base: Routing

    @abstractmethod
    def legs(self, topology: Topology, pairs: IntArray) -> Legs: ...

    def routes(self, topology: Topology, pairs: ArrayLike) -> Routes:
        ends = as_pairs(pairs)
        folded = LegLoads(topology, ends, self.legs(topology, ends), self.base.routes)
        spelled = folded.legs
        assert isinstance(spelled, Routes)
        matrix = (folded.weights @ spelled.matrix).tocsr()
        matrix.sort_indices()
        columns = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data
        return Routes(topology, ends, *columns, folded.latency)

    def loads(self, topology: Topology, pairs: ArrayLike) -> PairLoads:
        ends = as_pairs(pairs)
        return LegLoads(topology, ends, self.legs(topology, ends), self.base.loads)


def chain(stops: Sequence[IntArray]) -> Legs:
    """One way per pair, through the same number of stops [P] for all; a stop at the place before it costs nothing."""
    count = len(stops[0])
    ends = [np.stack([here, there], axis=1) for here, there in pairwise(stops)]
    pair = np.tile(np.arange(count), len(ends))
    return Legs(pair, np.concatenate(ends), np.ones(len(pair)), np.zeros(len(pair), dtype=np.int64))


@dataclass(frozen=True)
class DimensionOrder(OverWayPoints):
    """Along the first dimension of the coordinates, then the second, ... (XY routing); the short way round a ring, half
    each way where both are equal. Where a corner is missing (a hole in a wafer), the pair takes the shortest way.

    order: dimensions in the order in which they are travelled; all, ascending, where empty.
    """

    order: tuple[int, ...] = ()
    base: Routing = field(default_factory=Shortest)

    def legs(self, topology: Topology, pairs: IntArray) -> Legs:
        places = topology.coordinates
        if places is None:
            raise MoesimError(
                f"{topology.name}: its vertices have no coordinates to route by", fix="choose the routing 'shortest'"
            )
        corners = [places[pairs[:, 0]]]
        for dimension in self.order or range(places.shape[1]):
            corner = corners[-1].copy()
            corner[:, dimension] = places[pairs[:, 1], dimension]
            corners.append(corner)
        stops = [pairs[:, 0], *(vertices_at(topology, corner) for corner in corners[1:-1]), pairs[:, 1]]
        blocked = np.any([stop < 0 for stop in stops], axis=0)
        return chain([np.where(blocked, pairs[:, 0], stop) for stop in stops[:-1]] + [pairs[:, 1]])


def vertices_at(topology: Topology, places: IntArray) -> IntArray:
    """[P] vertices at coordinates [P, dimensions]; -1 where there is none."""
    assert topology.coordinates is not None
    known = topology.coordinates
    extent = np.maximum(known.max(axis=0), places.max(axis=0, initial=0)) + 1
    table = np.full(int(np.prod(extent)), -1, dtype=np.int64)
    placed = np.flatnonzero((known >= 0).all(axis=1))
    table[np.ravel_multi_index(tuple(known[placed].T), tuple(extent))] = placed
    found: IntArray = table[np.ravel_multi_index(tuple(places.T), tuple(extent))]
    return found


@dataclass(frozen=True)
class RailLocal(OverWayPoints):
    """To another node by way of the own node's device with the destination's index there, so that only devices on one
    rail talk across nodes (NCCL's PXN). Nodes without such a device send directly."""

    base: Routing = field(default_factory=Shortest)

    def legs(self, topology: Topology, pairs: IntArray) -> Legs:
        relay = rail_relay(topology, pairs)
        return chain([pairs[:, 0], relay, pairs[:, 1]])


def rail_relay(topology: Topology, pairs: IntArray) -> IntArray:
    """[P] the device of the source's node with the destination's index; the source where there is none, and where
    the destination is in the same node."""
    node = topology.node_of
    counts = np.bincount(node)
    place = np.empty(topology.endpoints, dtype=np.int64)
    place[np.argsort(node, kind="stable")] = np.arange(topology.endpoints) - np.repeat(
        np.cumsum(counts) - counts, counts
    )
    table = np.full((len(counts), int(counts.max())), -1, dtype=np.int64)
    table[node, place] = np.arange(topology.endpoints)
    source, destination = pairs.T
    relay = table[node[source], place[destination]]
    found: IntArray = np.where((relay < 0) | (node[source] == node[destination]), source, relay)
    return found


@dataclass(frozen=True)
class Valiant(OverWayPoints):
    """By way of a third device (Valiant, A scheme for fast parallel communication, SIAM J. Computing 11(2), 1982).

    relays: how many each pair spreads over, drawn with `seed`; 0: all devices of a small topology (up to FEW_DEVICES),
        DRAWN_RELAYS in a larger one.
    """

    relays: int = 0
    seed: int = 0
    base: Routing = field(default_factory=Shortest)

    def legs(self, topology: Topology, pairs: IntArray) -> Legs:
        everyone = not self.relays and topology.endpoints <= FEW_DEVICES
        count = topology.endpoints if everyone else self.relays or DRAWN_RELAYS
        way = np.tile(np.arange(count), len(pairs))
        pair = np.repeat(np.arange(len(pairs)), count)
        source, destination = pairs[pair].T
        relay = way if everyone else mixed(source, destination, way, seed=self.seed) % topology.endpoints
        relay = np.where(source == destination, source, relay)
        ends = np.concatenate([np.stack([source, relay], axis=1), np.stack([relay, destination], axis=1)])
        return Legs(np.tile(pair, 2), ends, np.full(2 * len(pair), 1 / count), np.tile(way, 2))
