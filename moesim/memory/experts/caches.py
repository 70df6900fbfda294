"""Which experts stay on a device: one small class per policy, all state passed in and out."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from moesim.registry import Registry
from moesim.spec.errors import MoesimError
from moesim.spec.offload import CacheSpec

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.signedinteger[Any]]


class Use(NamedTuple):
    """What one step asks of one layer. tokens: [experts] routed to each; scores: [tokens, experts] of the router, None
    where the routing knows none; time: steps before this one; popularity: [experts] long-run tokens of each."""

    tokens: IntArray
    scores: NDArray[np.floating[Any]] | None
    time: int
    popularity: FloatArray


class CachePolicy(Protocol):
    """Gives every expert of a layer a number; those on the device with the largest stay.

    Attributes:
        fills: experts that the host computed are fetched afterwards, if the policy would keep them.
    """

    @property
    def fills(self) -> bool: ...

    def observe(self, memory: FloatArray, use: Use) -> FloatArray:
        """The numbers [experts] after a use; 0 before the first."""
        ...


#: Policies by name, made of (CacheSpec, experts per token); other packages add theirs under `moesim.cache`.
CACHES: Registry[CachePolicy] = Registry("cache", "experts.cache.policy")


@CACHES.register("lru")
class LeastRecentlyUsed:
    """The experts used last stay; of one step, those with more tokens."""

    fills = True

    def __init__(self, _: CacheSpec, __: int) -> None:
        pass

    def observe(self, memory: FloatArray, use: Use) -> FloatArray:
        share = use.tokens / (use.tokens.sum() + 1.0)
        return np.where(use.tokens > 0, use.time + 1 + share, memory)


@CACHES.register("lfu")
class LeastFrequentlyUsed:
    """The experts with the most tokens so far stay."""

    fills = True

    def __init__(self, _: CacheSpec, __: int) -> None:
        pass

    def observe(self, memory: FloatArray, use: Use) -> FloatArray:
        return memory + use.tokens


@CACHES.register("static")
class Static:
    """The most popular experts stay, whatever comes (the frequency map of kTransformers)."""

    fills = False

    def __init__(self, _: CacheSpec, __: int) -> None:
        pass

    def observe(self, memory: FloatArray, use: Use) -> FloatArray:
        return use.popularity


@CACHES.register("mrs")
class MinusRecentScore:
    """Router scores, averaged over the recent past: S = a TopP(s) + (1 - a) S, the largest stay (HybriMoE, arXiv
    2504.05897, section IV-D). TopP keeps the P largest scores of a token; of a step's tokens the mean counts.

    A newly used expert is admitted only if its S is among the largest.
    """

    fills = True

    def __init__(self, spec: CacheSpec, top_k: int) -> None:
        self._decay, self._top = spec.decay, spec.top or 2 * top_k

    def observe(self, memory: FloatArray, use: Use) -> FloatArray:
        if use.scores is None:
            raise MoesimError(
                "cache policy mrs goes by router scores, and this routing has none",
                key="experts.cache.policy",
                fix="use routing.source: documents, or another policy (lru, lfu, static)",
            )
        top = min(self._top, use.scores.shape[1])
        least = np.partition(use.scores, -top, axis=1)[:, -top, None]
        kept: FloatArray = np.where(use.scores >= least, use.scores, 0.0).mean(axis=0)
        return self._decay * kept + (1.0 - self._decay) * memory
