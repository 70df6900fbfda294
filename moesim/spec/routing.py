"""How tokens choose experts, as a user writes it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from moesim.spec.base import Descriptor, Schema

#: Natural language is at 1, routers of trained models below it; at 5 the first expert has 96 % of the choices.
Zipf = Annotated[float, Field(ge=0, le=5)]
Correlation = Annotated[float, Field(ge=0, lt=1)]


class RoutingProfile(Descriptor):
    """Routing statistics of a model.

    `zipf` is the exponent s of the experts' popularity (share of rank i proportional to i**-s), drawn as one random
    permutation per layer; `correlation` is the intra-class correlation r of the over-dispersion within a segment of
    `segment` consecutive tokens of one sequence.

    Only the per-token generator reads the last two. `repetition` is w in P(first choice of a token is that of the
    token before) = w + (1 - w) P(by chance); `affinity` is the probability a that a token's first choice is the partner
    of its first choice one layer before, by chance apart.
    """

    zipf: Zipf = 0.0
    correlation: Correlation = 0.0
    segment: int = Field(default=16, gt=0, le=1_000_000)
    repetition: float = Field(default=0.0, ge=0, lt=1)
    affinity: float = Field(default=0.0, ge=0, le=1)


class AffinitySpec(Schema):
    """How strongly a token's expert in one layer says which it takes in the next; see `routing.affinity`."""

    strength: float = Field(ge=0, le=20)
    rank: int = Field(default=3, gt=0, le=1024)


class ConcentrationSpec(Schema):
    """The first `experts` of every layer share `share` of all (token, expert) pairs."""

    experts: int = Field(default=1, gt=0)
    share: float = Field(ge=0, le=1)


#: What is its own source where it is given, and the source's name.
_OWN_SOURCE = {"trace": "trace", "affinity": "affinity", "concentration": "concentrated"}


class RoutingSpec(Schema):
    """`source: uniform`, a `profile` of the library (or numbers given here), `documents` (the same statistics, but the
    tokens of a request choose alike as long as it lasts), or the replay of a `trace` file; a trace, affinity between
    layers, or a concentration alone is its own source. `source: clustered` has experts in `clusters`, one of which each
    token prefers: its experts are `preference` times as likely."""

    source: str = "profile"
    profile: str | None = None
    zipf: Zipf | None = None
    correlation: Correlation | None = None
    trace: str | None = None
    affinity: AffinitySpec | None = None
    concentration: ConcentrationSpec | None = None
    clusters: int | None = Field(default=None, gt=0, le=4096)
    preference: float | None = Field(default=None, ge=1, le=1e6)

    @model_validator(mode="before")
    @classmethod
    def _its_own_source(cls, given: Any) -> Any:
        if isinstance(given, dict) and "source" not in given:
            for key, source in _OWN_SOURCE.items():
                if given.get(key) is not None:
                    return {**given, "source": source}
        return given

    @model_validator(mode="after")
    def _fits_source(self) -> RoutingSpec:
        for key, source in _OWN_SOURCE.items():
            if (self.source == source) != (getattr(self, key) is not None):
                what = {"trace": "FILE"}.get(key, "{...}")
                raise ValueError(f"source: {source} and {key}: {what} belong together; give both or neither")
        unused = {
            "uniform": ("profile", "zipf", "correlation"),
            "trace": ("profile", "zipf", "correlation"),
            "clustered": ("profile", "zipf", "correlation"),
            "concentrated": ("profile", "zipf", "correlation"),
            "affinity": ("correlation",),
        }
        given = [name for name in unused.get(self.source, ()) if getattr(self, name) is not None]
        if given:
            raise ValueError(f"{given[0]} has no effect with source: {self.source}; remove one of them")
        together = [name for name in ("clusters", "preference") if getattr(self, name) is not None]
        if len(together) != (2 if self.source == "clustered" else 0):
            raise ValueError("source: clustered, clusters and preference belong together; give all or none of them")
        return self
