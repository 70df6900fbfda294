"""Placements of experts: what a policy does with loads that are known, without a run."""

from __future__ import annotations

from typing import Literal

import numpy as np

from moesim.placement.replication import balance
from moesim.spec.base import Schema
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
