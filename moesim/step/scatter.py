"""An all-to-all whose routing has no state, from token counts alone: what its ports carry, expected and scattered.

The busiest port decides how long an exchange takes, so that expected copies are not enough: of 64 ports with 80 copies
each on average, the busiest has about 100. What a port carries beyond its expectation is drawn once, for equally loaded
ranks, and scaled by the square root of the tokens, as the standard deviation of a sum of independent choices grows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.routing.synthetic import CountRouting
from moesim.step.exchange import Exchange, Picoseconds, PortSums, StagePorts
from moesim.step.graph import FloatArray, IntArray

if TYPE_CHECKING:
    from moesim.step.routed import ExpertCosts

#: Tokens per rank for which deviations are drawn. Few tokens make skewed sums, many make normal ones.
_GRID = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])
#: Draws per number of tokens; steps take them in turns.
SCATTER_TURNS = 4


class ScatteredExchange:
    """Picoseconds of dispatch and combine by tokens per DP rank, a function of these, the turn and `key` alone.

    Args:
        costs: knows where the experts are.
        key: of the random streams, one for each number of tokens in the grid.
    """

    def __init__(self, exchange: Exchange, routing: CountRouting, costs: ExpertCosts, key: int) -> None:
        self._exchange, self._routing, self._costs, self._key = exchange, routing, costs, key
        ranks = np.arange(exchange.communication.layout.expert_ranks)
        share = (routing.popularity[:, :, None] * (costs.owner[:, :, None] == ranks)).sum(axis=1)
        self._towards = [at.towards(share[mine]) for at, mine in zip(exchange.stages, exchange.slices, strict=True)]
        self._drawn: dict[tuple[int, int], list[PortSums]] = {}

    def price(self, singles: IntArray, chunked: IntArray, turn: int) -> Picoseconds:
        """[P] each.

        Args:
            singles, chunked: [DP ranks] tokens, as of `CountRouting.choose`.
            turn: number of the step, which decides the draw it takes.
        """
        tokens = singles + chunked
        # Tokens of a segment choose alike, which multiplies the variance of their sum.
        independent = singles + self._routing.overdispersion * chunked
        deviations = self._deviations(tokens.mean(), turn % SCATTER_TURNS)
        return self._exchange.of_sums(
            [
                _scattered(at, at.expected(tokens, towards), drawn, independent)
                for at, towards, drawn in zip(self._exchange.stages, self._towards, deviations, strict=True)
            ]
        )

    def _deviations(self, tokens: float, draw: int) -> list[PortSums]:
        """Per stage [layers, lanes] copies beyond those expected, per square root of the tokens per rank, drawn for the
        grid's number of tokens that is nearest in proportion."""
        nearest = int(_GRID[np.abs(np.log(_GRID / tokens)).argmin()])
        if (nearest, draw) not in self._drawn:
            layout = self._exchange.communication.layout
            stream = np.random.Generator(np.random.Philox(key=self._key, counter=[0, 2, nearest, draw]))
            each = np.full(layout.dp, nearest)
            drawn = self._routing.choose(each, np.zeros_like(each), stream)
            traffic = drawn.traffic(self._costs.owner, layout.expert_ranks)
            self._drawn[nearest, draw] = [
                _difference(at.of_traffic(traffic[mine]), at.expected(each, towards), np.sqrt(nearest))
                for at, mine, towards in zip(self._exchange.stages, self._exchange.slices, self._towards, strict=True)
            ]
        return self._drawn[nearest, draw]


def _difference(drawn: PortSums, expected: PortSums, scale: float) -> PortSums:
    return PortSums(*((a - b) / scale for a, b in zip(drawn, expected, strict=True)))


def _scattered(at: StagePorts, expected: PortSums, deviations: PortSums, independent: FloatArray) -> PortSums:
    """Expected copies plus deviations scaled to `independent` tokens: a sender's own, or the mean of a receiver's
    senders, which are the ranks in its node or in the others."""
    own = independent[at.rank]
    near = (at.rank_lanes @ independent)[at.node]
    far = np.maximum(own.sum() - near, 0.0)
    tokens = (own, near / at.company, own, far / np.maximum(len(own) - at.company, 1))
    return PortSums(
        *(
            np.maximum(mean + deviation * np.sqrt(count), 0.0)
            for mean, deviation, count in zip(expected, deviations, tokens, strict=True)
        )
    )
