"""The MoE parts of steps whose routing has no state: loads drawn once for a grid of token counts, and interpolated."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from moesim.routing.base import StatelessRouting
from moesim.routing.drawn import Drawn
from moesim.step.batch import Batch
from moesim.step.exchange import Exchange, Picoseconds
from moesim.step.graph import FloatArray, IntArray
from moesim.step.routed import ExpertCosts, RoutedLoad, RoutedPrice, RoutedTotals
from moesim.step.sampled import draw
from moesim.step.scatter import SCATTER_TURNS, ScatteredExchange
from moesim.step.sizes import Sizes

#: Token counts are tabulated one by one up to here, then in steps of this ratio with linear interpolation.
_DENSE_GRID, _GRID_RATIO = 64, 1.12
#: Shares of prefill tokens at which mixed batches are tabulated; consecutive tokens of a prompt are over-dispersed.
_MIXTURES = (0.0, 0.5, 1.0)
#: What `_mixture_weights` says of steps without prefill.
_DECODE = ((0, 1.0),)
#: Draws are taken in turns by the steps of a run, which repeat after so many.
_TURNS = 512
#: Layers drawn at a point of the grid: so many tokens in all, within these bounds. With few tokens the slowest
#: rank's time scatters by a tenth and more from layer to layer; with many, hardly, as every expert is touched.
_TOKENS_DRAWN, _FEWEST_LAYERS, _MOST_LAYERS = 16384, 96, 8192


#: The points below and above a size.
_SIDES = np.array([0, 1])


class Use(NamedTuple):
    """How steps use the grid: the share of each mixture; the points below, the weights of those above, and the turns,
    [steps] each or single numbers."""

    mixtures: tuple[tuple[int, float], ...]
    below: Any
    weight: Any
    turn: Any


class Tabulated:
    """Loads drawn for each (share of prefill, total tokens) of a grid, and interpolated linearly between its points.

    Expert loads of a routing without state depend on the totals alone, since every source draws from the same
    popularity. Each point has its own random stream, so its draws do not depend on when it is first needed; a step
    takes one of them by its number, so that times scatter from step to step as those of fresh draws do. Which expert
    gets how many tokens is taken in expectation, to which a run comes closer than a few draws.

    Args:
        limit: most tokens in a step.
    """

    reuses = True

    def __init__(self, costs: ExpertCosts, exchange: Exchange, routing: StatelessRouting, key: int, limit: int) -> None:
        self.costs, self.exchange, self.routing, self.key = costs, exchange, routing, key
        self._scattered = ScatteredExchange(exchange, routing, key) if exchange.all_to_all else None
        self._grid = _token_grid(limit)
        self._loads: dict[tuple[int, int], RoutedLoad] = {}
        points = (len(_MIXTURES), len(self._grid))
        #: Whether a point and the one above it have been drawn.
        self._ready = np.zeros(points, dtype=np.bool_)
        #: Picoseconds of the slowest experts by stage, point and turn; the steps that used each.
        self._slowest = np.zeros((costs.layout.pp, *points, _TURNS))
        self._uses = np.zeros((*points, _TURNS))
        self._decode_uses = np.zeros((len(self._grid), _TURNS))
        #: For every number of tokens: the point below, and the weight of the one above it.
        self._below, self._weight = _interpolation(self._grid)
        self._below_list: list[int] = self._below.tolist()
        self._weight_list: list[float] = self._weight.tolist()
        self._totals: RoutedTotals | None = None

    def drawn(self, batch: Batch, step: int) -> Drawn:
        return draw(self.routing, self.key, batch, step, self.costs.context.graphs)

    def price(self, sizes: Sizes, batch: Batch) -> RoutedPrice:
        tokens = np.add.reduce(sizes.tokens, axis=1)
        uses, times = [], []
        if batch.chunks:
            use = self.use_of_prompts(int(tokens[0]), sum(sizes.chunked[0].tolist()), batch.first_step)
            uses.append(use)
            times.append(np.array([[each] for each in self.of_prompts(use)]))
        if batch.steps > len(uses):
            numbers = batch.first_step + np.arange(len(uses), batch.steps)
            uses.append(self.use_of_decodes(tokens[len(uses) :], numbers))
            times.append(self._of_many(uses[-1]))
        experts = times[0] if len(times) == 1 else np.concatenate(times, axis=1)
        return RoutedPrice(experts, *self._exchanged(sizes, batch), uses)

    def use_of_prompts(self, tokens: int, chunked: int, number: int) -> Use:
        """How a step uses the grid, of so many tokens in all, `chunked` of them of prompts."""
        mixtures = _mixture_weights(chunked / tokens)
        return Use(mixtures, self._below_list[tokens], self._weight_list[tokens], number % _TURNS)

    def use_of_decodes(self, tokens: IntArray, numbers: IntArray) -> Use:
        """The same of steps without prompts, [steps] tokens in all each."""
        return Use(_DECODE, self._below[tokens], self._weight[tokens], numbers % _TURNS)

    def of_decodes(self, tokens: int, number: int) -> int:
        """Picoseconds of the slowest experts in one step without prompts, where there is one stage."""
        below, turn = self._below_list[tokens], number % _TURNS
        if not self._ready.item(0, below):
            self._prepare(0, np.array([below]))
        time = self._slowest.item(0, 0, below, turn)
        above = self._slowest.item(0, 0, below + 1, turn)
        return round(time + (above - time) * self._weight_list[tokens])

    def _of_many(self, use: Use) -> IntArray:
        """[P, steps] picoseconds of the slowest experts in steps without prefill."""
        if not np.logical_and.reduce(self._ready[0][use.below]):
            self._prepare(0, use.below)
        times = self._slowest[:, 0, use.below, use.turn]
        above = self._slowest[:, 0, use.below + 1, use.turn]
        experts: IntArray = np.rint(times + (above - times) * use.weight).astype(np.int64)
        return experts

    def of_prompts(self, use: Use) -> list[int]:
        """[P], the same of one step; plain numbers are faster than arrays of one."""
        sums = [0.0] * len(self._slowest)
        for mixture, share in use.mixtures:
            if not self._ready[mixture, use.below]:
                self._prepare(mixture, np.array([use.below]))
            for p in range(len(sums)):
                time = self._slowest.item(p, mixture, use.below, use.turn)
                above = self._slowest.item(p, mixture, use.below + 1, use.turn)
                sums[p] += (time + (above - time) * use.weight) * share
        return [round(each) for each in sums]

    def record(self, executed: Sequence[tuple[RoutedPrice, int]]) -> None:
        """Counts decode steps and others apart, each in their order, so that sums do not show how steps came in
        blocks."""
        decodes: list[tuple[Use, int]] = []
        for price, steps in executed:
            for use in price.origin:
                if use.mixtures is _DECODE:
                    decodes.append((use, steps - len(price.origin) + 1))
                else:
                    self.count_prompts(use)
        if decodes:
            self.count_decodes(*(np.concatenate([use[part][:steps] for use, steps in decodes]) for part in (1, 2, 3)))

    def count_prompts(self, use: Use) -> None:
        """A step with prompts was executed."""
        self._totals = None
        for mixture, share in use.mixtures:
            self._uses[mixture, use.below, use.turn] += (1.0 - use.weight) * share
            self._uses[mixture, use.below + 1, use.turn] += use.weight * share

    def count_decodes(self, below: IntArray, weight: FloatArray, turn: IntArray) -> None:
        """Steps without were, with [steps] columns of their `Use`."""
        self._totals = None
        shares = np.stack([1.0 - weight, weight], axis=1)
        np.add.at(self._decode_uses, (below[:, None] + _SIDES, turn[:, None]), shares)

    def clear(self) -> None:
        self._totals = None
        self._uses[:], self._decode_uses[:] = 0.0, 0.0

    def totals(self) -> RoutedTotals:
        if self._totals is None:
            self._totals = self.costs.zeros()
            for (mixture, point), load in sorted(self._loads.items()):
                seen = self._uses[mixture, point] + (self._decode_uses[point] if mixture == 0 else 0.0)
                uses = seen.reshape(-1, len(load.slowest)).sum(axis=0)
                tokens = uses.sum() * self._grid[point] * self.routing.popularity
                self._totals.add(load, uses, tokens)
        return self._totals

    def _prepare(self, mixture: int, below: IntArray) -> None:
        """Draw the points below and above some sizes that have not been drawn yet."""
        for point in np.unique(below).tolist():
            for index in (point, point + 1):
                if (mixture, index) not in self._loads:
                    self._draw(mixture, index)
            self._ready[mixture, point] = True

    def _draw(self, mixture: int, point: int) -> None:
        """Draw the loads of a point of the grid."""
        tokens, layers = self._grid[point], self.costs.layers
        stream = np.random.Generator(
            np.random.Philox(key=self.key, counter=[0, 1, tokens, int(_MIXTURES[mixture] * 16)])
        )
        wanted = min(max(_TOKENS_DRAWN // tokens, _FEWEST_LAYERS), _MOST_LAYERS) / layers
        draws = min(_TURNS, 1 << max(0, round(np.log2(wanted))))
        chunked = np.full(draws, round(tokens * _MIXTURES[mixture]))
        counts = self.routing.choose(tokens - chunked, chunked, stream).counts  # every source is a draw
        load = self.costs.load(counts)
        self._loads[mixture, point] = load
        self._slowest[:, mixture, point] = np.tile(load.slowest.T, _TURNS // draws)

    def _exchanged(self, sizes: Sizes, batch: Batch) -> Picoseconds:
        """[P, steps] each. In runs of steps in which every rank has the same tokens, each draw is priced once."""
        if self._scattered is None:
            return self.exchange.of_gathered(sizes.gathered)
        changes = (sizes.tokens[1:] != sizes.tokens[:-1]).any(axis=1)
        if batch.chunks:
            changes[:1] = True
        # The steps of a run take the draws in turns: those after the first round repeat its times.
        steps = np.arange(batch.steps)
        begin = np.maximum.accumulate(np.where(np.concatenate([[True], changes]), steps, 0))
        priced, repeats = np.unique(begin + (steps - begin) % SCATTER_TURNS, return_inverse=True)
        chunked = sizes.chunked[priced] if batch.chunks else np.zeros_like(sizes.decodes[priced])
        times = self._scattered.price(sizes.tokens[priced] - chunked, chunked, batch.first_step + priced)
        dispatch, combine = (found[:, repeats] for found in times)
        return dispatch, combine


def _mixture_weights(share: float) -> tuple[tuple[int, float], ...]:
    """Indices of the mixtures around a share of prefill tokens, with their weights."""
    if share in _MIXTURES:
        return ((_MIXTURES.index(share), 1.0),)
    above = bisect_right(_MIXTURES, share)
    low, high = _MIXTURES[above - 1 : above + 1]
    weight = (share - low) / (high - low)
    return ((above - 1, 1.0 - weight), (above, weight))


def _token_grid(limit: int) -> list[int]:
    """Token counts from 1 to one beyond the limit, so that every size has a point above it."""
    grid = list(range(1, _DENSE_GRID + 1))
    while grid[-1] <= limit:
        grid.append(max(grid[-1] + 1, round(grid[-1] * _GRID_RATIO)))
    return grid


def _interpolation(grid: list[int]) -> tuple[IntArray, FloatArray]:
    """For every number of tokens below the last point: the index of the point below, the weight of the one above."""
    tokens, points = np.arange(grid[-1]), np.array(grid)
    below = np.maximum(np.searchsorted(points, tokens, side="right") - 1, 0)
    weight = (tokens - points[below]) / (points[below + 1] - points[below])
    return below, np.maximum(weight, 0.0)
