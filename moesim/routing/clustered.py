"""Tokens that prefer experts which belong together: routing with co-activation, drawn token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.routing.base import FloatArray, IntArray, TokenSpans
from moesim.routing.drawn import Drawn


class ClusteredRouting:
    """The experts of a layer form `clusters` of equal size, at random. A token prefers one of them, drawn anew in each
    layer: its experts are `preference` times as likely to be drawn as others, k distinct ones in all (Plackett-Luce).
    All experts are equally popular; with preference 1 every choice is uniform.

    Args:
        layers, experts, top_k: of the model; `layers` counts MoE layers.
        seed: of the clusters.
    """

    stateless = True

    def __init__(
        self, layers: int, experts: int, top_k: int, clusters: int, preference: float, seed: np.random.SeedSequence
    ) -> None:
        self.layers, self.experts, self.top_k = layers, experts, top_k
        self.clusters, self.preference = clusters, preference
        rng = np.random.default_rng(seed)
        #: [layers, experts] hidden cluster of each expert.
        self.cluster: IntArray = np.array([rng.permutation(experts) % clusters for _ in range(layers)])
        self.description = f"{clusters} clusters of experts, those of a token's {preference:g} times as likely"

    def counts(self, spans: TokenSpans, sources: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """See `RoutingSource.counts`."""
        return self.drawn(spans, sources, rng).counts

    def drawn(self, spans: TokenSpans, sources: int, rng: np.random.Generator) -> Drawn:
        """The experts of every token."""
        source = np.repeat(spans.source, spans.tokens)
        tokens = len(source)
        kind: Any = np.uint8 if self.experts <= 256 else np.uint16
        ids = np.empty((self.top_k, self.layers, tokens), dtype=kind)
        for layer in range(self.layers):
            # The k clocks of rate 1 or `preference` that ring first.
            clock = rng.standard_exponential((tokens, self.experts), dtype=np.float32)
            wanted = rng.integers(0, self.clusters, tokens)
            preferred = self.cluster[layer][None, :] == wanted[:, None]
            clock[preferred] /= np.float32(self.preference)
            ids[:, layer] = np.argpartition(clock, self.top_k - 1, axis=1)[:, : self.top_k].T
        return Drawn.of_choices(ids, source, sources, self.experts)


def coactivation(drawn: Drawn) -> FloatArray:
    """[layers, experts, experts] how many tokens, of those whose choices are known one by one, chose two experts; on
    the diagonal how many chose each."""
    layers, experts = drawn.expert.shape
    _, _, tokens = drawn.picks.shape
    weight = np.ones(tokens)
    weight[tokens - len(drawn.weight) :] = drawn.weight
    found = np.zeros((layers, experts, experts))
    for layer in range(layers):
        chosen = np.zeros((tokens, experts), dtype=np.float32)
        ids = drawn.expert[layer][drawn.picks[:, layer]]
        chosen[np.arange(tokens)[None, :], ids] = 1.0
        found[layer] = (chosen * weight[:, None].astype(np.float32)).T @ chosen
    return found
