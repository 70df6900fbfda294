"""The MoE parts of steps that each draw, or replay, tokens per expert of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.routing.base import RoutingSource, TokenSpans, Tracing
from moesim.routing.drawn import Drawn
from moesim.step.batch import Batch
from moesim.step.exchange import Exchange
from moesim.step.graphs import CapturedGraphs
from moesim.step.routed import ExpertCosts, RoutedPrice, RoutedTotals
from moesim.step.sizes import Sizes

_ONCE = np.ones(1)


class Sampled:
    """Fresh tokens per expert for every step, from a stream of their own that only the step's number decides."""

    def __init__(self, costs: ExpertCosts, exchange: Exchange, routing: RoutingSource, key: int) -> None:
        self._costs, self.exchange, self._routing, self._key = costs, exchange, routing, key
        self._totals = costs.zeros()

    reuses = False

    def record(self, executed: Sequence[tuple[RoutedPrice, int]]) -> None:
        for price, steps in executed:
            for load, expert_tokens in price.origin[:steps]:
                self._totals.add(load, _ONCE, expert_tokens)

    def clear(self) -> None:
        self._totals = self._costs.zeros()

    def totals(self) -> RoutedTotals:
        return self._totals

    def drawn(self, batch: Batch, step: int) -> Drawn:
        return draw(self._routing, self._key, batch, step, self._costs.context.graphs)

    def price(self, sizes: Sizes, batch: Batch) -> RoutedPrice:
        draws = [self.drawn(batch, step) for step in range(batch.steps)]
        tokens = [drawn.totals for drawn in draws]
        loads = [self._costs.load(each[:, None]) for each in tokens]
        if self.exchange.all_to_all:
            times = [self.exchange.of_drawn(drawn) for drawn in draws]
            dispatch, combine = (np.stack([time[way] for time in times], axis=1) for way in (0, 1))
        else:
            dispatch, combine = self.exchange.of_gathered(sizes.gathered)
        if self.exchange.coherent:
            combine = self.exchange.of_context(sizes.gathered)
        experts = np.concatenate([load.slowest for load in loads]).T.astype(np.int64)
        waits = [load.sent.waits for load in loads if load.sent is not None]
        weights = np.concatenate(waits).T.astype(np.int64) if waits else None
        return RoutedPrice(experts, dispatch, combine, list(zip(loads, tokens, strict=True)), weights)


def step_stream(key: int, batch: Batch, step: int) -> np.random.Generator:
    """Random numbers of the batch's `step`-th step, which only the step's number decides."""
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, batch.first_step + step]))


def draw(routing: RoutingSource, key: int, batch: Batch, step: int, graphs: CapturedGraphs) -> Drawn:
    """The choices of a step's tokens."""
    given = token_spans(batch, step, graphs), batch.ranks, step_stream(key, batch, step)
    if isinstance(routing, Tracing):
        return routing.drawn(*given)
    return Drawn.of_counts(routing.counts(*given))


def token_spans(batch: Batch, step: int, graphs: CapturedGraphs) -> TokenSpans:
    """The batch's `step`-th step as the routers see it; ranks without work carry one dummy token, and all of them the
    padding of the step's graph."""
    active, chunks = batch.left > step, batch.chunks
    if step == 0:
        active[len(active) - batch.joining :] = False
    else:
        chunks = ()
    source = [batch.rank[active], np.array([c.rank for c in chunks], dtype=np.int64)]
    request = [batch.request[active], np.array([c.request for c in chunks], dtype=np.int64)]
    position = [batch.cached()[step][active], np.array([c.cached for c in chunks], dtype=np.int64)]
    tokens = [np.full(int(active.sum()), batch.queries), np.array([c.tokens for c in chunks], dtype=np.int64)]
    idle = np.setdiff1d(np.arange(batch.ranks), np.concatenate(source))
    source.append(idle)
    request.append(np.full(len(idle), -1))
    position.append(np.zeros(len(idle), dtype=np.int64))
    tokens.append(np.ones(len(idle), dtype=np.int64))
    spans = TokenSpans(*(np.concatenate(column) for column in (source, request, position, tokens)))
    return _padded(spans, batch, step, graphs) if graphs.largest else spans


def _padded(spans: TokenSpans, batch: Batch, step: int, graphs: CapturedGraphs) -> TokenSpans:
    """The spans, and each rank's padding as single tokens of no request."""
    per_rank = np.zeros((1, batch.ranks), dtype=np.int64)
    np.add.at(per_rank[0], spans.source, spans.tokens)
    padding = graphs.padding(per_rank, step == 0 and bool(batch.chunks))[0]
    rank = np.repeat(np.arange(batch.ranks), padding)
    place = np.arange(len(rank)) - np.repeat(np.cumsum(padding) - padding, padding)
    return TokenSpans(
        np.concatenate([spans.source, rank]),
        np.concatenate([spans.request, np.full(len(rank), -1)]),
        np.concatenate([spans.position, place]),
        np.concatenate([spans.tokens, np.ones(len(rank), dtype=np.int64)]),
    )
