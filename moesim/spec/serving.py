"""Serving engines, requests and service levels as a user writes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from moesim.spec.base import Descriptor, Schema
from moesim.spec.units import Rate, Seconds


class EngineSpec(Descriptor):
    """A serving engine's scheduler and its costs on the host.

    `transport` is how tokens travel between expert-parallel ranks: "allgather" gathers hidden states on every rank and
    reduce-scatters the outputs, "alltoall" dispatches each token to its experts and combines the outputs.
    """

    token_budget: int = Field(default=2048, gt=0, description="tokens per step and DP rank")
    max_sequences: int = Field(default=256, gt=0, description="running sequences per DP rank")
    block_size: int = Field(default=16, gt=0, description="tokens per KV block")
    memory_utilization: float = Field(default=0.9, gt=0, le=1)
    chunked_prefill: bool = True
    prefix_caching: bool = True
    transport: Literal["allgather", "alltoall"] = "allgather"
    #: Shared experts run on a second compute stream beside the routed ones, both drawing on the memory's bandwidth.
    overlap_shared_experts: bool = False
    #: Time between two steps in which the devices wait for the host, and its growth with each scheduled sequence.
    step_overhead: Seconds = 0.0
    sequence_overhead: Seconds = 0.0


Arrival = Literal["poisson", "gamma", "deterministic", "burst"]
TooLong = Literal["error", "drop", "clip"]
Share = Annotated[float, Field(ge=0, le=1)]


class LengthSpec(Schema):
    """Tokens per request. `mean` and `deviation` are those of the lengths themselves (not of their logarithms), before
    they are rounded and cut to [minimum, maximum]; `uniform` lies in [mean - deviation, mean + deviation].
    `quantiles` interpolates between (share, tokens) pairs from share 0 to 1, linearly in the tokens' logarithm."""

    distribution: Literal["lognormal", "normal", "uniform", "constant", "exponential", "quantiles"] = "lognormal"
    mean: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    deviation: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    minimum: int = Field(default=1, gt=0)
    maximum: int | None = Field(default=None, gt=0)
    quantiles: tuple[tuple[Share, Annotated[int, Field(gt=0)]], ...] = ()

    @model_validator(mode="after")
    def _ordered(self) -> LengthSpec:
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is below minimum {self.minimum}")
        if self.mean is not None and self.distribution == "uniform" and self.deviation >= self.mean:
            raise ValueError(f"uniform lengths of mean {self.mean} and deviation {self.deviation} reach zero")
        return self

    @model_validator(mode="after")
    def _parameters(self) -> LengthSpec:
        if (self.distribution == "quantiles") != bool(self.quantiles):
            raise ValueError("quantiles are given with distribution: quantiles, and only there")
        if (self.mean is None) != bool(self.quantiles):
            raise ValueError("give a mean" if self.mean is None else "quantiles need no mean")
        if self.deviation and self.distribution in ("constant", "exponential", "quantiles"):
            raise ValueError(f"{self.distribution} lengths have no deviation to choose")
        if self.quantiles:
            shares, tokens = zip(*self.quantiles, strict=True)
            rising = list(shares) == sorted(set(shares)) and list(tokens) == sorted(tokens)
            if not rising or shares[0] != 0 or shares[-1] != 1:
                raise ValueError("quantiles ascend from share 0 to share 1")
        return self


class PrefixSpec(Schema):
    """A shared prefix: one of `groups` texts of `tokens` tokens, with `probability`, in front of the request's own
    input (whose length it adds to)."""

    groups: int = Field(gt=0)
    tokens: int = Field(gt=0)
    probability: float = Field(default=1.0, ge=0, le=1)


def _listed(value: object) -> object:
    return [value] if isinstance(value, (dict, PrefixSpec)) else value


class MixSpec(Descriptor):
    """A kind of traffic: lengths, prefixes, arrivals. Several prefixes follow one another (a system prompt, then a
    document), each drawn on its own."""

    input: LengthSpec
    output: LengthSpec
    arrival: Literal["poisson", "gamma", "deterministic"] = "poisson"
    #: Coefficient of variation of the gaps, for gamma arrivals.
    variation: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    prefix: Annotated[tuple[PrefixSpec, ...], BeforeValidator(_listed)] = ()


class RequestsSpec(Schema):
    """The load: a `mix` with rate and count (or duration), or a `trace` file (CSV, JSONL or Parquet).

    Of a trace, `count` takes the first requests and `duration` those that arrive before it.
    """

    mix: str | None = None
    trace: str | None = None
    rate: Rate | None = None
    count: Annotated[int, Field(gt=0)] | None = None
    duration: Seconds | None = None
    #: In place of the mix's own; `burst` has every request at time 0, and no rate.
    arrival: Arrival | None = None
    variation: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    #: What happens to a request that exceeds the model's context.
    too_long: TooLong = "error"

    @model_validator(mode="after")
    def _one_source(self) -> RequestsSpec:
        if (self.mix is None) == (self.trace is None):
            raise ValueError("give either a mix (with rate and count) or a trace")
        if self.trace is not None and (self.rate, self.arrival, self.variation) != (None, None, None):
            raise ValueError("a trace has its own arrivals, leave rate, arrival and variation out")
        if self.duration == 0:
            raise ValueError("a duration of zero holds no request")
        return self

    @model_validator(mode="after")
    def _complete_mix(self) -> RequestsSpec:
        if self.mix is None:
            return self
        if self.arrival == "burst":
            if self.rate is not None or self.count is None or self.duration is not None:
                raise ValueError("burst arrivals need a count, and neither rate nor duration")
        elif self.rate is None:
            raise ValueError("a mix needs a rate, for example 10/s")
        elif (self.count is None) == (self.duration is None):
            raise ValueError("a mix needs either a count or a duration")
        return self


class SloSpec(Schema):
    """Service level objective; goodput counts the requests that meet every part given."""

    ttft: Seconds | None = None
    tpot: Seconds | None = None
    e2e: Seconds | None = None
