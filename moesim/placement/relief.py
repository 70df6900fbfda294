"""`llep`: tokens above a rank's share are computed elsewhere, on weights that are sent along, step by step.

Least-Loaded Expert Parallelism (arXiv 2601.17111). Where the busiest rank has more than `trigger` times the mean,
every rank gets a capacity of `headroom` times the mean. Experts are taken from the busiest on: their own rank computes
what it has room for beside what its other experts still bring, the rest goes to the ranks with the least, each filled
up to the capacity, whose weights are sent from the expert's own rank. Pieces below `least` tokens stay at home: a
matrix product of a few rows costs as much as one of many.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from moesim.placement.base import PLACEMENTS, IntArray, Moved
from moesim.placement.static import Contiguous
from moesim.spec.base import Schema


@PLACEMENTS.register("llep")
class LeastLoaded(Schema):
    """Contiguous experts, relieved in every step. trigger: largest rank over the mean above which tokens are moved;
    headroom: a rank's capacity over the mean; least: tokens that are worth an expert's weights."""

    trigger: float = Field(default=1.3, ge=1)
    headroom: float = Field(default=1.0, ge=1)
    least: int = Field(default=1024, ge=0)

    def owner(self, layers: int, experts: int, ranks: int) -> IntArray:
        """See `Placement.owner`."""
        return Contiguous().owner(layers, experts, ranks)

    def relieve(self, tokens: NDArray[np.int64], owner: IntArray, ranks: int) -> Moved:
        """See `Relief.relieve`."""
        computed = np.zeros((*tokens.shape, ranks), dtype=np.int64)
        np.put_along_axis(computed, owner[:, :, None], tokens[:, :, None], axis=2)
        weights = np.zeros((len(tokens), ranks, ranks), dtype=np.int64)
        load = computed.sum(axis=1)
        busy = load.max(axis=1) > self.trigger * load.mean(axis=1)
        for index in np.flatnonzero(busy).tolist():
            self._relieve(computed[index], owner[index], weights[index])
        return Moved(computed, weights)

    def _relieve(self, computed: NDArray[np.int64], owner: IntArray, weights: NDArray[np.int64]) -> None:
        """One layer, in place: computed [experts, ranks], owner [experts], weights [ranks, ranks]."""
        load = computed.sum(axis=0)  # what each rank has, and what its own experts still bring
        capacity = int(np.ceil(self.headroom * load.sum() / len(load)))
        tokens = computed.sum(axis=1)
        worth = max(self.least, 1)
        order = np.argsort(-tokens, kind="stable")
        for expert in order[tokens[order] >= worth].tolist():
            home = int(owner[expert])
            spare = min(int(load[home]) - capacity, int(tokens[expert]))
            for rank in np.argsort(load, kind="stable").tolist() if spare >= worth else ():
                piece = min(spare, capacity - int(load[rank]))
                if rank == home or piece < worth:
                    continue
                computed[expert, [home, rank]] += np.array([-piece, piece])
                load[[home, rank]] += np.array([-piece, piece])
                weights[home, rank] += 1
                spare -= piece
