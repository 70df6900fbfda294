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


class RoutingSpec(Schema):
    """`source: uniform`, a `profile` of the library (or numbers given here), `documents` (the same statistics, but the
    tokens of a request choose alike for as long as it lasts), or the replay of a `trace` file; a trace alone is its own
    source."""

    source: str = "profile"
    profile: str | None = None
    zipf: Zipf | None = None
    correlation: Correlation | None = None
    trace: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _trace_is_its_source(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("trace") is not None and "source" not in given:
            return {**given, "source": "trace"}
        return given

    @model_validator(mode="after")
    def _fits_source(self) -> RoutingSpec:
        if (self.source == "trace") != (self.trace is not None):
            raise ValueError("source: trace and trace: FILE belong together; give both or neither")
        given = [name for name in ("profile", "zipf", "correlation") if getattr(self, name) is not None]
        if self.source in ("uniform", "trace") and given:
            raise ValueError(f"{given[0]} has no effect with source: {self.source}; remove one of them")
        return self
