"""Collectives on a non-blocking switch, and on two levels: a switch per node and scale-out ports between nodes.

Each function turns an array of sizes (layers, batches, ...) into a `Transfer` for all of them. With n lanes, S bytes
per lane, latency a and B bytes/s per port and direction, on one switch (Thakur, Rabenseifner, Gropp: Optimization of
collective communication operations in MPICH, IJHPCA 2005):

    ring all-reduce                      2 (n-1) (a + S / (n B))
    ring all-gather, reduce-scatter      (n-1) (a + chunk / B)
    all-to-all                           a + max over lanes and directions of bytes / B
    direct all-reduce                    2 (a + (n-1)/n S / B)

Two levels, g lanes in each of N nodes: reduce-scatter in the node, all-reduce of S/g between the lanes of equal index,
all-gather in the node (the decomposition of BlueConnect, Cho et al., MLSys 2019).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moesim.fabric.transfer import FloatArray, GroupPorts, IntArray, PortKind, PortPhase, Transfer

#: ring: n-1 rounds to the neighbour. direct: every lane to every other at once, as custom kernels on a switch do it.
Algorithm = Literal["ring", "direct"]


def all_reduce(size: ArrayLike, ports: GroupPorts, algorithm: Algorithm = "ring") -> Transfer:
    """Sum `size` bytes [...] per lane, result on every lane."""
    size = _sizes(size)
    if ports.lanes == 1:
        return Transfer("all_reduce", algorithm, ports, (), size.shape)
    if ports.grid is None:
        phases = _mixed_ring(size / ports.lanes, 2 * (ports.lanes - 1), ports)
        return Transfer("all_reduce", "ring", ports, phases, size.shape)
    nodes, width = ports.grid.shape
    scatter = _uniform("scale_up", width, 1, size / width, algorithm)
    across = _uniform("scale_out", nodes, 2, size / (width * nodes), algorithm)
    return Transfer("all_reduce", algorithm, ports, (*scatter, *across, *scatter), size.shape)


def all_gather(chunks: ArrayLike, ports: GroupPorts, algorithm: Algorithm = "ring") -> Transfer:
    """Every lane gets the chunks [..., lanes] (bytes) of all.

    In a ring, each round is bounded by the largest chunk of the group: chunks are padded to it, as engines do whose
    ranks run one captured graph. `direct` moves uneven chunks as they are.
    """
    chunks = _chunks(chunks, ports)
    return Transfer("all_gather", algorithm, ports, _gather(chunks, ports, algorithm), chunks.shape[:-1])


def reduce_scatter(chunks: ArrayLike, ports: GroupPorts, algorithm: Algorithm = "ring") -> Transfer:
    """Lane i keeps the sum over lanes of chunk i, of `chunks[..., i]` bytes: an all-gather run backwards."""
    chunks = _chunks(chunks, ports)
    backwards = [
        PortPhase(phase.port, phase.rounds, phase.received, phase.sent, phase.parallel)
        for phase in reversed(_gather(chunks, ports, algorithm))
    ]
    if backwards and backwards[0].parallel:  # the pair of a mixed ring: whichever comes first leads
        backwards = [PortPhase(p.port, p.rounds, p.sent, p.received, i > 0) for i, p in enumerate(backwards)]
    return Transfer("reduce_scatter", algorithm, ports, tuple(backwards), chunks.shape[:-1])


def all_to_all(traffic: ArrayLike, ports: GroupPorts) -> Transfer:
    """Move `traffic[..., i, j]` bytes from lane i to lane j; what stays on its lane (the diagonal) is free."""
    traffic = np.asarray(traffic, dtype=np.float64)
    if traffic.shape[-2:] != (ports.lanes, ports.lanes):
        raise ValueError(f"traffic {traffic.shape} does not fit {ports.lanes} lanes")
    near = ports.node[:, None] == ports.node[None, :]
    inside = (near & ~np.eye(ports.lanes, dtype=bool)).astype(np.float64)
    up = (np.einsum("...ij,ij->...i", traffic, inside), np.einsum("...ij,ij->...j", traffic, inside))
    if not ports.several_nodes:
        return exchange(*up, ports=ports)
    outside = (~near).astype(np.float64)
    out = (np.einsum("...ij,ij->...i", traffic, outside), np.einsum("...ij,ij->...j", traffic, outside))
    return exchange(*up, *out, ports=ports)


def exchange(
    up_sent: ArrayLike,
    up_received: ArrayLike,
    out_sent: ArrayLike | None = None,
    out_received: ArrayLike | None = None,
    *,
    ports: GroupPorts,
) -> Transfer:
    """An all-to-all given by its port sums [..., lanes] in bytes, towards the own node and towards other nodes.

    Cheaper than the traffic matrix where the sums are known. Both kinds of port work at the same time.
    """
    sent, received = _chunks(up_sent, ports), _chunks(up_received, ports)
    if ports.lanes == 1:
        return Transfer("all_to_all", "direct", ports, (), sent.shape[:-1])
    phases = [] if np.isinf(ports.up_bandwidth).all() else [PortPhase("scale_up", 1, sent, received)]
    if ports.several_nodes:
        if out_sent is None or out_received is None:
            raise ValueError("a group over several nodes needs the sums of its scale-out ports")
        out = _chunks(out_sent, ports), _chunks(out_received, ports)
        phases.append(PortPhase("scale_out", 1, *out, parallel=bool(phases)))
    return Transfer("all_to_all", "direct", ports, tuple(phases), sent.shape[:-1])


def send(size: ArrayLike, ports: GroupPorts) -> Transfer:
    """Move `size` bytes [...] from the first to the second lane of a group of two."""
    size = _sizes(size)
    if ports.lanes != 2:
        raise ValueError(f"a send joins two lanes, not {ports.lanes}")
    kind: PortKind = "scale_out" if ports.several_nodes else "scale_up"
    moved = PortPhase(kind, 1, size[..., None] * np.array([1.0, 0.0]), size[..., None] * np.array([0.0, 1.0]))
    return Transfer("send", "direct", ports, (moved,), size.shape)


def _uniform(
    kind: PortKind, members: int, passes: int, part: FloatArray, algorithm: Algorithm
) -> tuple[PortPhase, ...]:
    """`passes` sweeps over subgroups of `members` lanes in which every lane hands `part` bytes to each other one."""
    if members == 1:
        return ()
    per_round = (part if algorithm == "ring" else (members - 1) * part)[..., None]
    return (PortPhase(kind, passes * (members - 1 if algorithm == "ring" else 1), per_round, per_round),)


def _gather(chunks: FloatArray, ports: GroupPorts, algorithm: Algorithm) -> tuple[PortPhase, ...]:
    """All-gather: first between the lanes of equal index of all nodes, then, of what these hold, inside the node."""
    if ports.lanes == 1:
        return ()
    if ports.grid is None:
        return _mixed_ring(chunks.max(axis=-1), ports.lanes - 1, ports)
    spread = chunks[..., ports.grid]  # [..., nodes, lanes of a node]
    if algorithm == "ring":
        spread = np.broadcast_to(spread.max(axis=(-2, -1), keepdims=True), spread.shape)
    columns = np.broadcast_to(spread.sum(axis=-2, keepdims=True), spread.shape)
    return (
        *_gather_level("scale_out", spread, -2, ports.grid, algorithm),
        *_gather_level("scale_up", columns, -1, ports.grid, algorithm),
    )


def _gather_level(
    kind: PortKind, chunks: FloatArray, axis: int, grid: IntArray, algorithm: Algorithm
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


def _mixed_ring(part: FloatArray, rounds: int, ports: GroupPorts) -> tuple[PortPhase, ...]:
    """A ring over nodes of different sizes: `part` bytes [...] a round to the next lane, over the port towards it."""
    order, successor = ports.order, np.roll(ports.order, -1)
    crosses = ports.node[order] != ports.node[successor]

    def phase(kind: PortKind, edges: NDArray[np.bool_], parallel: bool) -> PortPhase:
        sent, received = np.zeros(ports.lanes), np.zeros(ports.lanes)
        sent[order[edges]] = 1.0
        received[successor[edges]] = 1.0
        return PortPhase(kind, rounds, part[..., None] * sent, part[..., None] * received, parallel)

    return phase("scale_up", ~crosses, False), phase("scale_out", crosses, True)


def _sizes(size: ArrayLike) -> FloatArray:
    sizes = np.asarray(size, dtype=np.float64)
    if not (sizes >= 0).all():
        raise ValueError("a transfer has a negative or undefined number of bytes")
    return sizes


def _chunks(chunks: ArrayLike, ports: GroupPorts) -> FloatArray:
    sizes = _sizes(chunks)
    if not sizes.ndim or sizes.shape[-1] != ports.lanes:
        raise ValueError(f"bytes per lane of shape {sizes.shape} do not fit {ports.lanes} lanes")
    return sizes
