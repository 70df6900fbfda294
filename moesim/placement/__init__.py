"""Experts to devices: which ranks of an expert-parallel group hold an expert, and the loads that follow."""

from __future__ import annotations

from moesim.placement.affine import Affine, affine_owner
from moesim.placement.balanced import Balanced
from moesim.placement.base import (
    PLACEMENTS,
    AnyPlacement,
    InformedPlacement,
    Moved,
    Placement,
    Relief,
    Situation,
    Slots,
    check_owner,
    check_slots,
    local_experts,
    make_placement,
    place,
    rank_loads,
)
from moesim.placement.clustered import Clustered
from moesim.placement.relief import LeastLoaded
from moesim.placement.static import Contiguous, Given, RoundRobin

__all__ = [
    "PLACEMENTS",
    "Affine",
    "AnyPlacement",
    "Balanced",
    "Clustered",
    "Contiguous",
    "Given",
    "InformedPlacement",
    "LeastLoaded",
    "Moved",
    "Placement",
    "Relief",
    "RoundRobin",
    "Situation",
    "Slots",
    "affine_owner",
    "check_owner",
    "check_slots",
    "local_experts",
    "make_placement",
    "place",
    "rank_loads",
]
