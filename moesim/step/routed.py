"""The routing-dependent part of a step: the experts of every MoE layer, and the exchange around them.

Two sources of the same answer. `Sampled` draws the tokens per expert of every step afresh (or replays them).
`Tabulated`, for routings without state, draws them once for a grid of token counts and interpolates; only what depends
on the routing is reused this way.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moesim.hardware.machine import Device
from moesim.kernels.base import Calls
from moesim.model.operators import Operator
from moesim.placement import rank_loads
from moesim.placement.base import check_owner
from moesim.routing.base import RoutingSource, TokenSpans
from moesim.routing.drawn import Drawn
from moesim.routing.synthetic import CountRouting
from moesim.step.batch import Batch
from moesim.step.exchange import Exchange
from moesim.step.graph import PICOSECONDS, FloatArray, IntArray, picoseconds
from moesim.step.layout import ReplicaLayout
from moesim.step.program import StageProgram
from moesim.step.scatter import ScatteredExchange
from moesim.step.sharding import expert_calls
from moesim.step.tables import StepContext

#: Token counts are tabulated one by one up to here, then in steps of this ratio with linear interpolation.
_DENSE_GRID, _GRID_RATIO = 24, 1.12
#: Shares of prefill tokens at which mixed batches are tabulated; consecutive tokens of a prompt are over-dispersed.
_MIXTURES = (0.0, 0.5, 1.0)
#: Sizes of steps whose interpolated times are kept.
_REMEMBERED = 4096


@dataclass
class RoutedLoad:
    """What one step's routing puts on the expert ranks (P stages, E expert ranks, L MoE layers of the model).

    duration: [P, E] picoseconds of expert kernels, summed over the stage's layers; slowest: [P] the same of the slowest
    rank of each layer; bound: [3] seconds of the slowest ranks' overhead, compute-bound and memory-bound time.
    """

    duration: FloatArray
    slowest: FloatArray
    bound: FloatArray
    copies: FloatArray  # [P, E] (token, expert) pairs
    touched: FloatArray  # [P, E] distinct experts, summed over layers
    expert_tokens: FloatArray  # [L, experts]
    rank_imbalance: float  # largest rank's tokens over the mean, mean over layers
    expert_imbalance: float
    layer_duration: IntArray  # [L, E] picoseconds
    layer_memory: FloatArray  # [L, E] seconds that the kernels' bytes take at full bandwidth


@dataclass
class RoutedTotals:
    """Sums of routed loads over executed steps; the imbalances are means of max/mean, weighted by tokens."""

    duration: FloatArray  # [P, E] seconds of expert kernels
    bound: FloatArray  # [3] as in RoutedLoad
    copies: FloatArray  # [P, E]
    touched: FloatArray  # [P, E]
    expert_tokens: FloatArray  # [L, experts]
    weight: float = 0.0
    rank_imbalance: float = 0.0
    expert_imbalance: float = 0.0

    @classmethod
    def zeros(cls, stages: int, ranks: int, layers: int, experts: int) -> RoutedTotals:
        by_rank = [np.zeros((stages, ranks)) for _ in range(3)]
        return cls(by_rank[0], np.zeros(3), by_rank[1], by_rank[2], np.zeros((layers, experts)))

    def add(self, load: RoutedLoad, steps: float) -> None:
        self.duration += load.duration * (steps / PICOSECONDS)
        self.bound += load.bound * steps
        self.copies += load.copies * steps
        self.touched += load.touched * steps
        self.expert_tokens += load.expert_tokens * steps
        tokens = float(load.copies.sum()) * steps
        self.weight += tokens
        self.rank_imbalance += tokens * load.rank_imbalance
        self.expert_imbalance += tokens * load.expert_imbalance


def _imbalance(loads: NDArray[Any]) -> float:
    """Mean over layers of the largest load over the mean one."""
    return float((loads.max(axis=1) / loads.mean(axis=1)).mean())


@dataclass(frozen=True)
class RoutedPrice:
    """Seconds on the critical path of the MoE parts, per stage, in picoseconds, and what they come from: the load of
    this very step, or the tokens (in all, of prefill) for which loads were interpolated."""

    experts: IntArray  # [P]
    dispatch: IntArray  # [P]
    combine: IntArray  # [P]
    load: RoutedLoad | None = None
    tokens: tuple[int, int] = (0, 0)

    @property
    def stages(self) -> IntArray:
        return self.experts + self.dispatch + self.combine


class ExpertCosts:
    """Expert kernels of every stage and expert rank, from the tokens per expert."""

    def __init__(
        self, context: StepContext, layout: ReplicaLayout, programs: list[StageProgram], owner: IntArray
    ) -> None:
        self.context, self.layout, self.owner = context, layout, owner
        self.operator: Operator = next(
            row.operator for each in programs for row in each.rows if row.action == "experts" and row.operator
        )
        moe = context.model.moe
        assert moe is not None
        self.experts = moe.experts
        layers = [layer for program in programs for layer in program.moe_layers]
        #: Slices of the model's MoE layers that each stage holds.
        bounds = np.cumsum([0] + [len(program.moe_layers) for program in programs])
        self.stage_layers = [slice(int(a), int(b)) for a, b in pairwise(bounds)]
        self.layers = len(layers)
        lanes = layout.devices.reshape(layout.pp, -1)[:, :: layout.expert_tp]
        self.devices = [[context.machine.devices[i] for i in stage] for stage in lanes]
        self._kinds = [
            kind for at, stage in zip(self.stage_layers, self.devices, strict=True) for kind in _kinds(at, stage)
        ]
        check_owner(owner, self.layers, self.experts, layout.expert_ranks)
        #: Where each (layer, expert) lies in a table [layers, expert ranks].
        self._cell = (np.arange(self.layers)[:, None] * layout.expert_ranks + owner).ravel()

    def calls(self, copies: FloatArray, touched: FloatArray) -> Calls:
        """Kernel calls of expert ranks with so many (token, expert) pairs and distinct experts."""
        return expert_calls(self.operator, copies, touched, self.experts, self.layout.expert_tp, self.context.dtype)

    def zeros(self) -> RoutedTotals:
        return RoutedTotals.zeros(self.layout.pp, self.layout.expert_ranks, self.layers, self.experts)

    def load(self, counts: IntArray) -> RoutedLoad:
        """Args: counts: [layers, experts] tokens per expert, over all sources."""
        shape = (self.layers, self.layout.expert_ranks)
        copies, touched = self.by_rank(counts), self.by_rank(counts > 0)
        seconds, memory, bounds = np.zeros(shape), np.zeros(shape), np.zeros((3, *shape))
        for at, device in self._kinds:
            cost = self.context.kernels.cost(self.calls(copies[at], touched[at]), device)
            seconds[at], memory[at] = cost.seconds, cost.memory
            compute_bound = cost.compute > cost.memory
            bounds[0][at] = cost.overhead
            bounds[1][at] = np.where(compute_bound, cost.compute, 0)
            bounds[2][at] = np.where(compute_bound, 0, cost.memory)
        duration = picoseconds(seconds)
        slowest = duration.argmax(axis=1)
        rows = np.arange(len(duration))
        return RoutedLoad(
            duration=self._by_stage(duration),
            slowest=self._by_stage(duration[rows, slowest]),
            bound=bounds[:, rows, slowest].sum(axis=1),
            copies=self._by_stage(copies),
            touched=self._by_stage(touched),
            expert_tokens=counts.astype(np.float64),
            rank_imbalance=_imbalance(copies),
            expert_imbalance=_imbalance(counts),
            layer_duration=duration,
            layer_memory=memory,
        )

    def by_rank(self, values: NDArray[Any]) -> FloatArray:
        """[L, experts] summed over the experts of each rank, [L, expert ranks]."""
        shape = (self.layers, self.layout.expert_ranks)
        sums = np.bincount(self._cell, weights=values.ravel(), minlength=shape[0] * shape[1])
        return sums.reshape(shape).astype(np.float64, copy=False)

    def _by_stage(self, values: NDArray[Any]) -> FloatArray:
        """[L, ...] summed over the layers of each stage."""
        return np.array([values[at].sum(axis=0) for at in self.stage_layers], dtype=np.float64)


def _kinds(layers: slice, devices: list[Device]) -> list[tuple[tuple[slice, slice | list[int]], Device]]:
    """Places in a table [layers, expert ranks] that devices of one kind fill, with one of these devices."""
    names = [device.spec.name for device in devices]
    if len(set(names)) == 1:
        return [((layers, slice(None)), devices[0])]
    return [
        ((layers, [e for e, other in enumerate(names) if other == name]), devices[names.index(name)])
        for name in dict.fromkeys(names)
    ]


class RoutedPricer(Protocol):
    """Prices the MoE parts of one step. `singles` and `chunked` are tokens per DP rank, dummy tokens included."""

    def price(self, singles: IntArray, chunked: IntArray, batch: Batch, step: int) -> RoutedPrice: ...

    def counts(self, batch: Batch, step: int) -> IntArray:
        """Tokens per (MoE layer, source rank, expert), drawn for the batch's `step`-th step alone."""
        ...

    def record(self, price: RoutedPrice, steps: int) -> None:
        """Count `steps` executed steps of this price."""
        ...

    def totals(self) -> RoutedTotals: ...

    @property
    def reuses(self) -> bool:
        """Whether steps with equal token counts have equal prices, so that they may be priced together."""
        ...


class Sampled:
    """Fresh tokens per expert for every step, from a stream of their own that only the step's number decides."""

    def __init__(self, costs: ExpertCosts, exchange: Exchange, routing: RoutingSource, key: int) -> None:
        self._costs, self._exchange, self._routing, self._key = costs, exchange, routing, key
        self._totals = costs.zeros()

    reuses = False

    def record(self, price: RoutedPrice, steps: int) -> None:
        assert price.load is not None
        self._totals.add(price.load, steps)

    def totals(self) -> RoutedTotals:
        return self._totals

    def counts(self, batch: Batch, step: int) -> IntArray:
        return draw_counts(self._routing, self._key, batch, step)

    def price(self, singles: IntArray, chunked: IntArray, batch: Batch, step: int) -> RoutedPrice:
        drawn = self._draw(batch, step)
        load = self._costs.load(drawn.totals)
        if self._exchange.all_to_all:
            traffic = drawn.traffic(self._costs.owner, self._costs.layout.expert_ranks)
            dispatch, combine = self._exchange.of_traffic(traffic)
        else:
            dispatch, combine = self._exchange.of_largest(int((singles + chunked).max()))
        return RoutedPrice(load.slowest.astype(np.int64), dispatch, combine, load)

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
    active = batch.left > step
    source = [batch.rank[active], np.array([c.rank for c in batch.chunks], dtype=np.int64)]
    request = [batch.request[active], np.array([c.request for c in batch.chunks], dtype=np.int64)]
    position = [batch.context[active] + step, np.array([c.cached for c in batch.chunks], dtype=np.int64)]
    tokens = [np.ones(int(active.sum()), dtype=np.int64), np.array([c.tokens for c in batch.chunks], dtype=np.int64)]
    idle = np.setdiff1d(np.arange(batch.ranks), np.concatenate(source))
    source.append(idle)
    request.append(np.full(len(idle), -1))
    position.append(np.zeros(len(idle), dtype=np.int64))
    tokens.append(np.ones(len(idle), dtype=np.int64))
    return TokenSpans(*(np.concatenate(column) for column in (source, request, position, tokens)))


@dataclass
class Tabulated:
    """Loads drawn once per (total tokens, share of prefill) grid point and interpolated linearly between points.

    Expert loads of a routing without state depend on the totals alone, since every source draws from the same
    popularity. Each point has its own random stream, so its value does not depend on when it is first needed.
    """

    costs: ExpertCosts
    exchange: Exchange
    routing: CountRouting
    key: int
    limit: int
    _points: dict[tuple[int, float], RoutedLoad] = field(default_factory=dict, init=False)
    _grid: list[int] = field(default_factory=list, init=False)
    #: Executed steps by tokens in all and of prefill.
    _steps: Counter[tuple[int, int]] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        self._grid = _token_grid(self.limit)
        self._draws = max(1, round(96 / max(self.costs.layers, 1)))
        self._scattered = (
            ScatteredExchange(self.exchange, self.routing, self.costs, self.key) if self.exchange.all_to_all else None
        )
        self._slowest = lru_cache(maxsize=_REMEMBERED)(self._interpolated)

    reuses = True

    def counts(self, batch: Batch, step: int) -> IntArray:
        return draw_counts(self.routing, self.key, batch, step)

    def record(self, price: RoutedPrice, steps: int) -> None:
        self._steps[price.tokens] += steps

    def totals(self) -> RoutedTotals:
        uses: defaultdict[tuple[int, float], float] = defaultdict(float)
        for tokens, steps in sorted(self._steps.items()):  # sorted: sums must not depend on the order of first use
            for point, weight in self._weights(*tokens):
                uses[point] += weight * steps
        totals = self.costs.zeros()
        for point, use in sorted(uses.items()):
            totals.add(self._point(*point), use)
        return totals

    def price(self, singles: IntArray, chunked: IntArray, batch: Batch, step: int) -> RoutedPrice:
        prefill = int(chunked.sum())
        tokens = int(singles.sum()) + prefill, prefill
        if self._scattered is None:
            dispatch, combine = self.exchange.of_largest(int((singles + chunked).max()))
        else:
            dispatch, combine = self._scattered.price(singles, chunked)
        return RoutedPrice(self._slowest(*tokens), dispatch, combine, tokens=tokens)

    def _interpolated(self, tokens: int, prefill: int) -> IntArray:
        """[P] picoseconds of the slowest experts."""
        slowest = sum(self._point(*point).slowest * weight for point, weight in self._weights(tokens, prefill))
        return np.rint(slowest).astype(np.int64)

    def _weights(self, tokens: int, prefill: int) -> list[tuple[tuple[int, float], float]]:
        """Grid points around a step, with their shares."""
        return [
            ((size, mixture), weight * share)
            for mixture, share in _mixture_weights(prefill / tokens)
            for size, weight in self._token_weights(tokens)
            if weight * share > 0
        ]

    def _token_weights(self, total: int) -> tuple[tuple[int, float], ...]:
        at = bisect_right(self._grid, total) - 1
        low = self._grid[at]
        if low == total or at + 1 == len(self._grid):
            return ((low, 1.0),)
        weight = (total - low) / (self._grid[at + 1] - low)
        return ((low, 1 - weight), (self._grid[at + 1], weight))

    def _point(self, tokens: int, mixture: float) -> RoutedLoad:
        key = (tokens, mixture)
        if key not in self._points:
            stream = np.random.Generator(np.random.Philox(key=self.key, counter=[0, 1, tokens, int(mixture * 16)]))
            chunked = np.array([round(tokens * mixture)])
            draws = [
                self.costs.load(self.routing.choose(tokens - chunked, chunked, stream).totals)
                for _ in range(self._draws)
            ]
            self._points[key] = _mean_load(draws)
        return self._points[key]


def _mixture_weights(share: float) -> tuple[tuple[float, float], ...]:
    if share in _MIXTURES:
        return ((share, 1.0),)
    low, high = (_MIXTURES[0], _MIXTURES[1]) if share < _MIXTURES[1] else (_MIXTURES[1], _MIXTURES[2])
    weight = (share - low) / (high - low)
    return ((low, 1 - weight), (high, weight))


def _token_grid(limit: int) -> list[int]:
    grid = list(range(1, _DENSE_GRID + 1))
    while grid[-1] < limit:
        grid.append(max(grid[-1] + 1, round(grid[-1] * _GRID_RATIO)))
    return grid


def _mean_load(draws: list[RoutedLoad]) -> RoutedLoad:
    """The mean of several draws, also of what their slowest ranks take and of their imbalance, which is not the
    imbalance of the mean."""
    names = [each.name for each in fields(RoutedLoad)]
    return RoutedLoad(**{name: np.mean([getattr(draw, name) for draw in draws], axis=0) for name in names})
