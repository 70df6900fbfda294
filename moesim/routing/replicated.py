"""Tokens to physical experts: what an expert's tokens are when several slots hold it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesim.placement.base import Slots
from moesim.routing.base import FloatArray, IntArray, RoutingSource, StatelessRouting, TokenSpans, Tracing
from moesim.routing.drawn import Drawn


class Replicas:
    """The slots of every expert, and how its tokens are dealt to them: one after the other, in turns.

    Attributes:
        slots: physical experts of a layer.
        many: [layers, experts], how many slots hold the expert.
    """

    def __init__(self, slots: Slots, experts: int) -> None:
        layers, self.slots = slots.expert.shape
        self._expert = slots.expert
        self._order = np.argsort(slots.expert, axis=1, kind="stable")  # slots by expert
        rows = np.arange(layers)[:, None]
        self.many: IntArray = np.zeros((layers, experts), dtype=np.int64)
        np.add.at(self.many, (rows, slots.expert), 1)
        self._first = np.cumsum(self.many, axis=1) - self.many
        place = np.empty_like(self._order)
        np.put_along_axis(place, self._order, np.broadcast_to(np.arange(self.slots), self._order.shape), axis=1)
        #: [layers, slots], number of a slot among its expert's.
        self._number = place - self._first[rows, slots.expert]

    def deal(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """[layers, n, slots] tokens of every slot, which differ by one at most: those of counts [layers, n, experts].

        What does not divide goes to other replicas from row to row, so that none is always the one with more.
        """
        rows = np.arange(len(counts))[:, None]
        of_slot = np.take_along_axis(counts, self._expert[:, None, :], axis=2)
        many = self.many[rows, self._expert][:, None, :]
        turn = np.arange(counts.shape[1])[None, :, None]
        each, more = np.divmod(of_slot, many)
        return each + ((self._number[:, None, :] - turn) % many < more)

    def drawn(self, drawn: Drawn) -> Drawn:
        """The same choices, of slots: tokens that choose an expert take its slots in turns."""
        columns = drawn.picks.shape[2]
        repeated = np.ones(columns, dtype=np.int64)
        repeated[columns - len(drawn.weight) :] = drawn.weight
        column = np.repeat(np.arange(columns), repeated)
        layer = np.arange(len(self.many))[None, :, None]
        expert = drawn.expert[layer, drawn.picks[:, :, column]]
        turn = np.arange(len(column)) % self.many[layer, expert]
        picks = self._order[layer, self._first[layer, expert] + turn].astype(np.uint16)
        in_order = np.tile(np.arange(self.slots), (len(self.many), 1))
        none = np.zeros(0, dtype=np.int64)
        return Drawn(
            drawn.sources, in_order, in_order, picks, drawn.source[column], none, drawn.summed, self.deal(drawn.sums)
        )  # fmt: skip

    def shares(self, popularity: FloatArray) -> FloatArray:
        """[layers, slots] of [layers, experts]."""
        rows = np.arange(len(popularity))[:, None]
        shares: FloatArray = (popularity / self.many)[rows, self._expert]
        return shares

    def together(self, tokens: NDArray[np.generic]) -> NDArray[np.generic]:
        """[layers, ..., experts]: what the slots [layers, ..., slots] of each expert have together."""
        ordered = np.take_along_axis(tokens, np.expand_dims(self._order, tuple(range(1, tokens.ndim - 1))), axis=-1)
        parts = [np.add.reduceat(each, first, axis=-1) for each, first in zip(ordered, self._first, strict=True)]
        return np.stack(parts)


class ReplicatedRouting:
    """A routing whose experts are the slots of a placement."""

    def __init__(self, routing: RoutingSource, replicas: Replicas) -> None:
        self._routing, self.replicas = routing, replicas
        self.layers, self.experts, self.top_k = routing.layers, replicas.slots, routing.top_k
        self.stateless, self.description = routing.stateless, routing.description

    def counts(self, spans: TokenSpans, sources: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """See `RoutingSource.counts`."""
        return self.replicas.deal(self._routing.counts(spans, sources, rng))

    def drawn(self, spans: TokenSpans, sources: int, rng: np.random.Generator) -> Drawn:
        """The choices behind `counts`."""
        if isinstance(self._routing, Tracing):
            return self.replicas.drawn(self._routing.drawn(spans, sources, rng))
        return Drawn.of_counts(self.counts(spans, sources, rng))


class StatelessReplicatedRouting(ReplicatedRouting):
    """The same of a routing that can be tabulated."""

    def __init__(self, routing: StatelessRouting, replicas: Replicas) -> None:
        super().__init__(routing, replicas)
        self._tabulated = routing
        self.popularity = replicas.shares(routing.popularity)
        self.overdispersion = routing.overdispersion

    def choose(self, singles: IntArray, chunked: IntArray, rng: np.random.Generator) -> Drawn:
        """See `StatelessRouting.choose`."""
        return self.replicas.drawn(self._tabulated.choose(singles, chunked, rng))


def replicated(routing: RoutingSource, slots: Slots) -> RoutingSource:
    """The routing over the slots of a placement; itself where every expert has one slot, its own number."""
    if not slots.replicated:
        return routing
    replicas = Replicas(slots, routing.experts)
    if isinstance(routing, StatelessRouting):
        return StatelessReplicatedRouting(routing, replicas)
    return ReplicatedRouting(routing, replicas)
