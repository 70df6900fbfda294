"""All-to-all exchanges: bytes of their own for every pair of lanes.

With n lanes, S bytes per lane, m = S / n for each other, latency a and B bytes/s on a switch:

    direct         a + max over lanes and directions of bytes / B
    pairwise       (n-1) (a + m / B), in round k to the k-th next lane
    bruck          log2(n) (a + S / (2 B)): blocks travel with others of the same bit (Bruck et al., IEEE TPDS 1997)
    hierarchical   inside the node to the lane with the index of the destination, then across nodes on equal indices
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moesim.fabric.algorithms import move
from moesim.fabric.links import GroupLinks
from moesim.fabric.moved import flow_phases, uniform_phases
from moesim.fabric.transfer import FloatArray, Group, Phase, PortPhase
from moesim.spec.errors import MoesimError

Exchange = Callable[[FloatArray, Group, bool], tuple[Phase, ...]]


def direct(traffic: FloatArray, group: Group, back: bool) -> tuple[Phase, ...]:
    """All at once."""
    if isinstance(group, GroupLinks):
        # Every pair is among the flows, so that those of both directions are the same, routed once.
        moved = np.swapaxes(traffic, -1, -2) if back else traffic
        return flow_phases(moved.reshape(*traffic.shape[:-2], -1), group, group.every_pair)
    near = group.node[:, None] == group.node[None, :]
    inside = (near & ~np.eye(group.lanes, dtype=bool)).astype(np.float64)
    up = _sums(traffic, inside, back)
    phases = [] if np.isinf(group.up_bandwidth).all() else [PortPhase("scale_up", 1, *up)]
    if group.several_nodes:
        out = _sums(traffic, (~near).astype(np.float64), back)
        phases.append(PortPhase("scale_out", 1, *out, parallel=bool(phases)))
    return tuple(phases)


def _sums(traffic: FloatArray, kept: FloatArray, back: bool) -> tuple[FloatArray, FloatArray]:
    """[..., lanes] bytes out of and into each lane."""
    rows, columns = np.einsum("...ij,ij->...i", traffic, kept), np.einsum("...ij,ij->...j", traffic, kept)
    return (columns, rows) if back else (rows, columns)


def pairwise(traffic: FloatArray, group: Group, back: bool) -> tuple[Phase, ...]:
    phases: list[Phase] = []
    for shift in range(1, group.lanes):
        here = group.order
        there = np.roll(here, -shift)
        flows = np.stack([there, here] if back else [here, there], axis=1)
        phases += flow_phases(traffic[..., here, there], group, flows)
    return tuple(phases)


def bruck(traffic: FloatArray, group: Group, back: bool) -> tuple[Phase, ...]:
    """Blocks are padded to the largest: they travel in bundles."""
    apart = ~np.eye(group.lanes, dtype=bool)
    block = np.max(traffic, axis=(-2, -1), where=apart, initial=0.0)
    phases: list[Phase] = []
    for bit in range((group.lanes - 1).bit_length()):
        blocks = int(np.count_nonzero(np.arange(group.lanes) >> bit & 1))
        step = -(1 << bit) if back else 1 << bit
        flows = np.stack([group.order, np.roll(group.order, -step)], axis=1)
        phases += uniform_phases([move(flows, float(blocks))], group, block)
    return tuple(phases)


def hierarchical(traffic: FloatArray, group: Group, back: bool) -> tuple[Phase, ...]:
    if not group.several_nodes or group.grid is None:
        raise MoesimError(
            "a hierarchical all-to-all needs several nodes with as many devices of the group in each",
            fix="choose direct",
        )
    nodes, width = group.grid.shape
    lanes = group.grid.ravel()
    ordered = traffic[..., lanes[:, None], lanes[None, :]].reshape(*traffic.shape[:-2], nodes, width, nodes, width)
    inside = ordered.sum(axis=-2)  # [..., node, lane, lane of equal index]
    across = ordered.sum(axis=-3)  # [..., node, node of the destination, lane]
    node, here, there = (index.ravel() for index in np.indices((nodes, width, width)))
    first = np.stack([group.grid[node, here], group.grid[node, there]], axis=1)
    begin, end, lane = (index.ravel() for index in np.indices((nodes, nodes, width)))
    second = np.stack([group.grid[begin, lane], group.grid[end, lane]], axis=1)
    stages = [(inside, first), (across, second)]
    if back:
        stages = [(moved, flows[:, ::-1]) for moved, flows in reversed(stages)]
    shape = traffic.shape[:-2]
    return tuple(phase for moved, flows in stages for phase in flow_phases(moved.reshape(*shape, -1), group, flows))


ALL_TO_ALLS: dict[str, Exchange] = {
    "direct": direct,
    "pairwise": pairwise,
    "bruck": bruck,
    "hierarchical": hierarchical,
}
