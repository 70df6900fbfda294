"""Routes: which share of the bytes of each pair of devices crosses each link, and what follows for latency and load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from moesim.fabric.distance import UNREACHABLE, CostArray, path_costs
from moesim.fabric.topology import BoolArray, FloatArray, IntArray, Topology
from moesim.spec.errors import MoesimError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

#: What happens where several next hops lie on a shortest path. split: every switch divides its bytes evenly, as packet
#: spraying does. lowest: all take the first link. hash: each pair takes one at random, as ECMP places connections.
Ties = Literal["split", "lowest", "hash"]


@dataclass(frozen=True, eq=False)
class Routes:
    """A sparse matrix of pairs x links: `fraction` of the bytes of pair i crosses `link`, at pointer[i]:pointer[i + 1].

    pairs: [P, 2] devices. latency: [P] seconds of the slowest path in use. A pair of one device has no links.
    """

    topology: Topology
    pairs: IntArray
    pointer: IntArray
    link: IntArray
    fraction: FloatArray
    latency: FloatArray

    @cached_property
    def hops(self) -> FloatArray:
        """[P] links that a byte crosses, on average over the paths of its pair."""
        return np.asarray(self.matrix.sum(axis=1)).ravel()

    @cached_property
    def energy(self) -> FloatArray:
        """[P] joules per byte."""
        return np.asarray(self.matrix @ self.topology.energy)

    @cached_property
    def matrix(self) -> csr_matrix[np.float64]:
        """[P, links of the topology]"""
        return csr(self.fraction, self.link, self.pointer, (len(self.pairs), self.topology.links))

    @cached_property
    def used(self) -> IntArray:
        """[K] links that lie on any of the routes, in order."""
        return np.unique(self.link)

    @cached_property
    def _onto(self) -> csr_matrix[np.float64]:
        """[K, P] fractions on the used links."""
        return transposed(csr(self.fraction, np.searchsorted(self.used, self.link), self.pointer, self._shape))

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self.pairs), len(self.used)

    def loads(self, traffic: ArrayLike) -> FloatArray:
        """[..., K] bytes over each link of `used`, from [..., P] bytes of each pair."""
        return product(self._onto, np.asarray(traffic, dtype=np.float64))

    def path(self, pair: int) -> list[tuple[str, float]]:
        """Names of the links that a pair uses, and the share of its bytes on each."""
        row = slice(self.pointer[pair], self.pointer[pair + 1])
        names = map(self.topology.link_name, self.link[row].tolist())
        return list(zip(names, self.fraction[row].tolist(), strict=True))


def csr(data: FloatArray, columns: IntArray, pointer: IntArray, shape: tuple[int, int]) -> csr_matrix[np.float64]:
    from scipy.sparse import csr_matrix

    return csr_matrix((data, columns, pointer), shape=shape)


def transposed(matrix: csr_matrix[np.float64]) -> csr_matrix[np.float64]:
    result: csr_matrix[np.float64] = matrix.T.tocsr()
    return result


def product(matrix: csr_matrix[np.float64], values: FloatArray) -> FloatArray:
    """[..., rows] from [..., columns]: one product per size, which reads the values in the order in which they lie."""
    flat = values.reshape(-1, values.shape[-1])
    out = np.empty((len(flat), matrix.shape[0]))
    for row, each in zip(out, flat, strict=True):
        row[:] = matrix @ each
    return out.reshape(*values.shape[:-1], matrix.shape[0])


def gather_routes(
    topology: Topology, pairs: IntArray, pair: IntArray, link: IntArray, fraction: FloatArray, latency: FloatArray
) -> Routes:
    """Routes from columns in any order: `fraction` of the bytes of `pair` crosses `link`."""
    order = np.argsort(pair, kind="stable")
    pointer = np.concatenate([[0], np.cumsum(np.bincount(pair, minlength=len(pairs)))]).astype(np.int64)
    return Routes(topology, pairs, pointer, link[order], fraction[order], latency)


def shortest_routes(topology: Topology, pairs: ArrayLike, ties: Ties = "split", seed: int = 0) -> Routes:
    """Routes over the fewest links (of the least cost, where the topology's links differ in it).

    Args:
        pairs: [P, 2] source and destination, of any vertices. seed: of the draws of `hash`.

    Raises:
        MoesimError: no path joins a pair.
    """
    ends = as_pairs(pairs)
    return _Expansion(topology, ends, ties, seed).routes()


def as_pairs(pairs: ArrayLike) -> IntArray:
    return np.asarray(pairs, dtype=np.int64).reshape(-1, 2)


class _Expansion:
    """All pairs walk to their destinations together, one hop at a time; walkers of a pair that meet become one."""

    def __init__(self, topology: Topology, pairs: IntArray, ties: Ties, seed: int) -> None:
        self.topology, self.pairs, self.ties, self.seed = topology, pairs, ties, seed
        destinations, self.column = np.unique(pairs[:, 1], return_inverse=True)
        self.costs: CostArray = path_costs(topology, destinations)
        self._refuse_unreachable()
        self.pair = np.flatnonzero(pairs[:, 0] != pairs[:, 1])
        self.vertex = pairs[self.pair, 0]
        self.share = np.ones(len(self.pair))
        self.since = np.zeros(len(self.pair))  # seconds on the way so far
        self.latency = np.zeros(len(pairs))

    def _refuse_unreachable(self) -> None:
        lost = self.costs[self.pairs[:, 0], self.column] == UNREACHABLE
        if lost.any():
            refuse_pair(self.topology, *self.pairs[np.argmax(lost)].tolist())

    def routes(self) -> Routes:
        crossed: list[tuple[IntArray, IntArray, FloatArray]] = []
        while len(self.pair):
            crossed.append(self._step())
        pair, link, fraction = (
            (np.concatenate(column) for column in zip(*crossed, strict=True))
            if crossed
            else (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
        )
        return gather_routes(self.topology, self.pairs, pair, link, fraction, self.latency)

    def _step(self) -> tuple[IntArray, IntArray, FloatArray]:
        walker, link = next_hops(self.topology, self.costs, self.vertex, self.column[self.pair])
        ways = np.bincount(walker, minlength=len(self.pair))
        if self.ties != "split":
            first = np.cumsum(ways) - ways
            pick = first if self.ties == "lowest" else first + self._draw() % ways
            walker, link, ways = np.arange(len(self.pair)), link[pick], np.ones_like(ways)
        pair, share = self.pair[walker], self.share[walker] / ways[walker]
        vertex, since = self.topology.target[link], self.since[walker] + self.topology.latency[link]
        arrived = vertex == self.pairs[pair, 1]
        np.maximum.at(self.latency, pair[arrived], since[arrived])
        on = ~arrived
        self._walk_on(pair[on], vertex[on], share[on], since[on], met=bool((ways > 1).any()) or self._several())
        return pair, link, share

    def _walk_on(self, pair: IntArray, vertex: IntArray, share: FloatArray, since: FloatArray, met: bool) -> None:
        if met:
            key, walker = np.unique(pair * self.topology.vertices + vertex, return_inverse=True)
            pair, vertex = np.divmod(key, self.topology.vertices)
            late = np.zeros(len(key))
            np.maximum.at(late, walker, since)
            share, since = np.bincount(walker, share, minlength=len(key)).astype(np.float64), late
        self.pair, self.vertex, self.share, self.since = pair, vertex, share, since

    def _several(self) -> bool:
        """Whether any pair has several walkers."""
        return bool((np.diff(np.sort(self.pair)) == 0).any())

    def _draw(self) -> IntArray:
        return mixed(self.pairs[self.pair, 0], self.pairs[self.pair, 1], self.vertex, seed=self.seed)


def next_hops(topology: Topology, costs: CostArray, vertex: IntArray, column: IntArray) -> tuple[IntArray, IntArray]:
    """All links by which each of W walkers at `vertex` comes nearer to its destination (a column of `costs`).

    Returns: (walker, link) columns, by walker, then by link.
    """
    pointer, links = topology.outgoing
    degree = pointer[vertex + 1] - pointer[vertex]
    walker = np.repeat(np.arange(len(vertex)), degree)
    first = pointer[vertex] - (np.cumsum(degree) - degree)
    link = links.take(np.arange(len(walker)) + first.take(walker))
    target = topology.target.take(link)
    left = costs.ravel().take(target * costs.shape[1] + column.take(walker))
    after = costs[vertex, column].take(walker) - topology.costs.astype(np.uint16).take(link)
    nearer = np.flatnonzero(left == after)
    nearer = nearer[(topology.passes[target[nearer]] | (left[nearer] == 0)) & (left[nearer] != UNREACHABLE)]
    return walker[nearer], link[nearer]


def mixed(*columns: IntArray, seed: int) -> IntArray:
    """A hash of each row, the same on every platform (finaliser of MurmurHash3, by A. Appleby, public domain)."""
    state = np.full(len(columns[0]), seed, dtype=np.uint64)
    for column in columns:
        state = (state + column.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xFF51AFD7ED558CCD)
        state ^= state >> np.uint64(33)
        state *= np.uint64(0xC4CEB9FE1A85EC53)
        state ^= state >> np.uint64(33)
    return (state >> np.uint64(1)).astype(np.int64)


def refuse_pair(topology: Topology, source: int, destination: int) -> None:
    names = topology.vertex_name
    raise MoesimError(
        f"{topology.name}: no path leads from {names[source]} to {names[destination]}",
        fix="add a link between them, or leave one of them out of the group",
    )


def path_links(topology: Topology, vertices: Sequence[int]) -> list[int]:
    """The links along a path of vertices; the first of parallel ones.

    Raises:
        MoesimError: two neighbours on the path have no link.
    """
    pointer, links = topology.outgoing
    found = []
    for here, there in pairwise(vertices):
        leaving = links[pointer[here] : pointer[here + 1]]
        ahead: BoolArray = topology.target[leaving] == there
        if not ahead.any():
            refuse_link(topology, here, there)
        found.append(int(leaving[np.argmax(ahead)]))
    return found


def refuse_link(topology: Topology, here: int, there: int) -> Any:
    names = topology.vertex_name
    raise MoesimError(f"{topology.name}: no link leads from {names[here]} to {names[there]}", fix="change the path")
