"""Which experts are on a device: caches, what is fetched ahead, and who computes those that are not there."""

from __future__ import annotations

from moesim.memory.experts.caches import CACHES, CachePolicy, Use
from moesim.memory.experts.prefetch import PREFETCHES, PrefetchPolicy
from moesim.memory.experts.residency import Residency
from moesim.memory.experts.scheduling import SCHEDULINGS, ExpertScheduling, Split, Times

__all__ = [
    "CACHES",
    "PREFETCHES",
    "SCHEDULINGS",
    "CachePolicy",
    "ExpertScheduling",
    "PrefetchPolicy",
    "Residency",
    "Split",
    "Times",
    "Use",
]
