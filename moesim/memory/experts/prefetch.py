"""Which experts are fetched before their layer asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from moesim.memory.experts.caches import IntArray
from moesim.memory.experts.residency import Experts
from moesim.memory.experts.scheduling import ExpertScheduling, Times, makespan
from moesim.registry import Registry
from moesim.spec.offload import PrefetchSpec


class Ahead(NamedTuple):
    """A layer ahead as a policy sees it: tokens [experts] that the next ones are expected to send, what is there or on
    its way, and what its experts take."""

    tokens: IntArray
    available: Experts
    times: Times


class PrefetchPolicy(Protocol):
    """Attributes:
    depth: layers ahead that it asks about. exact: it knows what they will choose, does not guess.
    """

    @property
    def depth(self) -> int: ...

    @property
    def exact(self) -> bool: ...

    def staged(self, experts: int, top_k: int) -> int:
        """Experts for which the device keeps room beside its cache."""
        ...

    def fetch(
        self, ahead: Sequence[Ahead], idle: float, scheduling: ExpertScheduling, room: int
    ) -> list[tuple[int, int]]:
        """(layers ahead less one, expert) to copy, in order.

        Args:
            idle: seconds in which the link has nothing else to do. room: staged experts that are free.
        """
        ...


#: Policies by name, made of a PrefetchSpec; other packages add theirs under `moesim.prefetch`.
PREFETCHES: Registry[PrefetchPolicy] = Registry("prefetch", "experts.prefetch.policy")


@PREFETCHES.register("none")
class NoPrefetch:
    """Nothing comes before it is asked for; two layers' copies are never there at once."""

    exact = False

    def __init__(self, _: PrefetchSpec) -> None:
        self.depth = 0

    def staged(self, experts: int, top_k: int) -> int:
        return top_k

    def fetch(
        self, ahead: Sequence[Ahead], idle: float, scheduling: ExpertScheduling, room: int
    ) -> list[tuple[int, int]]:
        return []


class _Whole:
    """Everything that the next layer needs, whatever the link does meanwhile."""

    exact = True

    def __init__(self, _: PrefetchSpec) -> None:
        self.depth = 1

    def fetch(
        self, ahead: Sequence[Ahead], idle: float, scheduling: ExpertScheduling, room: int
    ) -> list[tuple[int, int]]:
        if not ahead:
            return []
        wanted = np.flatnonzero(self.wanted(ahead[0].tokens) & ~ahead[0].available)
        order = wanted[np.argsort(-ahead[0].tokens[wanted], kind="stable")]
        return [(0, int(expert)) for expert in order]

    def wanted(self, tokens: IntArray) -> Experts:
        chosen: Experts = tokens > 0
        return chosen


@PREFETCHES.register("pre-gated")
class PreGated(_Whole):
    """The gate of block n chooses the experts of block n + 1, which are fetched while block n computes; the experts of
    two blocks are there at once (Pre-gated MoE, arXiv 2308.12066, sections III and IV)."""

    def staged(self, experts: int, top_k: int) -> int:
        return min(2 * top_k, 2 * experts)


@PREFETCHES.register("all")
class AllOfNext(_Whole):
    """Every expert of the next layer (SE-MoE, arXiv 2205.10034)."""

    def staged(self, experts: int, top_k: int) -> int:
        return 2 * experts

    def wanted(self, tokens: IntArray) -> Experts:
        return np.ones(len(tokens), dtype=bool)


@PREFETCHES.register("next-gates")
class NextGates:
    """Guesses from the gates of the next layers on this layer's hidden states; as long as the link would idle, the
    expert whose presence shortens its layer most (HybriMoE, arXiv 2504.05897, section IV-C)."""

    exact = False

    def __init__(self, spec: PrefetchSpec) -> None:
        self.depth = spec.depth

    def staged(self, experts: int, top_k: int) -> int:
        return min((1 + self.depth) * top_k, (1 + self.depth) * experts)

    def fetch(
        self, ahead: Sequence[Ahead], idle: float, scheduling: ExpertScheduling, room: int
    ) -> list[tuple[int, int]]:
        copy = ahead[0].times.copy if ahead else 0.0
        most = min(int(idle / copy) if copy else 0, room)
        if most <= 0:
            return []
        gains = [
            (-gain, place, expert)
            for place, layer in enumerate(ahead)
            for expert, gain in _gains(layer, scheduling)
            if gain > 0
        ]
        return [(place, expert) for _, place, expert in sorted(gains)[:most]]


def _gains(layer: Ahead, scheduling: ExpertScheduling) -> list[tuple[int, float]]:
    """By expert that is not there: seconds that its layer would be done sooner if it were."""
    before = makespan(scheduling.split(layer.tokens, layer.available, layer.times), layer.available, layer.times)[0]
    found = []
    for expert in np.flatnonzero((layer.tokens > 0) & ~layer.available).tolist():
        there = layer.available.copy()
        there[expert] = True
        after = makespan(scheduling.split(layer.tokens, there, layer.times), there, layer.times)[0]
        found.append((expert, before - after))
    return found
