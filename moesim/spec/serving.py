"""Serving engines, requests and service levels as a user writes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

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


class LengthSpec(Schema):
    """Tokens per request. `lognormal` takes mean and standard deviation of the lengths themselves (not of their logs);
    `uniform` lies in [mean - deviation, mean + deviation]; all are rounded and cut to [minimum, maximum]."""

    distribution: Literal["lognormal", "uniform", "constant", "exponential"] = "lognormal"
    mean: float = Field(gt=0, allow_inf_nan=False)
    deviation: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    minimum: int = Field(default=1, gt=0)
    maximum: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> LengthSpec:
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is below minimum {self.minimum}")
        if self.distribution == "uniform" and self.deviation >= self.mean:
            raise ValueError(f"uniform lengths of mean {self.mean} and deviation {self.deviation} reach zero")
        return self


class PrefixSpec(Schema):
    """Shared prefixes: `groups` system prompts of `tokens` each; a request takes one with `probability`."""

    groups: int = Field(gt=0)
    tokens: int = Field(gt=0)
    probability: float = Field(default=1.0, ge=0, le=1)


class MixSpec(Descriptor):
    """A kind of traffic: lengths, prefixes, arrivals."""

    input: LengthSpec
    output: LengthSpec
    arrival: Arrival = "poisson"
    #: Coefficient of variation of the gaps, for gamma arrivals.
    variation: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    prefix: PrefixSpec | None = None


class RequestsSpec(Schema):
    """The load: a `mix` with rate and count (or duration), or a `trace` file (CSV, JSONL or Parquet)."""

    mix: str | None = None
    trace: str | None = None
    rate: Rate | None = None
    count: Annotated[int, Field(gt=0)] | None = None
    duration: Seconds | None = None
    #: What happens to a request that exceeds the model's context.
    too_long: TooLong = "error"

    @model_validator(mode="after")
    def _one_source(self) -> RequestsSpec:
        if (self.mix is None) == (self.trace is None):
            raise ValueError("give either a mix (with rate and count) or a trace")
        if self.mix is not None and self.rate is None:
            raise ValueError("a mix needs a rate, for example 10/s")
        if self.mix is not None and (self.count is None) == (self.duration is None):
            raise ValueError("a mix needs either a count or a duration")
        if self.trace is not None and self.rate is not None:
            raise ValueError("a trace has its own arrivals, leave the rate out")
        return self


class SloSpec(Schema):
    """Service level objective; goodput counts the requests that meet every part given."""

    ttft: Seconds | None = None
    tpot: Seconds | None = None
    e2e: Seconds | None = None
