"""Tokens piled on a few experts, as benchmarks of load balancing make them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesim.routing.base import FloatArray, TokenSpans
from moesim.routing.large import round_to_sum


class ConcentratedRouting:
    """The first experts of every layer share a part of all (token, expert) pairs evenly, the others the rest.

    Pairs, not tokens: with top-k above 1 no router sends nine tenths of its pairs to one expert, benchmarks do.

    Args:
        layers, experts, top_k: of the model; `layers` counts MoE layers.
        hot: experts that share `share` of the pairs.
    """

    stateless = True

    def __init__(self, layers: int, experts: int, top_k: int, *, hot: int, share: float) -> None:
        self.layers, self.experts, self.top_k = layers, experts, top_k
        self.description = f"{100 * share:g} % of the pairs on {hot} of {experts} experts"
        shares = np.full(experts, (1 - share) / max(experts - hot, 1))
        shares[:hot] = share / hot
        #: Share of a layer's pairs that each expert gets, [layers, experts].
        self.popularity: FloatArray = np.tile(shares, (layers, 1))

    def counts(self, spans: TokenSpans, sources: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """See `RoutingSource.counts`; entries may exceed a source's tokens."""
        tokens = np.bincount(spans.source, weights=spans.tokens, minlength=sources)
        wanted = np.broadcast_to((tokens * float(self.top_k))[:, None], (self.layers, sources, 1))
        return round_to_sum(wanted * self.popularity[:, None], wanted, rng)
