"""Caches of experts by themselves: how often a policy finds what the tokens of requests ask for."""

from __future__ import annotations

import numpy as np

from moesim.memory.experts import CACHES
from moesim.memory.experts.residency import belady, replay
from moesim.routing import DocumentRouting, TokenSpans
from moesim.spec.offload import CacheSpec
from moesim.spec.routing import RoutingProfile
from moesim.validate.cases import Found, Setting, case

#: Tokens at the begin of a request that are not counted: what the cache holds then says nothing about the policy.
_WARM = 32


@case("cache_hits")
def cache_hits(
    setting: Setting,
    *,
    experts: int,
    top_k: int,
    zipf: float,
    correlation: float,
    capacity: float,
    policy: str,
    layers: int = 8,
    requests: int = 12,
    tokens: int = 256,
) -> Found:
    """Share of the experts of decoded tokens that a cache of each layer holds, every miss fetched. One request after
    the other, each with the preferences of its own (`routing.source: documents`); policy: `belady` knows the future."""
    routing = DocumentRouting(
        layers, experts, top_k, RoutingProfile(name="given", zipf=zipf, correlation=correlation),
        np.random.SeedSequence(1),
    )  # fmt: skip
    slots, zero = round(capacity * experts), np.zeros(1, dtype=np.int64)
    hits = 0
    for request in range(requests):
        spans = TokenSpans(zero, zero + request, zero, zero + tokens)
        drawn = routing.drawn(spans, 1, np.random.default_rng(request))
        assert drawn.scores is not None
        for layer in range(layers):
            uses = np.zeros((tokens, experts), dtype=np.int64)
            np.put_along_axis(uses, drawn.picks[:, layer].T.astype(np.int64), 1, axis=1)
            if policy == "belady":
                found = belady(uses, slots)
            else:
                found = replay(CACHES.make(policy, CacheSpec(), top_k), uses, slots, drawn.scores[layer])
            hits += int(found[_WARM:].sum())
    asked = requests * layers * (tokens - _WARM) * top_k
    return Found(hits / asked, rows=asked)
