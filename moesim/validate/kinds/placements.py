"""Placements of experts: what a policy does with loads that are known, without a run."""

from __future__ import annotations

from typing import Literal

import numpy as np

from moesim.hardware.machine import assemble
from moesim.placement import Contiguous
from moesim.placement.affine import affine_owner, staying
from moesim.placement.replication import balance
from moesim.routing import AffinityRouting
from moesim.spec.base import Schema
from moesim.spec.library import find
from moesim.spec.loading import load_experiment
from moesim.step.layout import replica_layouts
from moesim.step.program import stage_program
from moesim.validate.cases import Found, Setting, case

Loads = tuple[tuple[float, ...], ...]


class Ranks(Schema):
    """Slots of physical experts on ranks; groups and nodes of hierarchical balancing."""

    slots: int
    ranks: int
    groups: int = 1
    nodes: int = 1


@case("balanced_slots")
def balanced_slots(setting: Setting, *, loads: Loads, ranks: Ranks, published: tuple[tuple[int, ...], ...]) -> Found:
    """Slots that hold another expert than published, over all layers."""
    other = 0
    for of_layer, known in zip(loads, published, strict=True):
        held = balance(np.array(of_layer), ranks.slots, ranks.ranks, groups=ranks.groups, nodes=ranks.nodes)
        other += int(np.count_nonzero(held.ravel() != np.array(known)))
    return Found(float(other), rows=len(loads) * ranks.slots)


@case("balanced_load")
def balanced_load(
    setting: Setting,
    *,
    experts: int,
    skew: float,
    ranks: Ranks,
    policy: Literal["contiguous", "global", "hierarchical"],
    orders: int = 200,
) -> Found:
    """The busiest rank's tokens over the mean, of loads by Zipf's law in random orders of the experts.

    Args:
        skew: the exponent. policy: contiguous experts without replicas, or `balance` without or with the groups.
            orders: how many are averaged.
    """
    random = np.random.default_rng(1)
    zipf = np.arange(1, experts + 1) ** -float(skew)
    worst = []
    for _ in range(orders):
        loads = random.permutation(zipf)
        if policy == "contiguous":
            on_rank = loads.reshape(ranks.ranks, -1).sum(axis=1)
        else:
            groups, nodes = (ranks.groups, ranks.nodes) if policy == "hierarchical" else (1, 1)
            held = balance(loads, ranks.slots, ranks.ranks, groups=groups, nodes=nodes)
            on_rank = (loads / np.bincount(held.ravel()))[held].sum(axis=1)
        worst.append(on_rank.max() / on_rank.mean())
    return Found(float(np.mean(worst)))


class Followers(Schema):
    """Affinity between layers, as `routing.affinity` has it, and the experts' popularity."""

    layers: int
    experts: int
    strength: float
    rank: int = 3
    zipf: float = 0.0


@case("stay_local")
def stay_local(
    setting: Setting,
    *,
    routing: Followers,
    ranks: int,
    policy: Literal["exflow", "contiguous"] = "exflow",
    seeds: int = 3,
    starts: int = 4,
) -> Found:
    """Share of tokens whose expert is on the rank of the one a layer before, mean over layers and routings drawn from
    so many seeds."""
    found = []
    for seed in range(seeds):
        chain = AffinityRouting(
            routing.layers, routing.experts, 1, strength=routing.strength, rank=routing.rank, zipf=routing.zipf,
            seed=np.random.SeedSequence(seed),
        )  # fmt: skip
        if policy == "exflow":
            owner = affine_owner(chain.transitions, ranks, starts)
        else:
            owner = Contiguous().owner(routing.layers, routing.experts, ranks)
        found.append(staying(chain.transitions, owner))
    return Found(float(np.mean(found)), detail=f"{seeds} routings, standard deviation {np.std(found):.2g}")


@case("all_to_alls")
def all_to_alls(setting: Setting, *, experiment: str) -> Found:
    """All-to-alls of one step of an experiment: dispatches, and combines where outputs return."""
    spec = load_experiment(find("experiments", experiment, folder=setting.folder)).spec
    layout = replica_layouts(spec.parallelism, spec.model, assemble(spec.machine, spec.library))[0]
    rows = [row for p in range(layout.pp) for row in stage_program(spec.model, layout, p, spec.engine).rows]
    names = ("dispatch", "combine") if spec.engine.dispatch.returns else ("dispatch",)
    return Found(float(sum(row.action in names for row in rows)))
