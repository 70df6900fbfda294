"""Link loads of many pairs at once: bytes are added up wherever they meet on the way to the same destination.

Where switches forward by destination, what counts is the bytes at each (vertex, destination), not where they came from.
These states are worked off from the farthest to the nearest, each handing its bytes to its next hops: as many steps as
the longest route has links, and far fewer terms than pairs x links.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from moesim.fabric.distance import UNREACHABLE, path_costs
from moesim.fabric.routes import csr, next_hops, product, refuse_pair
from moesim.fabric.topology import FloatArray, IntArray, Topology

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class Propagation:
    """Shortest routes of `pairs` [P, 2], folded by destination; see `routing.PairLoads`.

    Args:
        split: whether ties are divided evenly; else all take the first link.

    Raises:
        MoesimError: no path joins a pair.
    """

    def __init__(self, topology: Topology, pairs: IntArray, *, split: bool) -> None:
        self.topology, self.pairs, self.split = topology, pairs, split
        destinations, column = np.unique(pairs[:, 1], return_inverse=True)
        self._destinations, self._costs = len(destinations), path_costs(topology, destinations)
        self._left = self._costs[pairs[:, 0], column].astype(np.int64)
        if (self._left == UNREACHABLE).any():
            refuse_pair(topology, *pairs[np.argmax(self._left == UNREACHABLE)].tolist())
        self._keys = pairs[:, 0] * self._destinations + column
        self._walk()

    def _walk(self) -> None:
        """Number the states level by level, from the farthest to the nearest, and their hops in the same order.

        `_levels`: distance -> (number of the first state, keys), sorted by key. Hops as columns: `_from`, `_to` states
        (the last number is the destination), `_link`, `_share` of the state's bytes; those of level i are at
        `_cuts[i]:_cuts[i + 1]`, its states at `_bounds[i]:_bounds[i + 1]`.
        """
        waiting: dict[int, list[IntArray]] = defaultdict(list)
        for distance in np.unique(self._left[self._left > 0]).tolist():
            waiting[distance].append(self._keys[self._left == distance])
        self._levels: dict[int, tuple[int, IntArray]] = {}
        hops: list[tuple[IntArray, IntArray, FloatArray, IntArray, IntArray]] = []
        count = 0
        while waiting:
            keys = np.unique(np.concatenate(waiting.pop(distance := max(waiting))))
            self._levels[distance] = count, keys
            state, link, share, key = self._hop(keys)
            left = distance - self.topology.costs[link]
            hops.append((state + count, link, share, key, left))
            for nearer in np.unique(left[left > 0]).tolist():
                waiting[nearer].append(np.unique(key[left == nearer]))
            count += len(keys)
        self._states = count
        self._bounds = np.array([*(first for first, _ in self._levels.values()), count])
        self._cuts = np.cumsum([0, *(len(hop[0]) for hop in hops)])
        none = np.zeros(0, dtype=np.int64)
        columns = zip(*hops, strict=True) if hops else [[none]] * 5
        self._from, self._link, self._share, key, left = (np.concatenate(list(column)) for column in columns)
        self._to = self._numbers(key, left)

    def _numbers(self, keys: IntArray, left: IntArray) -> IntArray:
        """States of these keys; the number of states where the destination is reached."""
        numbers = np.full(len(keys), self._states, dtype=np.int64)
        for distance, (first, known) in self._levels.items():
            here = np.flatnonzero(left == distance)
            numbers[here] = first + np.searchsorted(known, keys[here])
        return numbers

    def _hop(self, keys: IntArray) -> tuple[IntArray, IntArray, FloatArray, IntArray]:
        """(state, link, share, key after the hop) columns of the hops out of these states."""
        vertex, column = np.divmod(keys, self._destinations)
        state, link = next_hops(self.topology, self._costs, vertex, column)
        ways = np.bincount(state, minlength=len(keys))
        if not self.split:
            link, state, ways = link[np.cumsum(ways) - ways], np.arange(len(keys)), np.ones_like(ways)
        return state, link, 1 / ways[state], self.topology.target[link] * self._destinations + column[state]

    @cached_property
    def _place(self) -> IntArray:
        """[P] state in which each pair's bytes start; that of the destination for a pair of one device."""
        return self._numbers(self._keys, self._left)

    @cached_property
    def used(self) -> IntArray:
        return np.unique(self._link)

    @cached_property
    def _begin(self) -> csr_matrix[np.float64]:
        """[states + 1, P] where each pair's bytes start."""
        order = np.argsort(self._place, kind="stable")
        return _matrix(self._place[order], order, np.ones(len(order)), (self._states + 1, len(order)))

    @cached_property
    def _steps(self) -> list[tuple[slice, slice, csr_matrix[np.float64]]]:
        """Per level: its states, the later states that their hops reach, and the shares from those to these."""
        steps = []
        for index in range(len(self._levels)):
            here = slice(int(self._bounds[index]), int(self._bounds[index + 1]))
            hops = np.arange(self._cuts[index], self._cuts[index + 1])
            hops = hops[self._to[hops] < self._states]
            if len(hops):
                there = slice(here.stop, int(self._to[hops].max()) + 1)
                shape = there.stop - there.start, here.stop - here.start
                shares = _matrix(self._to[hops] - there.start, self._from[hops] - here.start, self._share[hops], shape)
                steps.append((here, there, shares))
        return steps

    @cached_property
    def _crossing(self) -> csr_matrix[np.float64]:
        """[K, states + 1] share of a state's bytes on each used link."""
        rows = np.searchsorted(self.used, self._link)
        return _matrix(rows, self._from, self._share, (len(self.used), self._states + 1))

    def loads(self, traffic: ArrayLike) -> FloatArray:
        """[..., K] bytes over each link of `used`, from [..., P] bytes of each pair."""
        states = product(self._begin, np.asarray(traffic, dtype=np.float64))
        for here, there, shares in self._steps:
            states[..., there] += product(shares, states[..., here])
        return product(self._crossing, states)

    @cached_property
    def hops(self) -> FloatArray:
        """[P] links that a byte crosses."""
        return self._towards_the_source(np.ones(self.topology.links), slowest=False)

    @cached_property
    def latency(self) -> FloatArray:
        """[P] seconds of the slowest path."""
        return self._towards_the_source(self.topology.latency, slowest=True)

    @cached_property
    def energy(self) -> FloatArray:
        """[P] joules per byte."""
        return self._towards_the_source(self.topology.energy, slowest=False)

    def _towards_the_source(self, cost: FloatArray, *, slowest: bool) -> FloatArray:
        """[P] cost of the links of each pair's path: of the dearest path, or the mean over its bytes."""
        total = np.zeros(self._states + 1)
        for index in reversed(range(len(self._levels))):
            hops = slice(self._cuts[index], self._cuts[index + 1])
            along = cost[self._link[hops]] + total[self._to[hops]]
            if slowest:
                np.maximum.at(total, self._from[hops], along)
            else:
                np.add.at(total, self._from[hops], along * self._share[hops])
        return total[self._place]


def _matrix(rows: IntArray, columns: IntArray, values: FloatArray, shape: tuple[int, int]) -> csr_matrix[np.float64]:
    order = np.argsort(rows, kind="stable")
    pointer = np.searchsorted(rows[order], np.arange(shape[0] + 1))
    return csr(values[order], columns[order], pointer, shape)
