"""An all-to-all whose routing has no state, from token counts alone: what its ports carry, expected and scattered.

The busiest port decides how long an exchange takes, so that expected copies are not enough: of 64 ports with 80 copies
each on average, the busiest has about 100. What a port carries beyond its expectation is drawn once, for equally loaded
ranks, and scaled by the square root of the tokens, as the standard deviation of a sum of independent choices grows.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from math import sqrt

import numpy as np

from moesim.routing.base import StatelessRouting
from moesim.step.exchange import Exchange, Picoseconds
from moesim.step.graph import FloatArray, IntArray
from moesim.step.ports import PortSums, StagePorts
from moesim.step.tokens import RoutedTokens

#: Tokens per rank for which deviations are drawn. Few tokens make skewed sums, many make normal ones.
_GRID = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
#: Between two neighbours in proportion: the geometric means.
_BORDERS = [sqrt(a * b) for a, b in pairwise(_GRID)]
#: Draws per number of tokens; steps take them in turns.
SCATTER_TURNS = 4
#: Steps that are priced together: enough to make array calls worth their while, few enough to stay in the cache.
_AT_ONCE = 32


class ScatteredExchange:
    """Picoseconds of dispatch and combine by tokens per DP rank, a function of these, the turn and `key` alone.

    Args:
        key: of the random streams, one for each number of tokens in the grid.
    """

    def __init__(self, exchange: Exchange, routing: StatelessRouting, key: int) -> None:
        self._exchange, self._routing, self._key = exchange, routing, key
        self._towards = [
            at.towards(exchange.places.part(mine).expected(routing.popularity[mine, None]))
            for at, mine in zip(exchange.stages, exchange.slices, strict=True)
        ]
        self._drawn: dict[tuple[int, int], list[PortSums]] = {}

    def price(self, singles: IntArray, chunked: IntArray, turns: IntArray) -> Picoseconds:
        """[P, steps] each.

        Args:
            singles, chunked: [steps, DP ranks] tokens, as of `StatelessRouting.choose`.
            turns: [steps] number of each step, which decides the draw it takes.
        """
        parts = [
            self._price(singles[at : at + _AT_ONCE], chunked[at : at + _AT_ONCE], turns[at : at + _AT_ONCE])
            for at in range(0, len(turns), _AT_ONCE)
        ]
        dispatch, combine = zip(*parts, strict=True)
        return np.concatenate(dispatch, axis=1), np.concatenate(combine, axis=1)

    def _price(self, singles: IntArray, chunked: IntArray, turns: IntArray) -> Picoseconds:
        tokens = singles + chunked
        draws = zip(tokens.mean(axis=1).tolist(), (turns % SCATTER_TURNS).tolist(), strict=True)
        drawn = [self._deviations(*each) for each in draws]
        overdispersion = self._routing.overdispersion

        def choices(at: StagePorts) -> PortSums:
            """[steps, 1, lanes] independent choices: tokens of a segment choose alike, which multiplies the variance
            of their sum."""
            single, chunk = at.senders(singles), at.senders(chunked)
            return tuple(alone + overdispersion * many for alone, many in zip(single, chunk, strict=True))

        sums = [
            _scattered(at.expected(tokens, towards), [each[p] for each in drawn], choices(at))
            for p, (at, towards) in enumerate(zip(self._exchange.stages, self._towards, strict=True))
        ]
        return self._exchange.of_sums(sums, tokens.max(axis=1) / self._exchange.communication.layout.tp)

    def _deviations(self, mean: float, draw: int) -> list[PortSums]:
        """Per stage [layers, lanes] copies beyond those expected, per square root of the tokens per rank, drawn for the
        grid's number of tokens that is nearest in proportion."""
        nearest = _GRID[bisect_left(_BORDERS, mean)]
        if (nearest, draw) not in self._drawn:
            layout = self._exchange.communication.layout
            stream = np.random.Generator(np.random.Philox(key=self._key, counter=[0, 2, nearest, draw]))
            each = np.full(layout.dp, nearest)
            chosen = self._routing.choose(each, np.zeros_like(each), stream)
            tokens = RoutedTokens(chosen, self._exchange.places)
            self._drawn[nearest, draw] = [
                _difference(at.of_tokens(tokens.part(mine)), at.expected(each, towards), np.sqrt(nearest))
                for at, mine, towards in zip(self._exchange.stages, self._exchange.slices, self._towards, strict=True)
            ]
        return self._drawn[nearest, draw]


def _difference(drawn: PortSums, expected: PortSums, scale: float) -> PortSums:
    return tuple((a - b) / scale for a, b in zip(drawn, expected, strict=True))


def _scattered(expected: PortSums, deviations: list[PortSums], choices: PortSums) -> PortSums:
    """[steps, L, lanes] expected copies plus each step's deviations [L, lanes], scaled to the number of independent
    choices behind them."""
    sums: list[FloatArray] = []
    for mean, each, count in zip(expected, zip(*deviations, strict=True), choices, strict=True):
        copies, scale = np.empty(mean.shape), np.sqrt(count)
        for step, deviation in enumerate(each):
            np.multiply(deviation, scale[step], out=copies[step])
        copies += mean
        sums.append(np.maximum(copies, 0.0, out=copies))
    return tuple(sums)
