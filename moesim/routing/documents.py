"""Routing with a memory: every request prefers some experts for as long as it lasts, and routers have scores.

What caches of experts live on is that the tokens of a request choose alike. Counts of independent tokens have none of
that; here token t of request R scores expert e, of popularity rank i, in layer l with

    stretch * log(zipf_i) + sigma * v[R, l, e] + Gumbel noise,

takes the top k, and its router's scores are the softmax over all experts. It is the per-token generator (see
`generator`) with documents as long as requests; stretch and sigma come from the same calibration.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.routing.base import FloatArray, TokenSpans
from moesim.routing.drawn import Drawn
from moesim.routing.generator import calibrate
from moesim.routing.popularity import inclusion_probabilities, popularity_ranks, zipf_weights
from moesim.spec.routing import RoutingProfile

#: Requests whose preferences are kept; those of others are drawn again when they come back.
_REMEMBERED = 512

#: The least exponential number, so that its logarithm is finite.
_TINY = np.float32(1e-30)


class DocumentRouting:
    """Draws tokens one by one, with the preferences of their requests.

    Args:
        layers, experts, top_k: of the model; `layers` counts MoE layers.
        profile: zipf, and correlation of the tokens of a request.
        seed: of popularity ranks (those of the count form) and of the requests' preferences.
    """

    stateless = False

    def __init__(
        self, layers: int, experts: int, top_k: int, profile: RoutingProfile, seed: np.random.SeedSequence
    ) -> None:
        self.layers, self.experts, self.top_k = layers, experts, top_k
        # What the calibration of the per-token generator measures beside r is left out: repetition and affinity.
        found = calibrate(experts, top_k, RoutingProfile(
            name=profile.name, zipf=profile.zipf, correlation=profile.correlation, segment=profile.segment
        ))  # fmt: skip
        weights = zipf_weights(experts, profile.zipf)
        rank = np.argsort(popularity_ranks(layers, experts, seed), axis=1)  # [layer, expert] -> rank
        self._level = (np.log(weights) * found.stretch).astype(np.float32)[rank]
        self._sigma = np.float32(found.sigma)
        #: Probability that a token chooses the expert, [layers, experts]; each row sums to top_k.
        self.popularity: FloatArray = inclusion_probabilities(weights, top_k)[rank]
        self._key = int(np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, 2)).generate_state(1)[0])
        self._tastes: dict[int, NDArray[np.float32]] = {}
        self.description = (
            f"documents: every request prefers some experts, zipf {profile.zipf:g}, correlation "
            f"{profile.correlation:g} between its tokens"
        )

    def counts(self, spans: TokenSpans, sources: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Counts [layers, sources, experts]."""
        return self.drawn(spans, sources, rng).counts

    def drawn(self, spans: TokenSpans, sources: int, rng: np.random.Generator) -> Drawn:
        """The choices of all tokens and, with them, their routers' scores."""
        levels = np.stack([self._level + self._sigma * self._taste(int(r)) for r in spans.request], axis=1)
        logits = np.repeat(levels, spans.tokens, axis=1)  # [layers, tokens, experts]
        logits -= np.log(np.maximum(rng.standard_exponential(logits.shape, dtype=np.float32), _TINY))  # Gumbel noise
        ids = np.argpartition(logits, -self.top_k, axis=2)[..., -self.top_k :]
        source = np.repeat(spans.source, spans.tokens)
        chosen = Drawn.of_choices(ids.transpose(2, 0, 1).astype(np.uint16), source, sources, self.experts)
        return chosen.with_scores(_softmax(logits))

    def _taste(self, request: int) -> NDArray[np.float32]:
        """Preferences [layers, experts] of a request; dummy tokens (-1) have their own."""
        if request not in self._tastes:
            if len(self._tastes) >= _REMEMBERED:
                del self._tastes[next(iter(self._tastes))]
            rng = np.random.Generator(np.random.Philox(key=self._key, counter=[0, 0, 0, request + 1]))
            self._tastes[request] = rng.standard_normal((self.layers, self.experts), dtype=np.float32)
        return self._tastes[request]


def _softmax(logits: NDArray[Any]) -> NDArray[Any]:
    raised: NDArray[Any] = np.exp(logits - logits.max(axis=2, keepdims=True))
    raised /= raised.sum(axis=2, keepdims=True)
    return raised


def popularity_of(routing: object, layers: int, experts: int) -> FloatArray:
    """Long-run share of tokens that choose each expert, [layers, experts]; even where the routing knows none."""
    found = getattr(routing, "popularity", None)
    return np.ones((layers, experts)) if found is None else np.asarray(found, dtype=np.float64)
