"""From an experiment's placement to physical experts: what the policy may know, and what its tokens do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.hardware.machine import Machine
from moesim.placement import Relief, Situation, Slots, make_placement, place
from moesim.routing.base import FloatArray, RoutingSource
from moesim.routing.replicated import replicated
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.step.layout import ReplicaLayout


@dataclass(frozen=True)
class Placed:
    """The physical experts of a replica.

    routing: over the slots. held: experts of a layer on the fullest rank. relief: moves tokens in every step, or None.
    hops: see `ExpertPlaces`, where tokens stay with their experts.
    """

    slots: Slots
    routing: RoutingSource
    held: float
    relief: Relief | None
    hops: FloatArray | None


def placed(spec: ExperimentSpec, layout: ReplicaLayout, machine: Machine, routing: RoutingSource) -> Placed:
    """Place the experts of a replica.

    Raises:
        MoesimError: there is no such policy, it cannot place them, or an engine whose tokens stay with their experts
            does not suit the experiment.
    """
    policy = make_placement(spec.placement.policy, spec.placement.options)
    ranks = layout.expert_ranks
    first = layout.devices[0].ravel()[:: layout.expert_tp]
    transitions = getattr(routing, "transitions", None)
    popularity = getattr(routing, "popularity", None)
    situation = Situation(
        layers=routing.layers,
        experts=routing.experts,
        ranks=ranks,
        redundant=spec.placement.redundant if ranks > 1 else 0,  # a rank that holds all needs no replicas
        loads=np.ones((routing.layers, routing.experts)) if popularity is None else popularity,
        nodes=np.array([machine.devices[device].node for device in first]),
        transitions=transitions,
    )
    slots = place(policy, situation)
    held = max(np.bincount(owner, minlength=ranks).max() for owner in slots.owner)
    hops = None
    if spec.engine.transport == "alltoall" and not spec.engine.dispatch.returns and layout.dp > 1:
        hops = _hops(spec, layout, slots, transitions)
    relief = policy if isinstance(policy, Relief) else None
    return Placed(slots, replicated(routing, slots), float(held), relief, hops)


def _hops(spec: ExperimentSpec, layout: ReplicaLayout, slots: Slots, transitions: FloatArray | None) -> FloatArray:
    """[layers - 1, ranks, ranks] share of the tokens that go from rank to rank between layers."""
    top_k = spec.model.moe.top_k if spec.model.moe is not None else 0
    alone = layout.tp == layout.pp == 1 and layout.dp == layout.expert_ranks
    for holds, what, fix in (
        (top_k == 1, f"{spec.model.name} chooses {top_k} experts", "use a top-1 model, or dispatch.returns: true"),
        (alone, "ranks are not one device each", "use tp 1, pp 1 and ep equal to dp"),
        (spec.engine.dispatch.form == "per-expert", "dispatch.form is not per-expert", "leave it out"),
        (not slots.replicated, "the placement makes replicas", "use a placement without"),
        (transitions is not None, "the routing does not know every token's choices",
         "give routing.affinity, or a trace with the experts of every token"),
    ):  # fmt: skip
        if not holds:
            raise MoesimError(
                f"tokens cannot stay with their experts: {what}", key="engine.dispatch.returns", fix=fix
            )  # fmt: skip
    assert transitions is not None
    of_rank = (slots.owner[:, :, None] == np.arange(layout.expert_ranks)).astype(np.float64)
    hops: FloatArray = of_rank[:-1].transpose(0, 2, 1) @ transitions @ of_rank[1:]
    return hops
