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
    graph: IntArray  # [steps] tokens of that graph, 0 where there is none
    fullest: IntArray  # [steps] most tokens of a rank
    prompts: bool  # whether the first step has prompt tokens

    @property
    def gathered(self) -> IntArray:
        """[steps] tokens per rank of an all-gather of hidden states. Decode steps run captured graphs and are padded to
        the largest rank (vLLM). In a step with prompts each rank sends what it has, in a broadcast of its own along a
        ring, whose last link is idle: the busiest link carries all tokens but the least, and stands for all of them."""
        ranks = self.tokens.shape[1]
        if not self.prompts or ranks == 1:
            return self.fullest
        gathered, tokens = self.fullest.copy(), self.tokens[0].tolist()
        gathered[0] = -(-(sum(tokens) - min(tokens)) // (ranks - 1))
        return gathered


def block_sizes(batch: Batch, graphs: CapturedGraphs) -> Sizes:
    """Sequences leave one by one: what remains in step k is the first step's less all who left before."""
    decodes, keys = _decoding(batch) if batch.gained is None else _verifying(batch)
    drafts = (batch.queries - 1) * decodes if batch.queries > 1 else 0
    if not batch.chunks:
        none = np.zeros((1, batch.ranks), dtype=np.int64)
        dummies = (decodes == 0).astype(np.int64)
        singles = decodes + dummies
        padded = _padded(singles + drafts, singles, singles + drafts, keys + dummies, graphs, prompts=False)
        return Sizes(decodes, dummies, none, *padded)
    chunked, chunk_count = np.zeros((2, *decodes.shape), dtype=np.int64)
    for chunk in batch.chunks:
        chunked[0, chunk.rank] += chunk.tokens
        chunk_count[0, chunk.rank] += 1
    dummies = (decodes + chunked == 0).astype(np.int64)
    singles = decodes + dummies
    sequences, tokens = singles + chunk_count, singles + chunked + drafts
    padded = _padded(tokens, sequences, sequences + drafts, keys + dummies, graphs, prompts=True)
    return Sizes(decodes, dummies, chunked, *padded)


def taking_part(batch: Batch) -> NDArray[np.bool_]:
    """[steps, sequences] who decodes in each step."""
    active: NDArray[np.bool_] = batch.left > np.arange(batch.steps)[:, None]
    active[0, len(batch.rank) - batch.joining :] = False
    return active


def _verifying(batch: Batch) -> tuple[IntArray, FloatArray]:
    """[steps, ranks] decoding sequences, and keys that their first query tokens see, where sequences grow unevenly."""
    step, row = taking_part(batch).nonzero()
    cell, size = step * batch.ranks + batch.rank[row], batch.steps * batch.ranks
    keys = np.bincount(cell, weights=batch.cached()[step, row] + 1, minlength=size).astype(np.float64)
    decodes = np.bincount(cell, minlength=size)
    return decodes.reshape(batch.steps, -1), keys.reshape(batch.steps, -1)


def _decoding(batch: Batch) -> tuple[IntArray, FloatArray]:
    """[steps, ranks] decoding sequences, and the keys that they see."""
    steps, ranks, new = batch.steps, batch.ranks, len(batch.rank) - batch.joining
    if steps == 1:
        decodes: IntArray = np.bincount(batch.rank[:new], minlength=ranks)[None]
        context = np.bincount(batch.rank[:new], weights=batch.context[:new], minlength=ranks)[None].astype(np.float64)
        return decodes, context + decodes
    last = np.minimum(batch.left, steps)  # steps in which the sequence takes part
    cell = (steps - last) * ranks + batch.rank  # those who take part in the last step come first
    size = steps * ranks
    decodes = _backwards(np.bincount(cell, minlength=size).reshape(steps, ranks))
    context = _backwards(np.bincount(cell, weights=batch.context, minlength=size).reshape(steps, ranks))
    for rank, held in zip(batch.rank[new:].tolist(), batch.context[new:].tolist(), strict=True):
        decodes[0, rank] -= 1
        context[0, rank] -= held
    return decodes, context + decodes * np.arange(1.0, steps + 1)[:, None]


def _padded(
    tokens: IntArray, sequences: IntArray, samples: IntArray, keys: FloatArray, graphs: CapturedGraphs, *, prompts: bool
) -> tuple[IntArray, IntArray, IntArray, FloatArray, IntArray, IntArray, IntArray, bool]:
    """The columns of Sizes from `tokens` on: all ranks of a step compute as many tokens as its graph, where it has
    one."""
    fullest = np.maximum.reduce(tokens, axis=1)
    if not graphs.largest:
        none = np.zeros((1, tokens.shape[1]), dtype=np.int64)
        return tokens, sequences, samples, keys, none, np.zeros_like(fullest), fullest, prompts
    graph = graphs.captured(fullest, prompts)
    padding = np.maximum(graph[:, None] - tokens, 0)
    return tokens + padding, sequences, samples, keys, padding, graph, np.maximum(graph, fullest), prompts


def _backwards(values: NDArray[Any]) -> NDArray[Any]:
    """Sums over the rows up to each one, the rows then in reverse order."""
    summed: NDArray[Any] = values.cumsum(axis=0)[::-1]
    return summed
