"""What a replica's DP ranks execute in one step, or in a block of decode steps that nothing interrupts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.step.graph import IntArray

_NONE = np.zeros(0, dtype=np.int64)


class Chunk(NamedTuple):
    """Prompt tokens of one sequence: `tokens` new ones after `cached`."""

    rank: int
    request: int
    tokens: int
    cached: int


@dataclass(frozen=True)
class Batch:
    """`steps` consecutive steps of one replica. Decoding sequences are columns: `context` tokens are in the cache
    before the first step and grow by one each step; the sequence takes part in the first `left` steps.

    Where drafts are verified, a sequence computes `queries` tokens in each step, and `gained` [sequences, steps + 1]
    tokens were emitted before each of them and after the last; else it is one token in each.

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
    queries: int = 1
    gained: IntArray | None = None

    def cached(self) -> IntArray:
        """[steps, sequences] tokens in the cache before each step."""
        steps = np.arange(self.steps)[:, None] if self.gained is None else self.gained[:, :-1].T
        cached: IntArray = self.context + steps
        return cached

    def taken(self, steps: int) -> tuple[IntArray, IntArray]:
        """Of the first so many steps, those in which each sequence decodes, and tokens that it emits in them."""
        taken: IntArray = np.minimum(self.left, steps)
        emitted = taken if self.gained is None else self.gained[np.arange(len(taken)), taken]
        for each in (taken,) if emitted is taken else (taken, emitted):
            each[len(each) - self.joining :] -= 1
        return taken, emitted

    def accepted(self, steps: int) -> list[int] | None:
        """[steps] drafts that are accepted in the first so many steps, of all sequences; None where there are none."""
        if self.gained is None:
            return None
        active = self.left > np.arange(steps)[:, None]
        accepted: list[int] = ((np.diff(self.gained)[:, :steps].T - 1) * active).sum(axis=1).tolist()
        return accepted

    def first(self) -> Batch:
        """The first step by itself."""
        return self._one(slice(len(self.rank) - self.joining), 0, self.chunks)

    def second(self) -> Batch:
        """The second step by itself, of a batch that has one."""
        return self._one(self.left > 1, 1, ())

    def _one(self, kept: slice | NDArray[np.bool_], step: int, chunks: tuple[Chunk, ...]) -> Batch:
        context, gained = self.cached()[step][kept], None
        if self.gained is not None:
            gained = self.gained[kept, step : step + 2] - self.gained[kept, step : step + 1]
        columns = (self.rank[kept], self.request[kept], context, self.left[kept] - step)
        return Batch(
            self.ranks, *columns, chunks, 1, self.first_step + step, queries=self.queries, gained=gained
        )  # fmt: skip
