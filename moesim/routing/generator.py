"""The offline generator: every token's experts, from documents and domains that prefer some of them.

In layer l a token of document D (of domain d) scores expert e, of popularity rank i, with

    stretch * log(zipf_i) + sigma_d u[d, l, e] + sigma_doc v[D, l, e] + Gumbel noise

and takes the top k. With u = v = 0 that is successive sampling from the Zipf shares, as in the count form. A token
keeps the noise of the token before it with probability `hold` (the sticky mixture that explains repeated first
choices), and takes the partner of its first choice one layer before as its first choice with probability `affinity`;
partners are the experts of equal popularity rank, which leaves the popularity of first choices alone.

sigma_doc : sigma_d = 2 : 1 throughout; `calibrate` finds the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from moesim.routing.base import FloatArray, IntArray
from moesim.routing.metrics import intra_class_correlation
from moesim.routing.popularity import inclusion_probabilities, popularity_ranks, zipf_weights
from moesim.routing.trace import TokenTrace
from moesim.spec.routing import RoutingProfile

#: Domains that documents are drawn from: as many as the corpus of arXiv 2505.16056 has, which r was measured on.
DOMAINS = 11

#: Share of the variance of a document's preferences that its domain explains: 1 / (1 + 2**2).
_DOMAIN_SHARE = 0.2

#: Scores that are computed at once; bounds the memory.
_BLOCK = 4_000_000

#: Weaker skews are calibrated as this one: flattening is the same factor for all weak ones, and a skew that drowns in
#: the noise of the simulation would not determine it.
_SMALLEST_ZIPF = 0.1

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """What makes the generator meet a profile.

    Attributes:
        stretch: factor of the log-popularities that makes up for the flattening by documents.
        sigma: standard deviation of a document's preferences, domain included.
        hold: probability that a token keeps the noise of the token before.
    """

    stretch: float
    sigma: float
    hold: float


class TokenGenerator:
    """Draws traces token by token.

    Args:
        layers, experts, top_k: of the model; `layers` counts MoE layers.
        profile: the statistics to meet.
        seed: equal seeds give the popularity ranks that `CountRouting` has, and equal traces.
        document: tokens over which a document's preferences last; by default a segment of the profile, as in the count
            form. Longer documents keep r over longer distances.
    """

    def __init__(
        self,
        layers: int,
        experts: int,
        top_k: int,
        profile: RoutingProfile,
        seed: np.random.SeedSequence,
        document: int | None = None,
    ) -> None:
        self.layers, self.experts, self.top_k = layers, experts, top_k
        self.profile, self.document = profile, document or profile.segment
        #: Expert of every popularity rank, [layers, experts]; equal ranks of neighbouring layers are partners.
        self.expert_of_rank = popularity_ranks(layers, experts, seed)
        self._seed = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, 1))
        self.calibration = calibrate(experts, top_k, profile)

    def generate(self, requests: int, tokens: int) -> TokenTrace:
        """A trace of `requests` sequences (ids from 0) of `tokens` tokens each."""
        rng = np.random.default_rng(self._seed)
        documents = -(-tokens // self.document)
        domain = rng.integers(0, DOMAINS, requests * documents)
        taste = _balanced_tastes(self.layers, self.experts, rng)
        ids = np.empty((requests, tokens, self.layers, self.top_k), dtype=np.int16)
        step = max(1, _BLOCK // (tokens * self.experts))
        for first in range(0, requests, step):
            block = slice(first, min(first + step, requests))
            of_block = domain.reshape(requests, documents)[block]
            for layer, ranks in enumerate(self._ranks(of_block, taste, tokens, rng)):
                ids[block, :, layer] = self.expert_of_rank[layer][ranks]
        request = np.repeat(np.arange(requests), tokens)
        position = np.tile(np.arange(tokens), requests)
        return TokenTrace(request, position, ids.reshape(-1, self.layers, self.top_k), self.experts)

    def _ranks(
        self, domain: IntArray, taste: Scores, tokens: int, rng: np.random.Generator
    ) -> Iterator[NDArray[np.int64]]:
        """Layer by layer the popularity ranks that tokens choose, [requests, tokens, top_k], first choice first."""
        requests, documents = domain.shape
        keeps = _keep(requests, tokens, self.calibration.hold, rng)
        previous: NDArray[np.int64] | None = None
        for layer in range(self.layers):
            preference = rng.standard_normal((requests, documents, self.experts), dtype=np.float32)
            preference *= np.sqrt(1.0 - _DOMAIN_SHARE)
            preference += np.sqrt(_DOMAIN_SHARE).astype(np.float32) * taste[layer, domain]
            clock = rng.standard_exponential((requests, tokens, self.experts), dtype=np.float32)
            partner = None if previous is None else _partners(previous, self.profile.affinity, rng)
            scores = _scores(preference, self.calibration, self.profile.zipf)
            chosen = _choose(scores, clock, keeps, partner, self.document, self.top_k)
            previous = chosen[..., 0]
            yield chosen


def _scores(preference: Scores, calibration: Calibration, zipf: float) -> Scores:
    """Log-rates [requests, documents, experts] of the documents' experts, in order of popularity."""
    popularity = np.log(zipf_weights(preference.shape[-1], zipf)) * calibration.stretch
    return (popularity + calibration.sigma * preference).astype(np.float32)


def _choose(
    scores: Scores, clock: Scores, keeps: IntArray, partner: IntArray | None, document: int, top_k: int
) -> NDArray[np.int64]:
    """The k experts whose exponential clocks, of rate exp(score), ring first; the same as top-k of score plus Gumbel.

    Args:
        scores: [requests, documents, experts].
        clock: [requests, tokens, experts], standard exponential numbers.
        keeps: [requests, tokens], the token whose clocks a token uses: itself, or one before.
        partner: [requests, tokens], the expert that must come first, -1 where none must.
        document: tokens per document.
    """
    requests, tokens, _ = clock.shape
    clock = clock[np.arange(requests)[:, None], keeps]
    clock *= np.exp(-scores)[:, np.arange(tokens) // document]
    if partner is not None:
        partner = np.take_along_axis(partner, keeps, axis=1)
        row, column = np.nonzero(partner >= 0)
        clock[row, column, partner[row, column]] = -1.0
    first = np.argpartition(clock, top_k - 1, axis=2)[..., :top_k] if top_k < clock.shape[2] else None
    if first is None:
        return np.argsort(clock, axis=2)
    order = np.argsort(np.take_along_axis(clock, first, axis=2), axis=2)
    return np.take_along_axis(first, order, axis=2)


def _balanced_tastes(layers: int, experts: int, rng: np.random.Generator) -> Scores:
    """Preferences [layers, domains, experts] of mean 0 and variance 1 over the domains for every expert.

    Without that, so few domains would make some experts more popular than their rank says.
    """
    taste = rng.standard_normal((layers, DOMAINS, experts), dtype=np.float32)
    taste -= taste.mean(axis=1, keepdims=True)
    taste /= np.sqrt((taste**2).mean(axis=1, keepdims=True))
    return taste


def _keep(requests: int, tokens: int, hold: float, rng: np.random.Generator) -> IntArray:
    """[requests, tokens]: the last token up to each that drew noise of its own."""
    own = np.where(rng.random((requests, tokens)) >= hold, np.arange(tokens), 0)
    return np.asarray(np.maximum.accumulate(own, axis=1))


def _partners(previous: IntArray, affinity: float, rng: np.random.Generator) -> IntArray | None:
    if affinity == 0.0:
        return None
    return np.where(rng.random(previous.shape) < affinity, previous, -1)


def calibrate(experts: int, top_k: int, profile: RoutingProfile) -> Calibration:
    """Fit stretch, sigma and hold by simulation of one layer, with common random numbers and a fixed seed.

    Stretch makes the popularity-weighted mean of the log-popularities that of the profile (a statistic that is linear
    in the counts and so free of sampling bias); sigma makes the intra-class correlation within a segment r; hold
    supplies the repetition that documents leave open. Each round solves each for its own statistic, the others fixed.

    Returns:
        stretch 1, sigma 0 where the profile has no over-dispersion.
    """
    numbers = (profile.zipf, profile.correlation, profile.segment, profile.repetition, profile.affinity)
    return _calibrate(experts, top_k, *numbers)


@lru_cache(maxsize=16)
def _calibrate(
    experts: int, top_k: int, zipf: float, correlation: float, segment: int, repetition: float, affinity: float
) -> Calibration:
    if zipf > 0.0:
        zipf = max(zipf, _SMALLEST_ZIPF)
    profile = RoutingProfile(
        name="calibrated", zipf=zipf, correlation=correlation, segment=segment, repetition=repetition, affinity=affinity
    )
    bench = _Bench(experts, top_k, profile)
    stretch, hold = 1.0, repetition
    sigma = 0.0 if correlation == 0.0 else 2.0 * correlation**0.6
    for _ in range(12):
        skew, found, repeated = bench.measure(Calibration(stretch, sigma, hold))
        off = [0.0]
        if zipf > 0.0:
            off.append(abs(skew / bench.target_skew - 1.0))
            stretch *= bench.target_skew / skew
        if sigma > 0.0:
            off.append(abs(found / correlation - 1.0))
            sigma *= float(np.clip(correlation / max(found, 1e-9), 0.25, 4.0)) ** 0.6
        if hold > 0.0:
            off.append(abs(repeated - bench.target_repetition))
            hold = float(np.clip(hold + bench.target_repetition - repeated, 0.0, 0.999))
        if max(off) < 0.003:
            break
    return Calibration(stretch, sigma, hold)


class _Bench:
    """Segments of one layer (and of the layer before, where that matters), simulated with the same random numbers."""

    def __init__(self, experts: int, top_k: int, profile: RoutingProfile) -> None:
        self._top_k, self._profile = top_k, profile
        rng = np.random.default_rng(0)
        segments = max(64, _BLOCK // (experts * profile.segment))
        tokens = (segments, profile.segment)
        layers = 1 if profile.affinity == 0.0 else 2
        self._preference = [rng.standard_normal((segments, 1, experts), dtype=np.float32) for _ in range(layers)]
        self._clock = [rng.standard_exponential((*tokens, experts), dtype=np.float32) for _ in range(layers)]
        self._hold, self._affine = rng.random(tokens), rng.random(tokens) < profile.affinity
        weights = zipf_weights(experts, profile.zipf)
        self._level = np.log(weights) - np.log(weights).mean()
        self.target_skew = float(inclusion_probabilities(weights, top_k) @ self._level)
        by_chance = float((weights**2).sum())
        self.target_repetition = profile.repetition + (1.0 - profile.repetition) * by_chance

    def measure(self, calibration: Calibration) -> tuple[float, float, float]:
        """Mean log-popularity times k, intra-class correlation, repetition of the first choice."""
        segments, segment, experts = self._clock[0].shape
        keeps = np.maximum.accumulate(np.where(self._hold >= calibration.hold, np.arange(segment), 0), axis=1)
        partner: IntArray | None = None
        for preference, clock in zip(self._preference, self._clock, strict=True):
            scores = _scores(preference, calibration, self._profile.zipf)
            chosen = _choose(scores, clock, keeps, partner, segment, self._top_k)
            partner = np.where(self._affine, chosen[..., 0], -1)
        index = np.arange(segments)[:, None, None] * experts + chosen
        counts = np.bincount(index.ravel(), minlength=segments * experts).reshape(segments, experts)
        shares: FloatArray = counts.sum(axis=0) / (segments * segment)
        repetition = float((chosen[:, 1:, 0] == chosen[:, :-1, 0]).mean())
        correlation = intra_class_correlation(counts, segment) if segment > 1 else 0.0
        return float(shares @ self._level), correlation, repetition
