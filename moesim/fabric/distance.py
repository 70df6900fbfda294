"""Hop counts to many destinations at once, by a breadth-first search that carries one bit per destination."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.topology import IntArray, Topology

HopArray = NDArray[np.uint16]
BitArray = NDArray[np.uint64]

#: What stands where no path leads.
UNREACHABLE = np.iinfo(np.uint16).max
#: Vertices times words (of 64 destinations each) that one pass of the search holds: arrays of 4 MB.
_BLOCK = 1 << 19


def hop_counts(topology: Topology, destinations: IntArray) -> HopArray:
    """[vertices, D] links on a shortest path from each vertex to each destination, UNREACHABLE where there is none.

    A path leads through vertices that forward (`Topology.passes`); its ends need not. The destinations are distinct.
    """
    counts = np.empty((topology.vertices, len(destinations)), dtype=np.uint16)
    width = 64 * max(_BLOCK // topology.vertices, 1)
    for start in range(0, len(destinations), width):
        block = slice(start, start + width)
        counts[:, block] = _search(topology, destinations[block])
    return counts


def _search(topology: Topology, destinations: IntArray) -> HopArray:
    """Level by level: a vertex is reached one level after the first of its neighbours.

    Levels are counted in bit planes that hold Gray code, of which one bit changes per count: at each level one plane is
    flipped for all who are still waiting.
    """
    slots = _slots(topology)
    frontier = _one_bit_each(topology.vertices, destinations)
    waiting, blocked = ~frontier, np.flatnonzero(~topology.passes)
    planes: list[BitArray] = []
    level = 0
    while frontier.any():
        level += 1
        bit = (level & -level).bit_length() - 1
        if bit == len(planes):
            planes.append(np.zeros_like(waiting))
        planes[bit] ^= waiting
        fresh = np.zeros_like(frontier)
        for vertices, neighbours in slots:
            if vertices is None:
                fresh |= frontier[neighbours]
            else:
                fresh[vertices] |= frontier[neighbours]
        fresh &= waiting
        waiting ^= fresh
        frontier = fresh
        frontier[blocked] = 0
    counts = np.zeros((topology.vertices, len(destinations)), dtype=np.uint16)
    binary = np.zeros_like(waiting)
    for bit in reversed(range(len(planes))):
        binary ^= planes[bit]
        counts |= np.left_shift(_bits(binary, len(destinations)), bit, dtype=np.uint16)
    counts[_bits(waiting, len(destinations)).view(np.bool_)] = UNREACHABLE
    return counts


def _slots(topology: Topology) -> list[tuple[IntArray | None, IntArray]]:
    """The first neighbour of all vertices that have one, the second, ... (None: of all vertices, in order)."""
    pointer, links = topology.outgoing
    degree = np.diff(pointer)
    slots: list[tuple[IntArray | None, IntArray]] = []
    for slot in range(int(degree.max(initial=0))):
        vertices = np.flatnonzero(degree > slot)
        neighbours = topology.target[links[pointer[vertices] + slot]]
        slots.append((None if len(vertices) == topology.vertices else vertices, neighbours))
    return slots


def _one_bit_each(vertices: int, destinations: IntArray) -> BitArray:
    bits = np.zeros((vertices, -(-len(destinations) // 64)), dtype="<u8")
    index = np.arange(len(destinations))
    bits[destinations, index // 64] |= np.uint64(1) << (index % 64).astype(np.uint64)
    return bits


def _bits(words: BitArray, count: int) -> NDArray[np.uint8]:
    """[vertices, count] of 0 and 1."""
    return np.unpackbits(words.view(np.uint8), axis=1, bitorder="little", count=count)
