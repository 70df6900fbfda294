"""How much each DP rank computes in the steps of a batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.step.batch import Batch
from moesim.step.graph import FloatArray, IntArray
from moesim.step.graphs import CapturedGraphs


class Sizes(NamedTuple):
    """What a block's steps compute: [steps, ranks]. A rank without work carries one dummy token in a dummy sequence."""

    decodes: IntArray  # decoding sequences
    idle: IntArray  # 1 where the rank has no work
    chunked: IntArray  # prompt tokens; a single row where there are none
    tokens: IntArray  # with dummies and padding
    sequences: IntArray
    samples: IntArray  # rows of the head: one per sequence, one per query token where drafts are verified
    keys: FloatArray  # keys that a step's first query token sees, over the decoding sequences and dummies
    padding: IntArray  # tokens up to the graph that the step runs; a single row where there are no graphs

    @property
    def gathered(self) -> IntArray:
        """[steps] tokens per rank that an all-gather of hidden states moves. Decode steps run captured graphs and are
        padded to the largest rank (vLLM); in a step with prompts each rank sends what it has, which takes a ring as
        long as if all had the mean."""
        gathered: IntArray = self.tokens.max(axis=1)
        if self.chunked.any():  # in the first step
            gathered[0] = -(-self.tokens[0].sum() // self.tokens.shape[1])
        return gathered


def block_sizes(batch: Batch, graphs: CapturedGraphs) -> Sizes:
    """Sequences leave one by one: what remains in step k is the first step's less all who left before."""
    steps, ranks, new = batch.steps, batch.ranks, len(batch.rank) - batch.joining
    keys: NDArray[Any]
    if batch.gained is not None:
        decodes, keys = _verified(batch)
    elif steps == 1:
        decodes = np.bincount(batch.rank[:new], minlength=ranks)[None]
        keys = np.bincount(batch.rank[:new], weights=batch.context[:new], minlength=ranks)[None] + decodes
    else:
        last = np.minimum(batch.left, steps)  # steps in which the sequence takes part
        cell = (steps - last) * ranks + batch.rank  # those who take part in the last step come first
        size = steps * ranks
        decodes = _backwards(np.bincount(cell, minlength=size).reshape(steps, ranks))
        context = _backwards(np.bincount(cell, weights=batch.context, minlength=size).reshape(steps, ranks))
        if batch.joining:
            decodes[0] -= np.bincount(batch.rank[new:], minlength=ranks)
            context[0] -= np.bincount(batch.rank[new:], weights=batch.context[new:], minlength=ranks)
        keys = context + decodes * np.arange(1.0, steps + 1)[:, None]
    idle = decodes == 0
    if not batch.chunks:
        dummies = idle.astype(np.int64)
        singles = decodes + dummies
        none = np.zeros((1, ranks), dtype=np.int64)
        tokens = singles if batch.queries == 1 else singles + (batch.queries - 1) * decodes
        padding = graphs.padding(tokens, none)
        return Sizes(decodes, dummies, none, tokens + padding, singles, tokens, keys + dummies, padding)
    chunked, chunk_count = np.zeros((2, steps, ranks), dtype=np.int64)
    for chunk in batch.chunks:
        chunked[0, chunk.rank] += chunk.tokens
        chunk_count[0, chunk.rank] += 1
    dummies = (idle & (chunked == 0)).astype(np.int64)
    singles, drafts = decodes + dummies, (batch.queries - 1) * decodes
    tokens, sequences = singles + drafts + chunked, singles + chunk_count
    padding = graphs.padding(tokens, chunked)
    samples = sequences if batch.queries == 1 else sequences + drafts
    return Sizes(decodes, dummies, chunked, tokens + padding, sequences, samples, keys + dummies, padding)


def _verified(batch: Batch) -> tuple[IntArray, FloatArray]:
    """[steps, ranks] decoding sequences, and keys that their first query tokens see, where sequences grow unevenly."""
    active = taking_part(batch)
    step, row = active.nonzero()
    cell, size = step * batch.ranks + batch.rank[row], batch.steps * batch.ranks
    keys = np.bincount(cell, weights=batch.cached()[step, row] + 1, minlength=size).astype(np.float64)
    decodes = np.bincount(cell, minlength=size)
    return decodes.reshape(batch.steps, -1), keys.reshape(batch.steps, -1)


def taking_part(batch: Batch) -> NDArray[np.bool_]:
    """[steps, sequences] who decodes in each step."""
    active: NDArray[np.bool_] = batch.left > np.arange(batch.steps)[:, None]
    active[0, len(batch.rank) - batch.joining :] = False
    return active


def _backwards(values: NDArray[Any]) -> NDArray[Any]:
    """Sums over the rows up to each one, the rows then in reverse order."""
    summed: NDArray[Any] = values.cumsum(axis=0)[::-1]
    return summed
