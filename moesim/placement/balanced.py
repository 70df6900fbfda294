"""`eplb`: busy experts get replicas, replicas are packed on ranks (DeepSeek, Expert Parallelism Load Balancer)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from moesim.placement.base import PLACEMENTS, IntArray, Situation, Slots
from moesim.placement.replication import FloatArray, balance
from moesim.spec.base import Schema
from moesim.spec.errors import MoesimError


@PLACEMENTS.register("eplb")
class Balanced(Schema):
    """Balanced replication and packing, from the expected loads. Where packing, which is greedy, would load some rank
    more than contiguous experts do, these stay, and redundant slots repeat what their rank holds.

    groups: of consecutive experts, that group-limited routing knows. balancing: global, or hierarchical, which packs
    groups on nodes first; by default hierarchical where the nodes divide the groups, as in the original.
    """

    groups: int = Field(default=1, gt=0)
    balancing: Literal["global", "hierarchical"] | None = None

    def slots(self, situation: Situation) -> Slots:
        """See `InformedPlacement.slots`."""
        ranks, slots = situation.ranks, situation.experts + situation.redundant
        nodes = len(np.unique(situation.nodes))
        if self.balancing == "hierarchical" and self.groups % nodes:
            raise MoesimError(
                f"{nodes} nodes do not divide {self.groups} groups of experts", key="placement.groups",
                fix="choose groups that they divide, or balancing: global",
            )  # fmt: skip
        groups, nodes = (1, 1) if self.balancing == "global" else (self.groups, nodes)
        held = np.stack([_held(loads, slots, ranks, groups, nodes) for loads in situation.loads])
        owner = np.repeat(np.arange(ranks), slots // ranks)
        return Slots(held.reshape(situation.layers, slots), np.tile(owner, (situation.layers, 1)))


def _held(loads: FloatArray, slots: int, ranks: int, groups: int, nodes: int) -> IntArray:
    """[ranks, slots / ranks] experts of one layer."""
    held = balance(loads, slots, ranks, groups=groups, nodes=nodes)
    if len(loads) < ranks:
        return held
    parts = np.array_split(np.arange(len(loads)), ranks)
    static = np.stack([np.resize(part, slots // ranks) for part in parts])
    return held if busiest(loads, held) <= busiest(loads, static) else static


def busiest(loads: FloatArray, held: IntArray) -> float:
    """Load of the busiest rank. held: [ranks, n] experts, whose replicas bear equal parts."""
    shares = loads / np.bincount(held.ravel(), minlength=len(loads))
    return float(shares[held].sum(axis=1).max())
