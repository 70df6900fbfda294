"""Experts to devices: which rank of an expert-parallel group owns an expert, and the loads that follow."""

from __future__ import annotations

from moesim.placement.base import PLACEMENTS, Placement, check_owner, local_experts, make_placement, rank_loads
from moesim.placement.static import Contiguous, RoundRobin

__all__ = [
    "PLACEMENTS",
    "Contiguous",
    "Placement",
    "RoundRobin",
    "check_owner",
    "local_experts",
    "make_placement",
    "rank_loads",
]
