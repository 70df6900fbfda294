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
    """`steps` consecutive steps of one replica. Decoding sequences are columns: `context` tokens are in the cache
    before the first step and grow by one each step; the sequence takes part in the first `left` steps.

    Chunks are computed in the first step. Where more follow, all prompts are complete after it, and are the last
    `joining` columns: as if they had been decoding, but for the first step, in which their chunk stands for them.
    """

    ranks: int
    rank: IntArray = field(default_factory=lambda: _NONE)
    request: IntArray = field(default_factory=lambda: _NONE)
    context: IntArray = field(default_factory=lambda: _NONE)
    left: IntArray = field(default_factory=lambda: _NONE)
    chunks: tuple[Chunk, ...] = ()
    steps: int = 1
    #: Number of the replica's step with which this batch begins; seeds its routing.
    first_step: int = 0
    joining: int = 0
    #: Where the scheduler finds the columns' sequences.
    rows: IntArray = field(default_factory=lambda: _NONE)

    def first(self) -> Batch:
        """The first step by itself."""
        kept = slice(len(self.rank) - self.joining)
        columns = (self.rank[kept], self.request[kept], self.context[kept], self.left[kept])
        return Batch(self.ranks, *columns, self.chunks, 1, self.first_step)

    def second(self) -> Batch:
        """The second step by itself, of a batch that has one."""
        kept = self.left > 1
        columns = (self.rank[kept], self.request[kept], self.context[kept] + 1, self.left[kept] - 1)
        return Batch(self.ranks, *columns, (), 1, self.first_step + 1)
