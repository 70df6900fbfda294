"""The MoE parts of steps that each draw, or replay, tokens per expert of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.placement import rank_loads
from moesim.routing.base import RoutingSource, TokenSpans
from moesim.routing.drawn import Drawn
from moesim.routing.synthetic import CountRouting
from moesim.step.batch import Batch
from moesim.step.exchange import Exchange
from moesim.step.graph import IntArray
from moesim.step.routed import ExpertCosts, RoutedPrice, RoutedTotals
from moesim.step.sizes import Sizes

_ONCE = np.ones(1)


class Sampled:
    """Fresh tokens per expert for every step, from a stream of their own that only the step's number decides."""

    def __init__(self, costs: ExpertCosts, exchange: Exchange, routing: RoutingSource, key: int) -> None:
        self._costs, self._exchange, self._routing, self._key = costs, exchange, routing, key
        self._totals = costs.zeros()

    reuses = False

    def record(self, executed: Sequence[tuple[RoutedPrice, int]]) -> None:
        for price, steps in executed:
            for load, expert_tokens in price.origin[:steps]:
                self._totals.add(load, _ONCE, expert_tokens)

    def totals(self) -> RoutedTotals:
        return self._totals

    def counts(self, batch: Batch, step: int) -> IntArray:
        return draw_counts(self._routing, self._key, batch, step)

    def price(self, sizes: Sizes, batch: Batch) -> RoutedPrice:
        draws = [self._draw(batch, step) for step in range(batch.steps)]
        tokens = [drawn.totals for drawn in draws]
        loads = [self._costs.load(each[:, None]) for each in tokens]
        if self._exchange.all_to_all:
            placed = self._costs.owner, self._costs.layout.expert_ranks
            times = [self._exchange.of_traffic(drawn.traffic(*placed)) for drawn in draws]
            dispatch, combine = (np.stack([time[way] for time in times], axis=1) for way in (0, 1))
        else:
            dispatch, combine = self._exchange.of_gathered(sizes.gathered)
        experts = np.concatenate([load.slowest for load in loads]).T.astype(np.int64)
        return RoutedPrice(experts, dispatch, combine, list(zip(loads, tokens, strict=True)))

    def _draw(self, batch: Batch, step: int) -> Drawn | Counted:
        if isinstance(self._routing, CountRouting):
            return self._routing.drawn(token_spans(batch, step), batch.ranks, step_stream(self._key, batch, step))
        return Counted(self.counts(batch, step))


@dataclass(frozen=True)
class Counted:
    """Counts [L, DP ranks, experts] of a routing that knows only these, as `Drawn` gives them."""

    counts: IntArray

    @property
    def totals(self) -> IntArray:
        return np.asarray(self.counts.sum(axis=1))

    def traffic(self, owner: IntArray, ranks: int) -> IntArray:
        return rank_loads(self.counts, owner, ranks)


def step_stream(key: int, batch: Batch, step: int) -> np.random.Generator:
    """Random numbers of the batch's `step`-th step, which only the step's number decides."""
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, batch.first_step + step]))


def draw_counts(routing: RoutingSource, key: int, batch: Batch, step: int) -> IntArray:
    """Tokens per (MoE layer, source rank, expert) of a step."""
    return routing.counts(token_spans(batch, step), batch.ranks, step_stream(key, batch, step))


def token_spans(batch: Batch, step: int) -> TokenSpans:
    """The batch's `step`-th step as the routers see it; ranks without work carry one dummy token."""
    active, chunks = batch.left > step, batch.chunks
    if step == 0:
        active[len(active) - batch.joining :] = False
    else:
        chunks = ()
    source = [batch.rank[active], np.array([c.rank for c in chunks], dtype=np.int64)]
    request = [batch.request[active], np.array([c.request for c in chunks], dtype=np.int64)]
    position = [batch.context[active] + step, np.array([c.cached for c in chunks], dtype=np.int64)]
    tokens = [np.ones(int(active.sum()), dtype=np.int64), np.array([c.tokens for c in chunks], dtype=np.int64)]
    idle = np.setdiff1d(np.arange(batch.ranks), np.concatenate(source))
    source.append(idle)
    request.append(np.full(len(idle), -1))
    position.append(np.zeros(len(idle), dtype=np.int64))
    tokens.append(np.ones(len(idle), dtype=np.int64))
    return TokenSpans(*(np.concatenate(column) for column in (source, request, position, tokens)))
