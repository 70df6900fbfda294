"""Expert dispatch and combine: tokens to their experts, and the experts' results back, as libraries move them.

    per-expert    one copy per (token, expert), straight to the expert's rank (DeepEP's low-latency mode)
    per-device    one copy per (token, device) that holds any of its experts
    per-node      one copy per (token, node) to the device of the sender's index there, which forwards it to the devices
                  of its node while the next ones arrive (DeepEP's normal mode); combines add up in the node first
    in-network    switches multiply one message on its way down, and add up the results on their way back

A combine is a dispatch backwards. Sizes are those of one copy: quantised dispatch and combine in a wider type differ.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moesim.fabric.exchanges import direct
from moesim.fabric.expert_protocol import ExpertLoad
from moesim.fabric.in_switch import can_combine, combining_tree, single_switch, tree_phase
from moesim.fabric.moved import flow_phases
from moesim.fabric.tokens import Tokens
from moesim.fabric.topology import FloatArray
from moesim.fabric.transfer import Group, GroupPorts, Phase, PortPhase, Transfer
from moesim.spec.errors import MoesimError

Form = Callable[[Tokens, float, Group, bool], tuple[Phase, ...]]


def dispatch(tokens: Tokens, size: float, group: Group, form: str = "per-device") -> Transfer:
    """Tokens to the ranks of their experts, `size` bytes per copy.

    Raises:
        MoesimError: there is no such form, or it does not suit the group.
    """
    return _moved(tokens, size, group, form, back=False)


def combine(tokens: Tokens, size: float, group: Group, form: str = "per-device") -> Transfer:
    """The experts' results to the ranks of their tokens, `size` bytes per copy."""
    return _moved(tokens, size, group, form, back=True)


def expert_load(tokens: Tokens, group: GroupPorts, form: str = "per-device") -> ExpertLoad:
    """What the busiest rank handles in a dispatch or a combine, for kernels with calibrated terms. Arrays [...]."""
    everyone = np.ones((1, group.lanes), dtype=bool)
    each = np.eye(group.lanes, dtype=bool)
    made = tokens.copies if form == "per-expert" else tokens.visits(each)
    through: dict[str, FloatArray] = {"scale_up": np.zeros(1), "scale_out": np.zeros(1)}
    for phase in dispatch(tokens, 1.0, group, form).phases:
        assert isinstance(phase, PortPhase)
        through[phase.port] = np.maximum(phase.sent, phase.received).max(axis=-1)
    return ExpertLoad(
        tokens=tokens.visits(everyone).max(axis=(-2, -1)),
        copies=np.maximum(made.sum(axis=-1), made.sum(axis=-2)).max(axis=-1),
        up=through["scale_up"],
        out=through["scale_out"],
    )


def payload(hidden: int, element: float, *, block: int = 0, scale: float = 4.0, header: float = 0.0) -> float:
    """Bytes of one copy of a token.

    Args:
        element: bytes of each of the `hidden` values. block: values that share a scale of `scale` bytes (128 for FP8 in
            DeepSeek-V3); 0: no scales. header: bytes that tell the receiver what the copy is.
    """
    return hidden * element + (-(-hidden // block) * scale if block else 0.0) + header


def check_form(form: str, group: Group) -> None:
    """Raises MoesimError where there is no such form, or the group cannot serve it."""
    if form not in FORMS:
        raise MoesimError(f"there is no form {form!r} of dispatch", fix=f"choose one of {', '.join(FORMS)}")
    if group.lanes == 1:
        return
    if form == "per-node" and group.grid is None:
        raise MoesimError(
            "copies per node need as many devices of the group in each node",
            key="engine.dispatch.form",
            fix="choose per-device",
        )
    if form == "in-network" and not can_combine(group):
        raise MoesimError(
            "an in-network combine needs a switch that adds up and reaches all devices of the group",
            key="engine.dispatch.form",
            fix="choose per-device, or a fabric whose switches reduce",
        )


def _moved(tokens: Tokens, size: float, group: Group, form: str, back: bool) -> Transfer:
    check_form(form, group)
    if not 0 <= size < np.inf:
        raise MoesimError(f"a copy of a token has {size} bytes", fix="give it 0 or more")
    if tokens.copies.shape[-1] != group.lanes:
        raise ValueError(f"tokens of {tokens.copies.shape[-1]} ranks do not fit {group.lanes} lanes")
    phases = FORMS[form](tokens, size, group, back) if group.lanes > 1 else ()
    return Transfer("all_to_all", form, group, phases, tokens.copies.shape[:-2])


def _per_expert(tokens: Tokens, size: float, group: Group, back: bool) -> tuple[Phase, ...]:
    return direct(tokens.copies * size, group, back)


def _per_device(tokens: Tokens, size: float, group: Group, back: bool) -> tuple[Phase, ...]:
    return direct(tokens.visits(np.eye(group.lanes, dtype=bool)) * size, group, back)


def _per_node(tokens: Tokens, size: float, group: Group, back: bool) -> tuple[Phase, ...]:
    """Between nodes on equal indices, inside the nodes from there; both at the same time, piece by piece."""
    grid = group.grid
    assert grid is not None
    nodes, width = grid.shape
    visits = tokens.visits(np.eye(group.lanes, dtype=bool))
    shape = visits.shape[:-2]
    ordered = visits[..., grid.ravel()[:, None], grid.ravel()[None, :]].reshape(*shape, nodes, width, nodes, width)
    inside = ordered.sum(axis=-4) * size  # [..., index of the sender, node, device]
    index, node, place = (axis.ravel() for axis in np.indices((width, nodes, width)))
    flows = np.stack([grid[node, index], grid[node, place]], axis=1)
    inner = inside.reshape(*shape, -1), group, flows[:, ::-1] if back else flows
    if nodes == 1:
        return flow_phases(*inner)
    members = np.zeros((nodes, group.lanes), dtype=bool)
    members[np.arange(nodes)[:, None], grid] = True
    across = tokens.visits(members)[..., grid.ravel(), :] * size  # [..., sender, node]
    sender, to = (axis.ravel() for axis in np.indices((group.lanes, nodes)))
    flows = np.stack([grid.ravel()[sender], grid[to, sender % width]], axis=1)
    apart = flows[:, 0] != flows[:, 1]
    flows, across = flows[apart], across.reshape(*shape, -1)[..., apart]
    return (*flow_phases(across, group, flows[:, ::-1] if back else flows), *flow_phases(*inner, parallel=True))


def _in_network(tokens: Tokens, size: float, group: Group, back: bool) -> tuple[Phase, ...]:
    """Over the tree of switches: one message on each edge for each token that has any expert beyond it."""
    tree = single_switch(group) if isinstance(group, GroupPorts) else combining_tree(group.topology, group.devices)
    below = tree.below > 0
    devices = tokens.visits(np.eye(group.lanes, dtype=bool))
    merged = tree.streams == 1
    down = np.where(merged, tokens.visits(below), devices @ tree.below.T)  # [..., sender, edge]
    up = np.where(merged, tokens.visits(~below), devices @ (1 - tree.below).T)
    going_up = np.einsum("...ie,ei->...e", up, tree.below) * size
    going_down = np.einsum("...ie,ei->...e", down, 1 - tree.below) * size
    loads: tuple[FloatArray, FloatArray] = (going_down, going_up) if back else (going_up, going_down)
    return (tree_phase(group, tree, *loads),)


FORMS: dict[str, Form] = {
    "per-expert": _per_expert,
    "per-device": _per_device,
    "per-node": _per_node,
    "in-network": _in_network,
}
