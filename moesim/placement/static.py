"""Placements that never change and need no statistics."""

from __future__ import annotations

import numpy as np

from moesim.placement.base import PLACEMENTS, IntArray
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
