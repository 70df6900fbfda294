"""Collective algorithms as flows between the lanes of a group, whatever joins them.

An algorithm is a short list of moves. With n lanes, S bytes per lane, latency a and B bytes/s on a switch, the moves of
an all-reduce add up to (Thakur, Rabenseifner, Gropp: Optimization of collective communication operations in MPICH,
IJHPCA 2005; Sanders, Speck, Traeff: Two-tree algorithms for full bandwidth broadcast, reduction and scan, Parallel
Computing 2009):

    ring                 2 (n-1) (a + S / (n B))
    direct               2 (a + (n-1)/n S / B)
    halving-doubling     2 log2(n) a + 2 (n-1)/n S / B
    tree                 2 log2(n) (a + S / B)
    double-binary-tree   about 2 log2(n) a + 2 S / B
    hierarchical         reduce-scatter in the node, all-reduce of S/g across, all-gather in the node
    multi-dimensional    along each dimension of a grid in turn, both ways round (two-dimensional on a mesh)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from moesim.fabric.topology import FloatArray, IntArray
from moesim.fabric.transfer import Lanes
from moesim.spec.errors import MoesimError


class Move(NamedTuple):
    """`rounds` rounds in each of which `share` [F] of the size travels along each of the flows [F, 2] between lanes.

    depth: hops of a pipeline, each of which adds a latency while the bytes stream through.
    """

    flows: IntArray
    share: FloatArray
    rounds: int = 1
    depth: int = 1

    def backwards(self) -> Move:
        return self._replace(flows=np.ascontiguousarray(self.flows[:, ::-1]))


class Layout(NamedTuple):
    """A group as the algorithms see it. order: lanes along a ring of neighbours, or from a root on. nodes: lanes as
    [nodes, lanes of a node]; grid: lanes as they lie in [rows, columns, ...]; None where they have no such shape."""

    lanes: int
    order: IntArray
    nodes: IntArray | None
    grid: IntArray | None


Moves = Callable[[Layout], list[Move]]


def layout_of(group: Lanes, root: int | None = None) -> Layout:
    order = group.order
    if root is not None:
        order = np.roll(order, -int(np.flatnonzero(order == root)[0]))
    return Layout(group.lanes, order, group.grid if group.several_nodes else None, group.lattice)


def move(flows: Sequence[tuple[int, int]] | IntArray, share: float, rounds: int = 1, depth: int = 1) -> Move:
    pairs = np.ascontiguousarray(flows, dtype=np.int64).reshape(-1, 2)
    return Move(pairs, np.full(len(pairs), share), rounds, depth)


def ring_flows(rings: IntArray) -> IntArray:
    """Each lane of every ring [rings, members] to the next one."""
    return np.stack([rings, np.roll(rings, -1, axis=1)], axis=-1).reshape(-1, 2)


def both_ways(rings: IntArray) -> IntArray:
    """Each lane of every ring to the next and to the previous one."""
    forth = ring_flows(rings)
    return np.concatenate([forth, forth[:, ::-1]])


def mutual_flows(sets: IntArray) -> IntArray:
    """Each lane of every set [sets, members] to every other of it."""
    here, there = np.nonzero(~np.eye(sets.shape[1], dtype=bool))
    return np.stack([sets[:, here], sets[:, there]], axis=-1).reshape(-1, 2)


def reduced(gather: Moves) -> Moves:
    """A reduce-scatter is an all-gather run backwards."""
    return lambda layout: [each.backwards() for each in reversed(gather(layout))]


def both(gather: Moves) -> Moves:
    """An all-reduce of S: reduce-scatter and all-gather of chunks of S / n."""

    def moves(layout: Layout) -> list[Move]:
        whole = [*reduced(gather)(layout), *gather(layout)]
        return merged([each._replace(share=each.share / layout.lanes) for each in whole])

    return moves


def merged(moves: list[Move]) -> list[Move]:
    """Neighbours that move the same become one move of more rounds."""
    kept: list[Move] = []
    for each in moves:
        last = kept[-1] if kept else None
        same = last is not None and last.depth == each.depth and np.array_equal(last.flows, each.flows)
        if last is not None and same and np.array_equal(last.share, each.share):
            kept[-1] = last._replace(rounds=last.rounds + each.rounds)
        else:
            kept.append(each)
    return kept


# All-gathers: every lane holds a chunk; sizes are chunks.


def ring_gather(layout: Layout) -> list[Move]:
    return [move(ring_flows(layout.order[None]), 1.0, layout.lanes - 1)]


def ring_reduce(layout: Layout) -> list[Move]:
    """Round twice, the same way."""
    return [move(ring_flows(layout.order[None]), 1 / layout.lanes, 2 * (layout.lanes - 1))]


def bidirectional_gather(layout: Layout) -> list[Move]:
    """Two rings, one each way round, with half of every chunk."""
    return [move(both_ways(layout.order[None]), 0.5, layout.lanes - 1)]


def direct_gather(layout: Layout) -> list[Move]:
    return [move(mutual_flows(layout.order[None]), 1.0)]


def doubling_gather(layout: Layout) -> list[Move]:
    """Recursive doubling; run backwards, recursive halving: the most bytes travel between the nearest partners."""
    steps = round_log2(layout)
    place = np.arange(layout.lanes)
    far_first = reversed(range(steps))
    return [
        move(np.stack([layout.order, layout.order[place ^ (1 << k)]], axis=1), float(1 << (steps - 1 - k)))
        for k in far_first
    ]


def round_log2(layout: Layout) -> int:
    if layout.lanes & (layout.lanes - 1):
        raise MoesimError(
            f"halving-doubling serves a power of two of devices, the group has {layout.lanes}",
            fix="choose ring, or double-binary-tree",
        )
    return layout.lanes.bit_length() - 1


def bruck_gather(layout: Layout) -> list[Move]:
    """Bruck et al., Efficient algorithms for all-to-all communications in multiport message-passing systems, IEEE TPDS
    8(11), 1997: chunks double until the last round, for any number of lanes."""
    moves, held = [], 1
    while held < layout.lanes:
        count = min(held, layout.lanes - held)
        flows = np.stack([layout.order, np.roll(layout.order, held)], axis=1)
        moves.append(move(flows, float(count)))
        held += count
    return moves


def hierarchical_gather(layout: Layout) -> list[Move]:
    """Rings between the lanes of equal index of all nodes, then, of what these hold, inside the nodes."""
    if layout.nodes is None:
        raise MoesimError(
            "a hierarchical collective needs several nodes with as many devices of the group in each", fix="choose ring"
        )
    return _grid_gather(layout.nodes, ring_flows, 1.0)


def lattice_gather(layout: Layout) -> list[Move]:
    """Rings along the first dimension of a grid, then, of what these hold, along the next; half each way round."""
    if layout.grid is None:
        raise MoesimError("a multi-dimensional collective needs devices that fill a grid", fix="choose ring")
    return _grid_gather(layout.grid, both_ways, 0.5)


def _grid_gather(grid: IntArray, flows: Callable[[IntArray], IntArray], share: float) -> list[Move]:
    moves, held = [], 1
    for axis, extent in enumerate(grid.shape):
        if extent > 1:
            rings = np.moveaxis(grid, axis, -1).reshape(-1, extent)
            moves.append(move(flows(rings), share * held, extent - 1))
        held *= extent
    return moves


# Trees: sizes are what every lane holds, or what the root sends.


def binomial_flows(lanes: int) -> list[list[tuple[int, int]]]:
    """Rounds of a broadcast from place 0: whoever has the bytes hands them on."""
    rounds, held = [], 1
    while held < lanes:
        rounds.append([(place, place + held) for place in range(min(held, lanes - held))])
        held *= 2
    return rounds


def tree_broadcast(layout: Layout) -> list[Move]:
    return [move(layout.order[np.array(flows)], 1.0) for flows in binomial_flows(layout.lanes)]


def tree_reduce(layout: Layout) -> list[Move]:
    down = tree_broadcast(layout)
    return [*(each.backwards() for each in reversed(down)), *down]


def two_trees(lanes: int) -> tuple[list[tuple[int, int]], int]:
    """(parent, child) pairs of two binary trees over all places of which no place is inside both, and their depth."""
    first = _binary_tree(lanes)
    turned = [
        (lanes - 1 - p, lanes - 1 - c) if lanes % 2 == 0 else ((p + 1) % lanes, (c + 1) % lanes) for p, c in first
    ]
    parents = {child: parent for parent, child in first}

    def steps_up(place: int) -> int:
        return 1 + steps_up(parents[place]) if place in parents else 0

    return first + turned, max(map(steps_up, range(lanes)))


def _binary_tree(lanes: int) -> list[tuple[int, int]]:
    """In-order: odd places are leaves. The parent of place r, whose lowest set bit is b, clears b and sets 2b; where
    that lies beyond the last place, it only clears b. Place 0 is the root."""
    edges = []
    for place in range(1, lanes):
        bit = place & -place
        parent = (place ^ bit) | (bit << 1)
        edges.append((parent if parent < lanes else place ^ bit, place))
    return edges


def double_tree_reduce(layout: Layout) -> list[Move]:
    """Half of the bytes up and down each tree, streaming."""
    edges, depth = two_trees(layout.lanes)
    down = layout.order[np.array(edges)]
    return [move(np.concatenate([down[:, ::-1], down]), 0.5, depth=2 * depth)]


def chain_broadcast(layout: Layout) -> list[Move]:
    """From lane to lane, streaming."""
    return [move(ring_flows(layout.order[None])[:-1], 1.0, depth=layout.lanes - 1)]


def direct_broadcast(layout: Layout) -> list[Move]:
    first, others = layout.order[0], layout.order[1:]
    return [move(np.stack([np.full(len(others), first), others], axis=1), 1.0)]


GATHERS: dict[str, Moves] = {
    "ring": ring_gather,
    "bidirectional-ring": bidirectional_gather,
    "direct": direct_gather,
    "halving-doubling": doubling_gather,
    "bruck": bruck_gather,
    "hierarchical": hierarchical_gather,
    "multi-dimensional": lattice_gather,
}
REDUCES: dict[str, Moves] = {
    **{name: both(gather) for name, gather in GATHERS.items() if name != "bruck"},
    "ring": ring_reduce,
    "tree": tree_reduce,
    "double-binary-tree": double_tree_reduce,
}
BROADCASTS: dict[str, Moves] = {
    "ring": chain_broadcast,
    "tree": tree_broadcast,
    "direct": direct_broadcast,
}
