"""A transfer by itself on the links of a topology, at each fidelity: how long it takes, and what crosses each link.

bound  latency plus busiest link, round by round: the closed form of the transfer
flow   the flows of a round share links max-min fair; all have the latency of the longest path, so that a round is never
       faster than the bound
chunk  store and forward; every lane sends to the one after it first, as libraries do, so that no two start with the
       same destination

A round begins when all flows of the one before it have arrived. What switches add up or multiply takes the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from moesim.fabric.chunk import store_and_forward
from moesim.fabric.flow import Flows, simulate, together
from moesim.fabric.in_switch import TreePhase
from moesim.fabric.links import GroupLinks, TrafficPhase, UniformPhase
from moesim.fabric.rounds import pair_flows
from moesim.fabric.transfer import FloatArray, Phase, Transfer, concurrent, picoseconds

Fidelity = Literal["bound", "flow", "chunk"]


@dataclass(frozen=True, eq=False)
class Carried:
    """picoseconds: from the last lane's arrival to the end on every lane. load: [M] bytes over each link."""

    picoseconds: int
    load: FloatArray


def carry(transfer: Transfer, fidelity: Fidelity = "bound", chunk: float = np.inf) -> Carried:
    """A transfer of a single size over the links of its group.

    Args:
        chunk: bytes, for the fidelity of that name; inf sends whole messages.

    Raises:
        MoesimError: the chunks are too small for the bytes.
    """
    group = transfer.ports
    assert isinstance(group, GroupLinks)
    assert not transfer.shape
    load = np.zeros(group.topology.links)
    for phase in transfer.phases:
        assert isinstance(phase, UniformPhase | TrafficPhase | TreePhase)
        load[phase.links] += phase.rounds * phase.load
    if fidelity == "bound" or not transfer.phases:
        return Carried(int(transfer.picoseconds), load)
    took = int(picoseconds(group.overhead))
    for stage in concurrent(transfer.phases):
        took += _stage(stage, group, fidelity, chunk)
    return Carried(took, load)


def _stage(stage: list[Phase], group: GroupLinks, fidelity: Fidelity, chunk: float) -> int:
    """Picoseconds of phases side by side; rounds of one alone are all alike."""
    if len(stage) == 1:
        return stage[0].rounds * _round(stage[0], group, fidelity, chunk)
    parts: list[Flows] = []
    after: list[list[int]] = []
    apart = 0
    for phase in stage:
        flows = pair_flows(phase, group)
        if flows is None:
            apart = max(apart, phase.rounds * int(phase.round_picoseconds(group)))
            continue
        after += [[len(parts) - 1] if number else [] for number in range(phase.rounds)]
        parts += [flows] * phase.rounds
    return max(apart, _simulated(together(parts, after), group, fidelity, chunk) if parts else 0)


def _round(phase: Phase, group: GroupLinks, fidelity: Fidelity, chunk: float) -> int:
    flows = pair_flows(phase, group)
    if flows is None:
        return int(phase.round_picoseconds(group))
    took = _simulated(flows, group, fidelity, chunk)
    if fidelity == "chunk" and isinstance(phase, UniformPhase) and phase.depth > 1:
        took += (phase.depth - 1) * _hop(phase, flows, group, chunk)
    return took


def _simulated(flows: Flows, group: GroupLinks, fidelity: Fidelity, chunk: float) -> int:
    if fidelity == "flow":
        return simulate(flows, group.topology.bandwidth).end
    return store_and_forward(flows, group.topology, chunk).end


def _hop(phase: UniformPhase, flows: Flows, group: GroupLinks, chunk: float) -> int:
    """Picoseconds by which the next hop of a pipeline is behind: one chunk over the longest path."""
    piece = min(chunk, float(flows.size.max(initial=0.0)))
    over = np.bincount(
        np.repeat(np.arange(len(flows)), np.diff(flows.pointer)), flows.fraction / group.topology.bandwidth[flows.link]
    )
    return int(picoseconds(phase.pattern.latency + piece * float(over.max(initial=0.0))))
