"""What a replica's DP ranks execute in one step, or in a block of decode steps that nothing interrupts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from moesim.step.graph import IntArray

_NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Chunk:
    """Prompt tokens of one sequence: `tokens` new ones after `cached`."""

    rank: int
    request: int
    tokens: int
    cached: int


@dataclass(frozen=True)
class Batch:
    """`steps` consecutive steps of one replica. Decoding sequences are columns, sorted by rank: `context` tokens are in
    the cache before the first step and grow by one each step; the sequence takes part in the first `left` steps.
    Prefill chunks make a batch of one step."""

    ranks: int
    rank: IntArray = field(default_factory=lambda: _NONE)
    request: IntArray = field(default_factory=lambda: _NONE)
    context: IntArray = field(default_factory=lambda: _NONE)
    left: IntArray = field(default_factory=lambda: _NONE)
    chunks: tuple[Chunk, ...] = ()
    steps: int = 1
    #: Number of the replica's step with which this batch begins; seeds its routing.
    first_step: int = 0

    def decode_counts(self, step: int = 0) -> IntArray:
        """Decoding sequences per rank in the batch's `step`-th step."""
        return np.bincount(self.rank[self.left > step], minlength=self.ranks)

    def chunk_tokens(self) -> IntArray:
        tokens = np.zeros(self.ranks, dtype=np.int64)
        for chunk in self.chunks:
            tokens[chunk.rank] += chunk.tokens
        return tokens

    def chunk_counts(self) -> IntArray:
        counts = np.zeros(self.ranks, dtype=np.int64)
        for chunk in self.chunks:
            counts[chunk.rank] += 1
        return counts
