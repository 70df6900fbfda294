"""Placements that never change and need no statistics."""

from __future__ import annotations

import numpy as np

from moesim.placement.base import PLACEMENTS, IntArray, Situation, Slots
from moesim.spec.base import Schema
from moesim.spec.errors import MoesimError


def _check_ranks(experts: int, ranks: int) -> None:
    if ranks > experts:
        raise MoesimError(f"ep {ranks} exceeds the {experts} experts", fix=f"choose ep of at most {experts}")


@PLACEMENTS.register("contiguous")
class Contiguous:
    """Consecutive experts share a rank; the first ranks hold one more where the ranks do not divide the experts."""

    def owner(self, layers: int, experts: int, ranks: int) -> IntArray:
        """See `Placement.owner`."""
        _check_ranks(experts, ranks)
        each, more = divmod(experts, ranks)
        held = np.full(ranks, each)
        held[:more] += 1
        return np.tile(np.repeat(np.arange(ranks), held), (layers, 1))


@PLACEMENTS.register("round-robin")
class RoundRobin:
    """Expert e is on rank e modulo ranks."""

    def owner(self, layers: int, experts: int, ranks: int) -> IntArray:
        """See `Placement.owner`."""
        _check_ranks(experts, ranks)
        return np.tile(np.arange(experts) % ranks, (layers, 1))


@PLACEMENTS.register("given")
class Given(Schema):
    """Written out: the experts of every rank, the same in all layers. An expert on several ranks has replicas."""

    ranks: tuple[tuple[int, ...], ...]

    def slots(self, situation: Situation) -> Slots:
        """See `InformedPlacement.slots`."""
        if len(self.ranks) != situation.ranks:
            raise MoesimError(
                f"the placement gives {len(self.ranks)} ranks, there are {situation.ranks}", key="placement.ranks",
                fix="give the experts of every rank of ep",
            )  # fmt: skip
        expert = np.array([each for held in self.ranks for each in held], dtype=np.int64)
        astray = expert[(expert < 0) | (expert >= situation.experts)]
        if len(astray):
            raise MoesimError(
                f"the placement holds expert {astray[0]}, the model has 0 to {situation.experts - 1}",
                key="placement.ranks", fix="leave it out",
            )  # fmt: skip
        owner = np.repeat(np.arange(situation.ranks), [len(held) for held in self.ranks])
        layers = (situation.layers, 1)
        order = np.argsort(expert, kind="stable") if len(expert) == situation.experts else np.arange(len(expert))
        return Slots(np.tile(expert[order], layers), np.tile(owner[order], layers))
