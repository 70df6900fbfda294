"""Collectives over a group of devices: sizes in, transfers out.

Each function turns an array of sizes (layers, batches, ...) into a `Transfer` for all of them, on the ports of a switch
or on the links of any topology, with the algorithm of that name:

    all_reduce                  ring, bidirectional-ring, direct, halving-doubling, tree, double-binary-tree,
                                hierarchical, multi-dimensional, nvls, sharp, write-accumulate
    all_gather, reduce_scatter  ring, bidirectional-ring, direct, halving-doubling, bruck, hierarchical,
                                multi-dimensional, nvls, sharp, write-accumulate
    broadcast                   ring, tree, direct, sharp
    multicast                   direct, sharp
    all_to_all                  direct, pairwise, bruck, hierarchical

`auto` takes for each size the one with the shortest closed form (moesim.fabric.auto). On the ports of several nodes,
`ring` and `direct` are hierarchical: first the node, then the lanes of equal index. A group of one lane makes no call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches

import numpy as np
from numpy.typing import ArrayLike

from moesim.fabric import algorithms, switched
from moesim.fabric.algorithms import Moves, layout_of
from moesim.fabric.auto import choose
from moesim.fabric.exchanges import ALL_TO_ALLS
from moesim.fabric.in_switch import in_switch
from moesim.fabric.links import check_distinct
from moesim.fabric.moved import check_bytes, flow_phases, uniform_phases
from moesim.fabric.transfer import FloatArray, Group, GroupPorts, Operation, Phase, PortPhase, Transfer
from moesim.spec.errors import MoesimError

#: Algorithms of reductions and gathers that need switches which add up.
IN_SWITCH = ("nvls", "sharp", "write-accumulate")


def all_reduce(size: ArrayLike, ports: Group, algorithm: str = "ring") -> Transfer:
    """Sum `size` bytes [...] per lane, result on every lane."""
    sizes = _sizes(size, ports)
    if algorithm == "auto":
        return choose("all_reduce", ports, lambda name: all_reduce(sizes, ports, name))
    if isinstance(ports, GroupPorts) and algorithm in ("ring", "direct"):
        phases = switched.reduce_phases(sizes, ports, algorithm) if ports.lanes > 1 else ()
        mixed = ports.grid is None and ports.lanes > 1
        return Transfer("all_reduce", "ring" if mixed else algorithm, ports, phases, sizes.shape)
    return _by_moves("all_reduce", sizes, ports, algorithm, algorithms.REDUCES)


def all_gather(chunks: ArrayLike, ports: Group, algorithm: str = "ring") -> Transfer:
    """Every lane gets the chunks [..., lanes] (bytes) of all.

    Each round is bounded by the largest chunk of the group: chunks are padded to it, as engines do whose ranks run one
    captured graph. On a switch, `direct` moves uneven chunks as they are.
    """
    sizes = _chunks(chunks, ports)
    if algorithm == "auto":
        return choose("all_gather", ports, lambda name: all_gather(sizes, ports, name))
    if isinstance(ports, GroupPorts) and algorithm in ("ring", "direct"):
        return Transfer("all_gather", algorithm, ports, switched.gather(sizes, ports, algorithm), sizes.shape[:-1])
    return _by_moves("all_gather", sizes.max(axis=-1), ports, algorithm, algorithms.GATHERS)


def reduce_scatter(chunks: ArrayLike, ports: Group, algorithm: str = "ring") -> Transfer:
    """Lane i keeps the sum over lanes of chunk i, of `chunks[..., i]` bytes: an all-gather run backwards."""
    sizes = _chunks(chunks, ports)
    if algorithm == "auto":
        return choose("reduce_scatter", ports, lambda name: reduce_scatter(sizes, ports, name))
    if isinstance(ports, GroupPorts) and algorithm in ("ring", "direct"):
        phases = switched.scatter_phases(sizes, ports, algorithm)
        return Transfer("reduce_scatter", algorithm, ports, phases, sizes.shape[:-1])
    scatters = {name: algorithms.reduced(gather) for name, gather in algorithms.GATHERS.items()}
    return _by_moves("reduce_scatter", sizes.max(axis=-1), ports, algorithm, scatters)


def broadcast(size: ArrayLike, ports: Group, root: int = 0, algorithm: str = "tree") -> Transfer:
    """`size` bytes [...] of lane `root` to all others."""
    sizes = _sizes(size, ports)
    _check_lanes(ports, [root])
    if algorithm == "auto":
        return choose("broadcast", ports, lambda name: broadcast(sizes, ports, root, name))
    return _by_moves("broadcast", sizes, ports, algorithm, algorithms.BROADCASTS, root)


def multicast(
    size: ArrayLike, ports: Group, root: int, destinations: Sequence[int], algorithm: str = "direct"
) -> Transfer:
    """`size` bytes [...] of lane `root` to some others: a copy for each, or (`sharp`) one that switches multiply."""
    sizes = _sizes(size, ports)
    _check_lanes(ports, [root, *destinations])
    if algorithm == "sharp":
        return replace(broadcast(sizes, ports.part([root, *destinations]), 0, "sharp"), operation="multicast")
    if algorithm != "direct":
        raise _unknown("multicast", algorithm, ("direct", "sharp"))
    copies = algorithms.move([(root, lane) for lane in destinations], 1.0)
    return Transfer("multicast", algorithm, ports, uniform_phases([copies], ports, sizes), sizes.shape)


def gather(chunks: ArrayLike, ports: Group, root: int = 0) -> Transfer:
    """The chunks [..., lanes] (bytes) of all lanes to lane `root`, all at once."""
    sizes = _chunks(chunks, ports)
    _check_lanes(ports, [root])
    others = np.delete(np.arange(ports.lanes), root)
    flows = np.stack([others, np.full(len(others), root)], axis=1)
    phases = flow_phases(sizes[..., others], ports, flows) if len(others) else ()
    return Transfer("gather", "direct", ports, phases, sizes.shape[:-1])


def all_to_all(traffic: ArrayLike, ports: Group, algorithm: str = "direct", *, back: bool = False) -> Transfer:
    """Move `traffic[..., i, j]` bytes from lane i to lane j; what stays on its lane (the diagonal) is free.

    Args:
        back: move them from lane j to lane i.
    """
    matrix = np.asarray(traffic, dtype=np.float64)
    if matrix.shape[-2:] != (ports.lanes, ports.lanes):
        raise ValueError(f"traffic {matrix.shape} does not fit {ports.lanes} lanes")
    check_bytes(matrix, ports, axes=2)
    if algorithm == "auto":
        return choose("all_to_all", ports, lambda name: all_to_all(matrix, ports, name, back=back))
    if algorithm not in ALL_TO_ALLS:
        raise _unknown("all_to_all", algorithm, ALL_TO_ALLS)
    phases = ALL_TO_ALLS[algorithm](matrix, ports, back) if ports.lanes > 1 else ()
    return Transfer("all_to_all", algorithm, ports, phases, matrix.shape[:-2])


def all_to_alls(traffic: ArrayLike, ports: Group, members: ArrayLike, *, back: bool = False) -> Transfer:
    """All-to-alls inside several parts of a group at the same time, over links that they may share.

    Args:
        traffic: [..., G, n, n] bytes within each part. members: [G, n] lanes of each. back: as in all_to_all.
    """
    parts = np.asarray(members, dtype=np.int64)
    matrix = np.asarray(traffic, dtype=np.float64)
    if parts.ndim != 2 or matrix.shape[-3:] != (*parts.shape, parts.shape[1]):
        raise ValueError(f"traffic {matrix.shape} does not fit parts of {parts.shape} lanes")
    check_distinct(parts.ravel().tolist(), [ports.name(lane) for lane in range(ports.lanes)])
    check_bytes(matrix, ports)
    here, there = np.divmod(np.arange(parts.shape[1] ** 2), parts.shape[1])
    flows = np.stack([parts[:, here], parts[:, there]], axis=-1).reshape(-1, 2)
    shape = matrix.shape[:-3]
    phases = flow_phases(matrix.reshape(*shape, -1), ports, flows[:, ::-1] if back else flows)
    return Transfer("all_to_all", "direct", ports, phases, shape)


def exchange(
    up_sent: ArrayLike,
    up_received: ArrayLike,
    out_sent: ArrayLike | None = None,
    out_received: ArrayLike | None = None,
    *,
    ports: GroupPorts,
) -> Transfer:
    """An all-to-all on ports, given by its port sums [..., lanes] in bytes, towards the own node and other nodes.

    Cheaper than the traffic matrix where the sums are known; [..., 1] where all lanes move the same. Both kinds of port
    work at the same time.
    """
    sent, received = _port_sums(up_sent, ports), _port_sums(up_received, ports)
    if ports.lanes == 1:
        return Transfer("all_to_all", "direct", ports, (), sent.shape[:-1])
    phases = [] if np.isinf(ports.up_bandwidth).all() else [PortPhase("scale_up", 1, sent, received)]
    if ports.several_nodes:
        if out_sent is None or out_received is None:
            raise ValueError("a group over several nodes needs the sums of its scale-out ports")
        out = _port_sums(out_sent, ports), _port_sums(out_received, ports)
        phases.append(PortPhase("scale_out", 1, *out, parallel=bool(phases)))
    return Transfer("all_to_all", "direct", ports, tuple(phases), sent.shape[:-1])


def send(size: ArrayLike, ports: Group) -> Transfer:
    """Move `size` bytes [...] from the first to the second lane of a group of two."""
    sizes = _sizes(size, ports)
    if ports.lanes != 2:
        raise ValueError(f"a send joins two lanes, not {ports.lanes}")
    return Transfer(
        "send", "direct", ports, uniform_phases([algorithms.move([(0, 1)], 1.0)], ports, sizes), sizes.shape
    )


def _by_moves(
    operation: Operation,
    size: FloatArray,
    group: Group,
    algorithm: str,
    known: Mapping[str, Moves],
    root: int | None = None,
) -> Transfer:
    """An operation whose lanes all do the same, by flows or inside the switches."""
    if algorithm not in known and algorithm not in IN_SWITCH:
        raise _unknown(operation, algorithm, (*known, *IN_SWITCH))
    phases: tuple[Phase, ...] = ()
    if group.lanes > 1 and algorithm in IN_SWITCH:
        phases = in_switch(operation, algorithm, group, size, root or 0)
    elif group.lanes > 1:
        phases = uniform_phases(known[algorithm](layout_of(group, root)), group, size)
    return Transfer(operation, algorithm, group, phases, size.shape)


def _unknown(operation: Operation, algorithm: str, known: Iterable[str]) -> MoesimError:
    near = get_close_matches(algorithm, known, n=1)
    fix = f"did you mean {near[0]!r}?" if near else f"choose one of auto, {', '.join(known)}"
    return MoesimError(f"there is no {algorithm!r} algorithm for {operation}", fix=fix)


def _check_lanes(group: Group, lanes: Sequence[int]) -> None:
    for lane in lanes:
        if not 0 <= lane < group.lanes:
            raise MoesimError(f"a group of {group.lanes} devices has no lane {lane}", fix="lanes count from 0")
    if len(set(lanes)) != len(lanes):
        raise MoesimError(f"a multicast names {group.name(lanes[-1])} twice", fix="name every device once")


def _sizes(size: ArrayLike, group: Group) -> FloatArray:
    return check_bytes(np.asarray(size, dtype=np.float64), group)


def _chunks(chunks: ArrayLike, group: Group) -> FloatArray:
    sizes = np.asarray(chunks, dtype=np.float64)
    if not sizes.ndim or sizes.shape[-1] != group.lanes:
        raise ValueError(f"bytes per lane of shape {sizes.shape} do not fit {group.lanes} lanes")
    return check_bytes(sizes, group, axes=1)


def _port_sums(sums: ArrayLike, group: Group) -> FloatArray:
    moved = np.asarray(sums, dtype=np.float64)
    return check_bytes(moved, group) if moved.ndim and moved.shape[-1] == 1 else _chunks(moved, group)
