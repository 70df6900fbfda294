"""Rounds of phases as flows over the links of a topology, for the fidelities in which flows share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from moesim.fabric.calibrated import PacedPhase
from moesim.fabric.flow import Flows, along
from moesim.fabric.in_switch import TreePhase
from moesim.fabric.links import GroupLinks, TrafficPhase, UniformPhase
from moesim.fabric.topology import FloatArray, IntArray
from moesim.fabric.transfer import Phase


class Network(Protocol):
    """Links on a clock that transfers in progress share."""

    def send(self, flows: Flows, done: Callable[[], None]) -> object:
        """Starts the flows now; `done` is called when the last one has arrived."""
        ...


def round_flows(phase: Phase, group: GroupLinks) -> Flows:
    """One round of a phase of a single size, as a coflow.

    What switches add up or multiply on the way is a flow of its own on every link. A measured call streams all its
    bytes at once, no more than its links can move in the time that it was measured to take.
    """
    if isinstance(phase, PacedPhase):
        return _paced(phase, group)
    flows = pair_flows(phase, group)
    if flows is not None:
        return flows
    assert isinstance(phase, UniformPhase | TreePhase)
    return _link_by_link(phase.links, phase.load, phase.latency)


def pair_flows(phase: Phase, group: GroupLinks) -> Flows | None:
    """One round of a phase as flows between lanes, of the group and of those beside it; None where switches add up."""
    assert isinstance(phase, UniformPhase | TrafficPhase | TreePhase)
    if isinstance(phase, TrafficPhase):
        pairs, moved = phase.flows.pairs, phase.moved
    elif isinstance(phase, UniformPhase) and phase.pattern.flows is not None and phase.pattern.share is not None:
        pairs, moved = phase.pattern.flows.pairs, phase.size * phase.pattern.share
    else:
        return None
    parts = []
    for each in (group, *group.beside):
        kept, routes = each.paths(pairs)
        flows = along(routes, moved[kept])
        parts.append(replace(flows, latency=np.full(len(flows), phase.latency)))
    return one_coflow(parts)


def one_coflow(parts: Sequence[Flows]) -> Flows:
    """All flows of single coflows that start at once, as one coflow."""
    if len(parts) == 1:
        return parts[0]
    counts = np.concatenate([np.diff(part.pointer) for part in parts])
    return Flows(
        pointer=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        link=np.concatenate([part.link for part in parts]),
        fraction=np.concatenate([part.fraction for part in parts]),
        size=np.concatenate([part.size for part in parts]),
        latency=np.concatenate([part.latency for part in parts]),
        coflow=np.zeros(len(counts), dtype=np.int64),
        start=np.zeros(1, dtype=np.int64),
        after=((),),
    )


def _link_by_link(links: IntArray, load: FloatArray, latency: float) -> Flows:
    used = np.flatnonzero(load > 0)
    return Flows(
        pointer=np.arange(len(used) + 1),
        link=links[used],
        fraction=np.ones(len(used)),
        size=load[used],
        latency=np.full(len(used), latency),
        coflow=np.zeros(len(used), dtype=np.int64),
        start=np.zeros(1, dtype=np.int64),
        after=((),),
    )


def _paced(phase: PacedPhase, group: GroupLinks) -> Flows:
    parts = []
    for move in phase.moves:
        once = round_flows(move, group)
        parts.append(replace(once, size=once.size * move.rounds, latency=np.zeros(len(once))))
    flows = one_coflow(parts)
    bandwidth = group.topology.bandwidth
    busiest = float((flows.loads(len(bandwidth)) / bandwidth).max(initial=0.0))
    seconds = float(phase.seconds)
    return replace(flows, size=flows.size * (seconds / busiest)) if busiest > seconds else flows
