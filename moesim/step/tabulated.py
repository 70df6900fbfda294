"""The MoE parts of steps whose routing has no state: loads drawn once for a grid of token counts, and interpolated."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field, fields, replace

import numpy as np

from moesim.routing.synthetic import CountRouting
from moesim.step.batch import Batch
from moesim.step.exchange import Exchange, Picoseconds
from moesim.step.graph import IntArray
from moesim.step.routed import ExpertCosts, RoutedLoad, RoutedPrice, RoutedTotals
from moesim.step.sampled import draw_counts
from moesim.step.scatter import ScatteredExchange
from moesim.step.sizes import Sizes

#: Token counts are tabulated one by one up to here, then in steps of this ratio with linear interpolation.
_DENSE_GRID, _GRID_RATIO = 24, 1.12
#: Shares of prefill tokens at which mixed batches are tabulated; consecutive tokens of a prompt are over-dispersed.
_MIXTURES = (0.0, 0.5, 1.0)


@dataclass
class Tabulated:
    """Loads drawn once per (total tokens, share of prefill) grid point and interpolated linearly between points.

    Expert loads of a routing without state depend on the totals alone, since every source draws from the same
    popularity. Each point has its own random stream, so its value does not depend on when it is first needed. Which
    expert gets how many tokens is taken in expectation, to which a run comes closer than a few draws.
    """

    costs: ExpertCosts
    exchange: Exchange
    routing: CountRouting
    key: int
    limit: int
    _points: dict[tuple[int, float], RoutedLoad] = field(default_factory=dict, init=False)
    _grid: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._grid = _token_grid(self.limit)
        self._draws = max(1, round(96 / max(self.costs.layers, 1)))
        self._scattered = (
            ScatteredExchange(self.exchange, self.routing, self.costs, self.key) if self.exchange.all_to_all else None
        )
        #: Executed steps without prefill by tokens, and the others by tokens in all and of prefill.
        self._decodes = np.zeros(self.limit + 1, dtype=np.int64)
        self._mixed: Counter[tuple[int, int]] = Counter()
        #: [P, tokens] picoseconds of the slowest experts in steps without prefill, -1 where not needed so far.
        self._slowest = np.full((self.costs.layout.pp, self.limit + 1), -1)
        self._known: dict[tuple[int, float], list[float]] = {}
        self._totals: RoutedTotals | None = None

    reuses = True

    def counts(self, batch: Batch, step: int) -> IntArray:
        return draw_counts(self.routing, self.key, batch, step)

    def record(self, price: RoutedPrice, steps: int) -> None:
        self._totals = None
        if price.prefill:
            self._mixed[int(price.tokens[0]), price.prefill] += steps
        else:
            np.add.at(self._decodes, price.tokens[:steps], 1)

    def totals(self) -> RoutedTotals:
        if self._totals is None:
            self._totals = self._sum()
        return self._totals

    def _sum(self) -> RoutedTotals:
        """In a fixed order, whichever sizes came first."""
        used = np.flatnonzero(self._decodes).tolist()
        sizes = [(tokens, 0, int(self._decodes[tokens])) for tokens in used]
        sizes += [(*tokens, steps) for tokens, steps in sorted(self._mixed.items())]
        uses: defaultdict[tuple[int, float], float] = defaultdict(float)
        for tokens, prefill, steps in sizes:
            for point, weight in self._weights(tokens, prefill):
                uses[point] += weight * steps
        totals = self.costs.zeros()
        for point, use in sorted(uses.items()):
            totals.add(self._point(*point), use)
        return totals

    def price(self, sizes: Sizes, batch: Batch) -> RoutedPrice:
        tokens, prefill = sizes.tokens.sum(axis=1), 0
        if batch.chunks:
            prefill = int(sizes.chunked.sum())
            experts = self._interpolated(int(tokens[0]), prefill)[:, None]
        else:
            experts = self._of_decodes(tokens)
        dispatch, combine = self._exchanged(sizes, batch)
        return RoutedPrice(experts, dispatch, combine, tokens=tokens, prefill=prefill)

    def _of_decodes(self, tokens: IntArray) -> IntArray:
        """[P, steps] picoseconds of the slowest experts in steps without prefill."""
        slowest = self._slowest[:, tokens]
        if slowest.min() < 0:
            for size in np.unique(tokens[slowest.min(axis=0) < 0]).tolist():
                self._slowest[:, size] = self._interpolated(size, 0)
            slowest = self._slowest[:, tokens]
        return slowest

    def _exchanged(self, sizes: Sizes, batch: Batch) -> Picoseconds:
        """[P, steps] each. Runs of steps in which every rank has the same tokens are priced once."""
        if self._scattered is None:
            return self.exchange.of_largest(sizes.tokens.max(axis=1))
        changes = (sizes.decodes[1:] != sizes.decodes[:-1]).any(axis=1)
        first = [0, *(np.flatnonzero(changes) + 1).tolist()]
        times = [self._scattered.price(sizes.decodes[k] + sizes.idle[k], sizes.chunked[0]) for k in first]
        length = np.diff([*first, batch.steps])
        dispatch, combine = (np.stack([time[way] for time in times], axis=1) for way in (0, 1))
        return np.repeat(dispatch, length, axis=1), np.repeat(combine, length, axis=1)

    def _interpolated(self, tokens: int, prefill: int) -> IntArray:
        """[P] picoseconds of the slowest experts."""
        parts = [[weight * each for each in self._times(*point)] for point, weight in self._weights(tokens, prefill)]
        return np.array([round(sum(stage)) for stage in zip(*parts, strict=True)])

    def _times(self, tokens: int, mixture: float) -> list[float]:
        """The same at a grid point, as plain numbers, which are faster than arrays of one or two."""
        if (tokens, mixture) not in self._known:
            self._known[tokens, mixture] = self._point(tokens, mixture).slowest.tolist()
        return self._known[tokens, mixture]

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
            self._points[key] = replace(_mean_load(draws), expert_tokens=tokens * self.routing.popularity)
        return self._points[key]


def _mixture_weights(share: float) -> tuple[tuple[float, float], ...]:
    if share in _MIXTURES:
        return ((share, 1.0),)
    above = bisect_right(_MIXTURES, share)
    low, high = _MIXTURES[above - 1 : above + 1]
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
