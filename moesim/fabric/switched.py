"""Closed forms of ring and direct collectives on a switch per node and ports between nodes.

With n lanes, latency a and B bytes/s per port and direction, on one switch:

    ring all-gather, reduce-scatter      (n-1) (a + chunk / B)
    direct all-gather                    a + max over lanes and directions of bytes / B

Two levels, g lanes in each of N nodes: reduce-scatter in the node, all-reduce of S/g between the lanes of equal index,
all-gather in the node (the decomposition of BlueConnect, Cho et al., MLSys 2019).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.transfer import FloatArray, GroupPorts, IntArray, PortKind, PortPhase


def reduce_phases(size: FloatArray, ports: GroupPorts, algorithm: str) -> tuple[PortPhase, ...]:
    """All-reduce of `size` [...] bytes per lane; nodes of different sizes form one ring."""
    if ports.grid is None:
        return mixed_ring(size / ports.lanes, 2 * (ports.lanes - 1), ports)
    nodes, width = ports.grid.shape
    scatter = uniform("scale_up", width, 1, size / width, algorithm)
    across = uniform("scale_out", nodes, 2, size / (width * nodes), algorithm)
    return (*scatter, *across, *scatter)


def scatter_phases(chunks: FloatArray, ports: GroupPorts, algorithm: str) -> tuple[PortPhase, ...]:
    """Reduce-scatter: an all-gather run backwards."""
    backwards = [
        PortPhase(phase.port, phase.rounds, phase.received, phase.sent, phase.parallel)
        for phase in reversed(gather(chunks, ports, algorithm))
    ]
    if backwards and backwards[0].parallel:  # the pair of a mixed ring: whichever comes first leads
        backwards = [PortPhase(p.port, p.rounds, p.sent, p.received, i > 0) for i, p in enumerate(backwards)]
    return tuple(backwards)


def uniform(kind: PortKind, members: int, passes: int, part: FloatArray, algorithm: str) -> tuple[PortPhase, ...]:
    """`passes` sweeps over subgroups of `members` lanes in which every lane hands `part` bytes to each other one."""
    if members == 1:
        return ()
    per_round = (part if algorithm == "ring" else (members - 1) * part)[..., None]
    return (PortPhase(kind, passes * (members - 1 if algorithm == "ring" else 1), per_round, per_round),)


def gather(chunks: FloatArray, ports: GroupPorts, algorithm: str) -> tuple[PortPhase, ...]:
    """All-gather: first between the lanes of equal index of all nodes, then, of what these hold, inside the node."""
    if ports.lanes == 1:
        return ()
    if ports.grid is None:
        return mixed_ring(chunks.max(axis=-1), ports.lanes - 1, ports)
    spread = chunks[..., ports.grid]  # [..., nodes, lanes of a node]
    if algorithm == "ring":
        spread = np.broadcast_to(spread.max(axis=(-2, -1), keepdims=True), spread.shape)
    columns = np.broadcast_to(spread.sum(axis=-2, keepdims=True), spread.shape)
    return (
        *_gather_level("scale_out", spread, -2, ports.grid, algorithm),
        *_gather_level("scale_up", columns, -1, ports.grid, algorithm),
    )


def _gather_level(
    kind: PortKind, chunks: FloatArray, axis: int, grid: IntArray, algorithm: str
) -> tuple[PortPhase, ...]:
    """All-gather along one axis of the grid of lanes; `chunks` [..., nodes, lanes of a node] in bytes."""
    members = chunks.shape[axis]
    if members == 1:
        return ()
    if algorithm == "ring":
        sent = received = _by_lane(chunks, grid)
        return (PortPhase(kind, members - 1, sent, received),)
    others = chunks.sum(axis=axis, keepdims=True) - chunks
    return (PortPhase(kind, 1, _by_lane((members - 1) * chunks, grid), _by_lane(others, grid)),)


def _by_lane(values: FloatArray, grid: IntArray) -> FloatArray:
    """[..., nodes, lanes of a node] -> [..., lanes], in the group's own order."""
    flat = np.empty((*values.shape[:-2], grid.size))
    flat[..., grid.ravel()] = values.reshape(flat.shape)
    return flat


def mixed_ring(part: FloatArray, rounds: int, ports: GroupPorts) -> tuple[PortPhase, ...]:
    """A ring over nodes of different sizes: `part` bytes [...] a round to the next lane, over the port towards it."""
    order, successor = ports.order, np.roll(ports.order, -1)
    crosses = ports.node[order] != ports.node[successor]

    def phase(kind: PortKind, edges: NDArray[np.bool_], parallel: bool) -> PortPhase:
        sent, received = np.zeros(ports.lanes), np.zeros(ports.lanes)
        sent[order[edges]] = 1.0
        received[successor[edges]] = 1.0
        return PortPhase(kind, rounds, part[..., None] * sent, part[..., None] * received, parallel)

    return phase("scale_up", ~crosses, False), phase("scale_out", crosses, True)
