"""Routing policies that name the paths of each pair: one path with minimal splitting, and paths given by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from moesim.fabric.routes import Routes, as_pairs, gather_routes, path_links, shortest_routes
from moesim.fabric.routing import PairLoads, Routing, Shortest
from moesim.fabric.topology import FloatArray, IntArray, Topology
from moesim.spec.errors import MoesimError


@dataclass(frozen=True)
class MinimalSplit:
    """Single paths, dealt in turn to the flows that have the same choice; what is left over is split just enough that
    all paths carry the same, as much as with packet spraying (Ethereal, arXiv 2407.00550). For flows of equal size."""

    def routes(self, topology: Topology, pairs: ArrayLike) -> Routes:
        ends = as_pairs(pairs)
        spread = shortest_routes(topology, ends)
        ways = [_ways(topology, spread, pair) for pair in range(len(ends))]
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for pair, paths in enumerate(ways):
            if paths:
                groups.setdefault(_choice(paths), []).append(pair)
        rows: list[tuple[int, int, float]] = []
        for members in groups.values():
            for pair, way, share in _deal(members, len(ways[members[0]])):
                rows += [(pair, link, share) for link in ways[pair][way]]
        return _from_rows(topology, ends, rows, spread.latency)

    def loads(self, topology: Topology, pairs: ArrayLike) -> PairLoads:
        return self.routes(topology, pairs)


def _ways(topology: Topology, spread: Routes, pair: int) -> list[tuple[int, ...]]:
    """All paths of a pair, as links, out of the links on which packet spraying would send it."""
    leaving: dict[int, list[int]] = {}
    for link in np.sort(spread.link[spread.pointer[pair] : spread.pointer[pair + 1]]).tolist():
        leaving.setdefault(int(topology.source[link]), []).append(link)
    source, destination = spread.pairs[pair].tolist()
    unfinished: list[tuple[int, tuple[int, ...]]] = [(source, ())] if source != destination else []
    paths: list[tuple[int, ...]] = []
    while unfinished:
        vertex, path = unfinished.pop(0)
        if vertex == destination:
            paths.append(path)
        else:
            unfinished += [(int(topology.target[link]), (*path, link)) for link in leaving[vertex]]
    return paths


def _choice(paths: list[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The part of the paths in which they differ: the same for all pairs that face the same choice."""
    if len(paths) == 1:
        return (paths[0],)
    columns = [len(set(column)) > 1 for column in zip(*paths, strict=True)]
    first, last = columns.index(True), len(columns) - columns[::-1].index(True)
    return tuple(path[first:last] for path in paths)


def _deal(members: list[int], ways: int) -> list[tuple[int, int, float]]:
    """(pair, path, share): whole flows in turn; each path then takes an equal stretch of the remaining ones."""
    whole = len(members) // ways * ways
    dealt = [(pair, turn % ways, 1.0) for turn, pair in enumerate(members[:whole])]
    rest = members[whole:]
    for index, pair in enumerate(rest):
        for way in range(ways):
            # In units of 1/ways of a flow: the path takes len(rest) from way * len(rest), the flow is ways long.
            low, high = max(way * len(rest), index * ways), min((way + 1) * len(rest), (index + 1) * ways)
            if high > low:
                dealt.append((pair, way, (high - low) / ways))
    return dealt


@dataclass(frozen=True)
class Explicit:
    """Paths given per pair as vertices from source to destination, equal shares on each; other pairs by `base`."""

    paths: Mapping[tuple[int, int], Sequence[Sequence[int]]]
    base: Routing = field(default_factory=Shortest)

    def routes(self, topology: Topology, pairs: ArrayLike) -> Routes:
        ends = as_pairs(pairs)
        given = np.array([(source, destination) in self.paths for source, destination in ends.tolist()], dtype=bool)
        others = self.base.routes(topology, ends[~given])
        latency = np.zeros(len(ends))
        latency[~given] = others.latency
        place = np.flatnonzero(~given)[np.repeat(np.arange(len(others.pairs)), np.diff(others.pointer))]
        rows = list(zip(place.tolist(), others.link.tolist(), others.fraction.tolist(), strict=True))
        for pair in np.flatnonzero(given).tolist():
            paths = [
                self._links(topology, path, *ends[pair].tolist()) for path in self.paths[tuple(ends[pair].tolist())]
            ]
            rows += [(pair, link, 1 / len(paths)) for path in paths for link in path]
            latency[pair] = max(topology.latency[path].sum() for path in paths)
        return _from_rows(topology, ends, rows, latency)

    def _links(self, topology: Topology, path: Sequence[int], source: int, destination: int) -> list[int]:
        if not path or (path[0], path[-1]) != (source, destination):
            names = topology.vertex_name
            raise MoesimError(
                f"{topology.name}: a path of {names[source]} -> {names[destination]} begins or ends elsewhere",
                fix="list its vertices from source to destination",
            )
        return path_links(topology, path)

    def loads(self, topology: Topology, pairs: ArrayLike) -> PairLoads:
        return self.routes(topology, pairs)


def _from_rows(topology: Topology, pairs: IntArray, rows: list[tuple[int, int, float]], latency: FloatArray) -> Routes:
    """Routes of (pair, link, share) rows; the shares of a link that a pair names several times are added."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    key, place = np.unique(
        table[:, 0].astype(np.int64) * topology.links + table[:, 1].astype(np.int64), return_inverse=True
    )
    pair, link = np.divmod(key, max(topology.links, 1))
    share = np.bincount(place, table[:, 2], minlength=len(key)).astype(np.float64)
    return gather_routes(topology, pairs, pair, link, share, latency)
