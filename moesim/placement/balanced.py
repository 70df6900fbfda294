"""`eplb`: busy experts get replicas, replicas are packed on ranks (DeepSeek, Expert Parallelism Load Balancer)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from moesim.placement.base import PLACEMENTS, Situation, Slots
from moesim.placement.replication import balance
from moesim.spec.base import Schema
from moesim.spec.errors import MoesimError


@PLACEMENTS.register("eplb")
class Balanced(Schema):
    """Balanced replication and packing, from the expected loads.

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
        held = np.stack([balance(loads, slots, ranks, groups=groups, nodes=nodes) for loads in situation.loads])
        owner = np.repeat(np.arange(ranks), slots // ranks)
        return Slots(held.reshape(situation.layers, slots), np.tile(owner, (situation.layers, 1)))
