"""Tokens to experts: count sampling for runs, trace replay, an offline per-token generator, statistics."""

from __future__ import annotations

import numpy as np

from moesim.registry import Registry
from moesim.routing.affinity import AffinityRouting
from moesim.routing.base import RoutingSource, TokenSpans
from moesim.routing.clustered import ClusteredRouting
from moesim.routing.concentrated import ConcentratedRouting
from moesim.routing.documents import DocumentRouting
from moesim.routing.replay import TraceRouting
from moesim.routing.synthetic import CountRouting
from moesim.spec.errors import MoesimError
from moesim.spec.routing import RoutingProfile, RoutingSpec

__all__ = [
    "DEFAULT_PROFILE",
    "SOURCES",
    "AffinityRouting",
    "ClusteredRouting",
    "ConcentratedRouting",
    "CountRouting",
    "DocumentRouting",
    "RoutingSource",
    "TokenSpans",
    "TraceRouting",
    "make_routing",
]

#: For a model whose routing nobody published: skew of a model trained with an auxiliary balance loss on real text (Gini
#: 0.16), and a correlation in the middle of the published ones.
DEFAULT_PROFILE = RoutingProfile(
    name="default",
    description="no published statistics: zipf 0.3 and correlation 0.1 assumed",
    zipf=0.3,
    correlation=0.1,
    estimated=("zipf", "correlation"),
)


#: Sources by the name in `routing.source`, called with (spec, profile, layers, experts, top_k, seed); other packages
#: add theirs under the entry points `moesim.routing`.
SOURCES: Registry[RoutingSource] = Registry("routing", "routing.source")


def make_routing(
    spec: RoutingSpec,
    profile: RoutingProfile | None,
    layers: int,
    experts: int,
    top_k: int,
    seed: np.random.SeedSequence,
) -> RoutingSource:
    """The routing that an experiment asks for.

    Args:
        spec: the experiment's routing.
        profile: the profile that it or its model names; None where there is none, then `DEFAULT_PROFILE` serves.
        layers, experts, top_k: of the model; `layers` counts MoE layers.
        seed: of the experts' popularity ranks.

    Raises:
        MoesimError: there is no such source, or the trace is malformed or belongs to another model.
    """
    return SOURCES.make(spec.source, spec, profile, layers, experts, top_k, seed)


@SOURCES.register("trace")
def _trace(
    spec: RoutingSpec, _: RoutingProfile | None, layers: int, experts: int, top_k: int, __: np.random.SeedSequence
) -> TraceRouting:
    assert spec.trace is not None  # the schema requires it
    return TraceRouting(spec.trace, layers, experts, top_k)


@SOURCES.register("affinity")
def _affinity(
    spec: RoutingSpec,
    profile: RoutingProfile | None,
    layers: int,
    experts: int,
    top_k: int,
    seed: np.random.SeedSequence,
) -> AffinityRouting:
    assert spec.affinity is not None  # the schema requires it
    zipf = (profile or DEFAULT_PROFILE).zipf if spec.zipf is None else spec.zipf
    strength, rank = spec.affinity.strength, spec.affinity.rank
    return AffinityRouting(layers, experts, top_k, strength=strength, rank=rank, zipf=zipf, seed=seed)


@SOURCES.register("concentrated")
def _concentrated(
    spec: RoutingSpec, _: RoutingProfile | None, layers: int, experts: int, top_k: int, __: np.random.SeedSequence
) -> ConcentratedRouting:
    assert spec.concentration is not None  # the schema requires it
    hot = spec.concentration.experts
    if hot > experts:
        raise MoesimError(
            f"the concentration is on {hot} experts, the model has {experts}", key="routing.concentration.experts",
            fix=f"choose at most {experts}",
        )  # fmt: skip
    return ConcentratedRouting(layers, experts, top_k, hot=hot, share=spec.concentration.share)


@SOURCES.register("uniform")
def _uniform(
    _: RoutingSpec, __: RoutingProfile | None, layers: int, experts: int, top_k: int, seed: np.random.SeedSequence
) -> CountRouting:
    return CountRouting(layers, experts, top_k, seed=seed, description="uniform")


@SOURCES.register("clustered")
def _clustered(
    spec: RoutingSpec, _: RoutingProfile | None, layers: int, experts: int, top_k: int, seed: np.random.SeedSequence
) -> ClusteredRouting:
    assert spec.clusters is not None  # the schema requires both
    assert spec.preference is not None
    if experts % spec.clusters:
        raise MoesimError(
            f"{spec.clusters} clusters do not divide {experts} experts", key="routing.clusters",
            fix=f"use a number that divides {experts}",
        )  # fmt: skip
    return ClusteredRouting(layers, experts, top_k, spec.clusters, spec.preference, seed)


@SOURCES.register("profile")
def _profile(
    spec: RoutingSpec,
    profile: RoutingProfile | None,
    layers: int,
    experts: int,
    top_k: int,
    seed: np.random.SeedSequence,
) -> CountRouting:
    base = profile or DEFAULT_PROFILE
    zipf = base.zipf if spec.zipf is None else spec.zipf
    correlation = base.correlation if spec.correlation is None else spec.correlation
    origin = f"profile {base.name}" if profile else "no profile, defaults assumed"
    if spec.zipf is not None and spec.correlation is not None:
        origin = "given"
    return CountRouting(
        layers,
        experts,
        top_k,
        zipf=zipf,
        correlation=correlation,
        segment=base.segment,
        seed=seed,
        description=f"{origin}: zipf {zipf:g}, correlation {correlation:g} over {base.segment} tokens",
    )


@SOURCES.register("documents")
def _documents(
    spec: RoutingSpec,
    profile: RoutingProfile | None,
    layers: int,
    experts: int,
    top_k: int,
    seed: np.random.SeedSequence,
) -> DocumentRouting:
    base = profile or DEFAULT_PROFILE
    given = {name: getattr(spec, name) for name in ("zipf", "correlation") if getattr(spec, name) is not None}
    return DocumentRouting(layers, experts, top_k, base.model_copy(update=given), seed)
