"""The tokens of a micro-batch on their way to experts, between the lanes of a stage."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.tokens import Tokens
from moesim.routing.base import RoutingSource, TokenSpans, Tracing
from moesim.routing.drawn import Drawn
from moesim.step.graph import FloatArray, IntArray


def draw(routing: RoutingSource, ranks: int, sequences: int, length: int, first: int, seed: list[int]) -> Drawn:
    """What the tokens of a micro-batch choose: `sequences` new ones of `length` tokens on each of `ranks`.

    Args:
        first: number of the first sequence. seed: of the draw; the same one gives the same choices.
    """
    count = ranks * sequences
    spans = TokenSpans(
        source=np.repeat(np.arange(ranks), sequences),
        request=np.arange(first, first + count),
        position=np.zeros(count, dtype=np.int64),
        tokens=np.full(count, length, dtype=np.int64),
    )
    rng = np.random.default_rng(seed)
    if isinstance(routing, Tracing):
        return routing.drawn(spans, ranks, rng)
    return Drawn.of_counts(routing.counts(spans, ranks, rng))


class StageTokens:
    """Tokens of data-parallel ranks, as they travel between the lanes of a stage: a rank's tokens are divided over its
    `tp` lanes, and each lane of an expert rank receives every copy.

    Args:
        rank, expert_rank: [n] data-parallel and expert rank of each lane, -1 where it is of none.
    """

    def __init__(self, tokens: Tokens, rank: IntArray, expert_rank: IntArray, tp: int) -> None:
        self.tokens, self.rank, self.tp = tokens, rank, tp
        self.expert_rank = expert_rank
        self._of_rank = expert_rank[:, None] == np.arange(int(expert_rank.max()) + 1)

    @property
    def copies(self) -> FloatArray:
        """[L, n, n]"""
        copies = np.asarray(self.tokens.copies, dtype=np.float64)[..., self.rank, :][..., self.expert_rank] / self.tp
        copies[..., self.expert_rank < 0] = 0
        return self._from_ranks(copies)

    def visits(self, sets: NDArray[np.bool_]) -> FloatArray:
        """[L, n, E] for sets [E, n]."""
        ranks = sets.astype(np.int64) @ self._of_rank.astype(np.int64) > 0
        return self._from_ranks(self.tokens.visits(ranks)[..., self.rank, :] / self.tp)

    def _from_ranks(self, values: NDArray[Any]) -> FloatArray:
        """Lanes without a data-parallel rank send nothing."""
        values[..., self.rank < 0, :] = 0
        found: FloatArray = values
        return found
