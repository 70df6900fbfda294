"""Link loads of many pairs at once: bytes are added up wherever they meet on the way to the same destination.

Where switches forward by destination, what counts is the bytes at each (vertex, destination), not where they came from.
These states are worked off from the farthest to the nearest, each handing its bytes to its next hops: as many steps as
the longest route has links, and far fewer terms than pairs x links.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from moesim.fabric.distance import UNREACHABLE, hop_counts
from moesim.fabric.routes import csr, next_hops, product, refuse_pair
from moesim.fabric.topology import FloatArray, IntArray, Topology

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True, eq=False)
class _Level:
    """States equally far from their destinations: their keys, and their hops as columns (position of the state in the
    level, link, share of its bytes, position of the next state in the next level; 0 at the destination)."""

    keys: IntArray
    state: IntArray
    link: IntArray
    share: FloatArray
    onward: IntArray


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
        self._destinations, self._counts = len(destinations), hop_counts(topology, destinations)
        left = self._counts[pairs[:, 0], column].astype(np.int64)
        if (left == UNREACHABLE).any():
            refuse_pair(topology, *pairs[np.argmax(left == UNREACHABLE)].tolist())
        self.hops = left.astype(np.float64)
        self._keys = pairs[:, 0] * self._destinations + column
        self._levels = self._walk(left)
        self._bounds = np.cumsum([0, *(len(level.keys) for level in self._levels)])

    def _walk(self, left: IntArray) -> list[_Level]:
        """Levels from the farthest to the nearest."""
        levels: list[_Level] = []
        keys = np.unique(self._keys[left == left.max(initial=0)])
        for distance in range(int(left.max(initial=0)), 0, -1):
            state, link, share, key = self._hop(keys)
            after = np.union1d(key, self._keys[left == distance - 1]) if distance > 1 else key[:0]
            onward = np.searchsorted(after, key) if distance > 1 else np.zeros(len(key), dtype=np.int64)
            levels.append(_Level(keys, state, link, share, onward))
            keys = after
        return levels

    def _hop(self, keys: IntArray) -> tuple[IntArray, IntArray, FloatArray, IntArray]:
        """(state, link, share, key after the hop) columns of the hops out of these states."""
        vertex, column = np.divmod(keys, self._destinations)
        state, link = next_hops(self.topology, self._counts, vertex, column)
        ways = np.bincount(state, minlength=len(keys))
        if not self.split:
            link, state, ways = link[np.cumsum(ways) - ways], np.arange(len(keys)), np.ones_like(ways)
        return state, link, 1 / ways[state], self.topology.target[link] * self._destinations + column[state]

    @cached_property
    def _place(self) -> IntArray:
        """[P] position of each pair's first state among all; the number of states for a pair of one device."""
        place = np.full(len(self.pairs), self._bounds[-1], dtype=np.int64)
        for index, level in enumerate(self._levels):
            here = np.flatnonzero(self.hops == len(self._levels) - index)
            place[here] = self._bounds[index] + np.searchsorted(level.keys, self._keys[here])
        return place

    @cached_property
    def used(self) -> IntArray:
        return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(level.link for level in self._levels)]))

    @cached_property
    def _begin(self) -> csr_matrix[np.float64]:
        """[states + 1, P] where each pair's bytes start."""
        order = np.argsort(self._place, kind="stable")
        pointer = np.searchsorted(self._place[order], np.arange(self._bounds[-1] + 2))
        return csr(np.ones(len(order)), order, pointer, (int(self._bounds[-1]) + 1, len(order)))

    @cached_property
    def _steps(self) -> list[csr_matrix[np.float64]]:
        """From each level but the last to the next."""
        return [
            _matrix(level.onward, level.state, level.share, (len(after.keys), len(level.keys)))
            for level, after in zip(self._levels, self._levels[1:], strict=False)
        ]

    @cached_property
    def _crossing(self) -> csr_matrix[np.float64]:
        """[K, states] share of a state's bytes on each used link."""
        link = np.concatenate([np.zeros(0, dtype=np.int64), *(level.link for level in self._levels)])
        places = (level.state + start for level, start in zip(self._levels, self._bounds, strict=False))
        share = np.concatenate([np.zeros(0), *(level.share for level in self._levels)])
        state = np.concatenate([np.zeros(0, dtype=np.int64), *places])
        return _matrix(np.searchsorted(self.used, link), state, share, (len(self.used), int(self._bounds[-1]) + 1))

    def loads(self, traffic: ArrayLike) -> FloatArray:
        """[..., K] bytes over each link of `used`, from [..., P] bytes of each pair."""
        states = product(self._begin, np.asarray(traffic, dtype=np.float64))
        for index, step in enumerate(self._steps):
            here, after, end = self._bounds[index : index + 3]
            states[..., after:end] += product(step, states[..., here:after])
        return product(self._crossing, states)

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
        total, after = np.zeros(int(self._bounds[-1]) + 1), np.zeros(1)
        for index in reversed(range(len(self._levels))):
            level, here = self._levels[index], np.zeros(len(self._levels[index].keys))
            along = cost[level.link] + after[level.onward]
            if slowest:
                np.maximum.at(here, level.state, along)
            else:
                here += np.bincount(level.state, along * level.share, minlength=len(here))
            total[self._bounds[index] : self._bounds[index + 1]] = after = here
        return total[self._place]


def _matrix(rows: IntArray, columns: IntArray, values: FloatArray, shape: tuple[int, int]) -> csr_matrix[np.float64]:
    order = np.argsort(rows, kind="stable")
    pointer = np.searchsorted(rows[order], np.arange(shape[0] + 1))
    return csr(values[order], columns[order], pointer, shape)
