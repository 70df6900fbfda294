"""Flows between lanes as phases: on the ports of a switch, or on the links of a topology."""

from __future__ import annotations

import numpy as np

from moesim.fabric.algorithms import Move
from moesim.fabric.links import GroupLinks, TrafficPhase, UniformPhase
from moesim.fabric.routes import csr, product
from moesim.fabric.transfer import BoolArray, FloatArray, Group, GroupPorts, IntArray, Phase, PortKind, PortPhase
from moesim.spec.errors import MoesimError


def check_bytes(sizes: FloatArray, group: Group, axes: int = 0) -> FloatArray:
    """The sizes, if all are numbers of bytes; `axes`: how many of the last axes are lanes.

    Raises:
        MoesimError: one is negative or no finite number; names the lanes.
    """
    if not sizes.size or (sizes.min() >= 0 and sizes.max() < np.inf):
        return sizes
    place = np.unravel_index(int(np.argmax(~((sizes >= 0) & (sizes < np.inf)))), sizes.shape)
    lanes = [group.name(int(lane)) for lane in place[sizes.ndim - axes :]]
    whose = f" of {' -> '.join(lanes)}" if lanes else ""
    raise MoesimError(
        f"a transfer{whose} has {sizes[place]} bytes, a negative or undefined number", fix="give it 0 or more"
    )


def uniform_phases(moves: list[Move], group: Group, size: FloatArray) -> tuple[Phase, ...]:
    """Every move with its share of `size` [...] bytes."""
    if isinstance(group, GroupLinks):
        return tuple(
            UniformPhase(group.pattern(each.flows, each.share), each.rounds, size, depth=each.depth) for each in moves
        )
    return tuple(phase for each in moves for phase in _on_ports(each, group, size))


def _on_ports(each: Move, group: GroupPorts, size: FloatArray) -> list[Phase]:
    phases: list[Phase] = []
    for kind, flows in _by_port(each.flows, group):
        sent, received = (
            np.bincount(each.flows[flows, end], each.share[flows], minlength=group.lanes) for end in (0, 1)
        )
        parts = size[..., None] * sent, size[..., None] * received
        phases.append(PortPhase(kind, each.rounds, *parts, parallel=bool(phases), depth=each.depth))
    return phases


def _by_port(flows: IntArray, group: GroupPorts) -> list[tuple[PortKind, IntArray]]:
    """Which flows use which kind of port; kinds without flows are left out."""
    near: BoolArray = group.node[flows[:, 0]] == group.node[flows[:, 1]]
    apart = flows[:, 0] != flows[:, 1]
    parts: list[tuple[PortKind, IntArray]] = [
        ("scale_up", np.flatnonzero(near & apart)),
        ("scale_out", np.flatnonzero(~near)),
    ]
    return [part for part in parts if len(part[1])]


def flow_phases(moved: FloatArray, group: Group, flows: IntArray, parallel: bool = False) -> tuple[Phase, ...]:
    """One round in which flows [F, 2] move bytes of their own, `moved` [..., F], perhaps beside the phase before."""
    flows = np.ascontiguousarray(flows)
    if isinstance(group, GroupLinks):
        return (TrafficPhase(group.flows(flows), moved, parallel),)
    phases: list[Phase] = []
    for kind, chosen in _by_port(flows, group):
        sent, received = (_sums(moved, flows[:, end], chosen, group.lanes) for end in (0, 1))
        phases.append(PortPhase(kind, 1, sent, received, parallel=parallel or bool(phases)))
    return tuple(phases)


def _sums(moved: FloatArray, lane: IntArray, chosen: IntArray, lanes: int) -> FloatArray:
    """[..., lanes] sums over the chosen flows of each lane."""
    order = chosen[np.argsort(lane[chosen], kind="stable")]
    pointer = np.searchsorted(lane[order], np.arange(lanes + 1))
    return product(csr(np.ones(len(order)), order, pointer, (lanes, moved.shape[-1])), moved)
