"""Lengths of shortest paths to many destinations at once, by a search that carries one bit per destination."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.topology import IntArray, Topology

CostArray = NDArray[np.uint16]
BitArray = NDArray[np.uint64]

#: What stands where no path leads.
UNREACHABLE = np.iinfo(np.uint16).max
#: Vertices times words (of 64 destinations each) that one pass of the search holds: arrays of 4 MB.
_BLOCK = 1 << 19


def path_costs(topology: Topology, destinations: IntArray) -> CostArray:
    """[vertices, D] cost of the cheapest path from each vertex to each destination, UNREACHABLE where there is none.

    A path costs the sum of its links' costs: its length in links, where all cost 1. It leads through vertices that
    forward (`Topology.passes`); its ends need not. The destinations are distinct.
    """
    costs = np.empty((topology.vertices, len(destinations)), dtype=np.uint16)
    width = 64 * max(_BLOCK // topology.vertices, 1)
    neighbours = _neighbours(topology)
    for start in range(0, len(destinations), width):
        block = slice(start, start + width)
        costs[:, block] = _search(topology, neighbours, destinations[block])
    return costs


class _Neighbours(NamedTuple):
    """The i-th neighbour over links of one cost, for all vertices that have as many (None: all vertices, in order)."""

    cost: int
    vertices: IntArray | None
    neighbour: IntArray


def _search(topology: Topology, neighbours: list[_Neighbours], destinations: IntArray) -> CostArray:
    """Level by level: a vertex is reached at the first level at which a link leads to one reached that much earlier.

    Levels are counted in bit planes that hold Gray code, of which one bit changes per count: at each level one plane is
    flipped for all who are still waiting.
    """
    frontiers = deque([_one_bit_each(topology.vertices, destinations)], max((n.cost for n in neighbours), default=1))
    waiting, blocked = ~frontiers[0], np.flatnonzero(~topology.passes)
    planes: list[BitArray] = []
    level = 0
    while any(frontier.any() for frontier in frontiers):
        level += 1
        bit = (level & -level).bit_length() - 1
        if bit == len(planes):
            planes.append(np.zeros_like(waiting))
        planes[bit] ^= waiting
        fresh = np.zeros_like(waiting)
        for cost, vertices, neighbour in neighbours:
            if cost > len(frontiers):
                continue
            reached = frontiers[-cost]
            if vertices is None:
                fresh |= reached[neighbour]
            else:
                fresh[vertices] |= reached[neighbour]
        fresh &= waiting
        waiting ^= fresh
        fresh[blocked] = 0
        frontiers.append(fresh)
    return _levels(planes, waiting, len(destinations))


def _levels(planes: list[BitArray], waiting: BitArray, destinations: int) -> CostArray:
    costs = np.zeros((len(waiting), destinations), dtype=np.uint16)
    binary = np.zeros_like(waiting)
    for bit in reversed(range(len(planes))):
        binary ^= planes[bit]
        costs |= np.left_shift(_bits(binary, destinations), bit, dtype=np.uint16)
    costs[_bits(waiting, destinations).view(np.bool_)] = UNREACHABLE
    return costs


def _neighbours(topology: Topology) -> list[_Neighbours]:
    found: list[_Neighbours] = []
    for cost in np.unique(topology.costs).tolist():
        chosen = np.flatnonzero(topology.costs == cost)
        chosen = chosen[np.argsort(topology.source[chosen], kind="stable")]
        degree = np.bincount(topology.source[chosen], minlength=topology.vertices)
        first = np.cumsum(degree) - degree
        for slot in range(int(degree.max(initial=0))):
            vertices = np.flatnonzero(degree > slot)
            neighbour = topology.target[chosen[first[vertices] + slot]]
            found.append(_Neighbours(cost, None if len(vertices) == topology.vertices else vertices, neighbour))
    return found


def _one_bit_each(vertices: int, destinations: IntArray) -> BitArray:
    bits = np.zeros((vertices, -(-len(destinations) // 64)), dtype="<u8")
    index = np.arange(len(destinations))
    bits[destinations, index // 64] |= np.uint64(1) << (index % 64).astype(np.uint64)
    return bits


def _bits(words: BitArray, count: int) -> NDArray[np.uint8]:
    """[vertices, count] of 0 and 1."""
    return np.unpackbits(words.view(np.uint8), axis=1, bitorder="little", count=count)
