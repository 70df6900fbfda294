"""Routing with affinity between layers: which expert a token chooses depends on its choice one layer before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesim.routing.base import FloatArray, IntArray, TokenSpans
from moesim.routing.drawn import Drawn
from moesim.routing.popularity import popularity_ranks, zipf_weights

#: Rounds of scaling rows and columns of the transitions to the popularity; they converge in a few.
_ROUNDS = 100


class AffinityRouting:
    """A Markov chain over layers: expert f follows expert e with a probability in proportion to

        popularity_f exp(strength u_e . v_f / sqrt(rank)),    u, v standard normal, of `rank` dimensions,

    rows and columns scaled so that every layer keeps its popularity (Sinkhorn and Knopp, 1967). A low rank makes
    experts alike: with many experts each has several good followers, none much better than the rest. A token's top k
    are drawn from the row of its first choice one layer before, without replacement, first choice first.

    Args:
        layers, experts, top_k: of the model; `layers` counts MoE layers.
        strength: 0 for independent layers.
        rank: dimensions of the experts' preferences.
        zipf: exponent of the popularity, as of `CountRouting`.
        seed: of popularity ranks and preferences.
    """

    stateless = True

    def __init__(
        self,
        layers: int,
        experts: int,
        top_k: int,
        *,
        strength: float,
        rank: int,
        zipf: float = 0.0,
        seed: np.random.SeedSequence,
    ) -> None:
        self.layers, self.experts, self.top_k = layers, experts, top_k
        self.description = f"affinity {strength:g} of rank {rank} between layers, zipf {zipf:g}"
        by_rank = zipf_weights(experts, zipf)
        #: Share of a layer's first choices that each expert gets, [layers, experts].
        self.popularity: FloatArray = np.empty((layers, experts))
        np.put_along_axis(self.popularity, popularity_ranks(layers, experts, seed), by_rank[None], axis=1)
        rng = np.random.default_rng(np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, 1)))
        u, v = rng.standard_normal((2, max(layers - 1, 0), experts, rank))
        joint = np.exp(strength * (u @ v.transpose(0, 2, 1)) / np.sqrt(rank))
        for _ in range(_ROUNDS):
            joint *= (self.popularity[:-1] / joint.sum(axis=2))[:, :, None]
            joint *= (self.popularity[1:] / joint.sum(axis=1))[:, None, :]
        #: Share of tokens whose first choices in consecutive layers are e and f, [layers - 1, experts, experts].
        self.transitions: FloatArray = joint

    def counts(self, spans: TokenSpans, sources: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """See `RoutingSource.counts`."""
        return self.drawn(spans, sources, rng).counts

    def drawn(self, spans: TokenSpans, sources: int, rng: np.random.Generator) -> Drawn:
        """The choices behind `counts`, token by token."""
        source = np.repeat(spans.source, spans.tokens)
        return Drawn.of_choices(self.paths(len(source), rng), source, sources, self.experts)

    def paths(self, tokens: int, rng: np.random.Generator) -> NDArray[np.uint16]:
        """[top_k, layers, tokens] experts, first choice first."""
        chosen = np.empty((self.top_k, self.layers, tokens), dtype=np.uint16)
        rates: FloatArray = np.broadcast_to(self.popularity[0], (tokens, self.experts))
        for layer in range(self.layers):
            clock = rng.standard_exponential((tokens, self.experts)) / rates
            order: IntArray = np.argpartition(clock, self.top_k - 1, axis=1)[:, : self.top_k]
            order = np.take_along_axis(order, np.argsort(np.take_along_axis(clock, order, axis=1), axis=1), axis=1)
            chosen[:, layer] = order.T
            if layer < self.layers - 1:
                rates = self.transitions[layer][order[:, 0]]
        return chosen
