"""What the tokens of one step chose, in the form it was drawn in, summed only as far as is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim import accelerate
from moesim.routing.base import IntArray

Counts = NDArray[np.int64]

#: Picks that are counted before compiling is worth its time.
_PATIENCE = 10_000_000
_counted = 0


@dataclass(frozen=True)
class Drawn:
    """Choices of one step: those drawn one by one as they are, those drawn at once as counts.

    Attributes:
        sources: number of source ranks.
        expert: [layers, experts], the expert of every popularity rank.
        rank: [layers, experts], the popularity rank of every expert.
        picks: [top_k, layers, n], popularity ranks of n choices per layer.
        source: [n], who made them.
        weight: [repeated], how many tokens made each of the last choices; the ones before were made by one token each.
        summed: [m], the sources whose other choices are in `sums`.
        sums: [layers, m, experts], tokens per expert.
        scores: [layers, n, experts], what the routers of n choices gave every expert; None where nobody knows.
    """

    sources: int
    expert: IntArray
    rank: IntArray
    picks: NDArray[np.unsignedinteger[Any]]
    source: IntArray
    weight: IntArray
    summed: IntArray
    sums: Counts
    scores: NDArray[np.floating[Any]] | None = None

    def with_scores(self, scores: NDArray[np.floating[Any]]) -> Drawn:
        return replace(self, scores=scores)

    @classmethod
    def of_counts(cls, counts: Counts) -> Drawn:
        """What is known only as tokens per expert of every source, [layers, sources, experts]."""
        layers, sources, experts = counts.shape
        in_order = np.tile(np.arange(experts), (layers, 1))
        none = np.zeros(0, dtype=np.int64)
        picks = np.zeros((0, layers, 0), dtype=np.uint16)
        return cls(sources, in_order, in_order, picks, none, none, np.arange(sources), counts)

    @classmethod
    def of_choices(cls, ids: NDArray[np.unsignedinteger[Any]], source: IntArray, sources: int, experts: int) -> Drawn:
        """Tokens whose experts are known one by one: ids [top_k, layers, n], source [n]."""
        layers = ids.shape[1]
        in_order = np.tile(np.arange(experts), (layers, 1))
        none = np.zeros(0, dtype=np.int64)
        sums = np.zeros((layers, 0, experts), dtype=np.int64)
        return cls(sources, in_order, in_order, ids, source, none, none, sums)

    def part(self, layers: slice) -> Drawn:
        """Some of the layers."""
        if len(self.expert[layers]) == len(self.expert):
            return self
        return replace(
            self,
            expert=self.expert[layers],
            rank=self.rank[layers],
            picks=self.picks[:, layers],
            sums=self.sums[layers],
        )

    @property
    def counts(self) -> Counts:
        """Tokens per expert of every source, [layers, sources, experts]."""
        layers, experts = self.expert.shape
        cell = np.arange(layers)[:, None] * (self.sources * experts) + self.expert
        counts = self._tally(cell, experts, layers * self.sources * experts).reshape(layers, self.sources, experts)
        if len(self.summed) == self.sources:
            counts += self.sums
        elif len(self.summed):
            counts[:, self.summed] += self.sums
        return counts

    @property
    def totals(self) -> Counts:
        """Tokens per expert of all sources together, [layers, experts]."""
        layers, experts = self.expert.shape
        cell = np.arange(layers * experts).reshape(layers, experts)
        by_rank = self._tally(cell, 0, layers * experts).reshape(layers, experts)
        totals = np.take_along_axis(by_rank, self.rank, axis=1)
        if len(self.summed):
            totals += self.sums.sum(axis=1)
        return totals

    def traffic(self, owner: IntArray, ranks: int) -> Counts:
        """(Token, expert) pairs from every source to every expert rank, [layers, sources, ranks].

        Args:
            owner: [layers, experts], the rank of every expert, 0 .. ranks - 1.
        """
        layers = len(self.expert)
        layer = np.arange(layers)[:, None]
        cell = layer * (self.sources * ranks) + owner[layer, self.expert]
        traffic = self._tally(cell, ranks, layers * self.sources * ranks).reshape(layers, self.sources, ranks)
        for i, source in enumerate(self.summed.tolist()):
            at = layer * ranks + owner
            sums = np.bincount(at.ravel(), weights=self.sums[:, i].ravel(), minlength=layers * ranks)
            traffic[:, source] += sums.astype(np.int64).reshape(layers, ranks)
        return traffic

    def visits(self, member: NDArray[np.bool_]) -> Counts:
        """[layers, sources, E] tokens, of those whose choices are known one by one, that chose an expert of each set.

        Args:
            member: [layers, experts, E], whether an expert is in a set.
        """
        layers, _, sets = member.shape
        found = np.zeros((layers, self.sources, sets), dtype=np.int64)
        order = np.argsort(self.source, kind="stable")
        if not len(order):
            return found
        present, first = np.unique(self.source[order], return_index=True)
        tokens = np.ones(len(order), dtype=np.int64)
        tokens[len(order) - len(self.weight) :] = self.weight
        bits = np.packbits(np.take_along_axis(member, self.expert[:, :, None], axis=1), axis=-1)
        for layer in range(layers):
            chosen = np.bitwise_or.reduce(bits[layer][self.picks[:, layer, order]], axis=0)
            met = np.unpackbits(chosen, axis=-1, count=sets) * tokens[order, None]
            found[layer, present] = np.add.reduceat(met, first, axis=0)
        return found

    @cached_property
    def _index(self) -> Counts:
        """[top_k, layers, n], each pick's place in a table [layers, experts] by popularity rank."""
        layers, experts = self.expert.shape
        first = np.arange(0, layers * experts, experts, dtype=np.int64)[:, None]
        index: Counts = np.add(self.picks, first, dtype=np.int64)
        return index

    def _tally(self, cell: IntArray, stride: int, size: int) -> Counts:
        """Count picks in the cells `cell` [layers, popularity ranks] + source x `stride`."""
        if _worth_compiling(self.picks.size):
            weight = np.ones(len(self.source), dtype=np.int64)
            weight[len(weight) - len(self.weight) :] = self.weight
            counts = np.zeros(size, dtype=np.int64)
            accelerate.compiled(tally_loop)(cell, self.picks, self.source * stride, weight, counts)
            return counts
        index = cell.ravel().take(self._index)
        index += self.source * stride  # in place: memory that was never touched costs more than the sum
        return self._count(index, size)

    def _count(self, index: Counts, size: int) -> Counts:
        """How often each of `size` cells occurs in [top_k, layers, n]."""
        if not len(self.weight):
            return np.bincount(index.ravel(), minlength=size)
        single = index.shape[2] - len(self.weight)
        counts = np.bincount(index[:, :, :single].ravel(), minlength=size)
        repeated = index[:, :, single:]
        weights = np.broadcast_to(self.weight, repeated.shape)
        counts += np.bincount(repeated.ravel(), weights=weights.ravel(), minlength=size).astype(np.int64)
        return counts


def tally_loop(
    cell: IntArray, picks: NDArray[np.unsignedinteger[Any]], offset: IntArray, weight: IntArray, counts: Counts
) -> None:
    """Add the weight of every pick [top_k, layers, n] to the cell [layers, popularity ranks] that it falls into, plus
    the offset [n] of its source."""
    places, layers, tokens = picks.shape
    for place in range(places):
        for layer in range(layers):
            for n in range(tokens):
                counts[cell[layer, picks[place, layer, n]] + offset[n]] += weight[n]


def _worth_compiling(picks: int) -> bool:
    """Whether so many picks were counted that these had better be counted by a compiled loop. Whole numbers: the
    counts are the same either way."""
    global _counted
    _counted += picks
    return accelerate.HAVE_NUMBA and _counted > _PATIENCE
