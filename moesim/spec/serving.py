"""Serving engines, requests and service levels as a user writes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from moesim.spec.base import Descriptor, Dtype, Schema
from moesim.spec.units import Duration, Rate, Seconds

#: Far beyond any system, so that a slip of the pen is a message and does not fill the memory.
MOST_TOKENS, MOST_REQUESTS = 10_000_000, 10_000_000

Tokens = Annotated[int, Field(gt=0, le=MOST_TOKENS)]


class DispatchSpec(Schema):
    """How an all-to-all sends tokens to their experts and combines what these return.

    `form`: "per-expert" sends a copy per (token, expert); "per-device" one to each device that holds any of a token's
    experts; "per-node" one to each node, whose device of the sender's index forwards it; "in-network" lets the switches
    multiply it on the way and add up the results. `dtype` and `combine_dtype`: what tokens travel in, there and back;
    the activations' and the base dtype where they are not given. `block`: values that share a scale of four bytes on
    the way there, 0 for none. `library`: measured kernels whose times apply where they are known.
    """

    form: Literal["per-expert", "per-device", "per-node", "in-network"] = "per-expert"
    dtype: Dtype | None = None
    combine_dtype: Dtype | None = None
    block: int = Field(default=0, ge=0, le=2**20)
    library: str | None = None


class EngineSpec(Descriptor):
    """A serving engine's scheduler and its costs on the host.

    `transport` is how tokens travel between expert-parallel ranks: "allgather" gathers hidden states on every rank and
    reduce-scatters the outputs, "alltoall" dispatches each token to its experts and combines the outputs, as `dispatch`
    says. `collectives` names communication libraries by the start of their names, in order of preference: between the
    devices of a node, each operation takes what the first of them that was measured with it was measured to take.
    """

    token_budget: int = Field(default=2048, gt=0, le=2**20, description="tokens per step and DP rank")
    max_sequences: int = Field(default=256, gt=0, le=2**17, description="running sequences per DP rank")
    block_size: int = Field(default=16, gt=0, le=2**16, description="tokens per KV block")
    memory_utilization: float = Field(default=0.9, gt=0, le=1)
    chunked_prefill: bool = True
    prefix_caching: bool = True
    transport: Literal["allgather", "alltoall"] = "allgather"
    dispatch: DispatchSpec = DispatchSpec()
    collectives: tuple[str, ...] = ()
    #: Shared experts run on a second compute stream beside the routed ones, both drawing on the memory's bandwidth.
    overlap_shared_experts: bool = False
    #: Software stacks whose measured kernels speak for this engine, the preferred first; none: the datasheet roofline.
    kernels: tuple[str, ...] = ()
    #: Time between two steps in which the devices wait for the host, and its growth with each scheduled sequence.
    step_overhead: Seconds = 0.0
    sequence_overhead: Seconds = 0.0


Arrival = Literal["poisson", "gamma", "deterministic", "burst"]
TooLong = Literal["error", "drop", "clip"]
Variation = Annotated[float, Field(ge=0.001, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]


class LengthSpec(Schema):
    """Tokens per request. `mean` and `deviation` are those of the lengths themselves (not of their logarithms), before
    they are rounded and cut to [minimum, maximum]; `uniform` lies in [mean - deviation, mean + deviation].
    `quantiles` interpolates between (share, tokens) pairs from share 0 to 1, linearly in the tokens' logarithm."""

    distribution: Literal["lognormal", "normal", "uniform", "constant", "exponential", "quantiles"] = "lognormal"
    mean: float | None = Field(default=None, ge=1, le=MOST_TOKENS)
    deviation: float = Field(default=0.0, ge=0, le=MOST_TOKENS)
    minimum: Tokens = 1
    maximum: Tokens | None = None
    quantiles: tuple[tuple[Share, Tokens], ...] = ()

    @model_validator(mode="after")
    def _ordered(self) -> LengthSpec:
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is below minimum {self.minimum}; exchange them")
        if self.mean is not None and self.distribution == "uniform" and self.deviation >= self.mean:
            raise ValueError(
                f"uniform lengths of mean {self.mean:g} and deviation {self.deviation:g} reach zero; lower deviation"
            )
        return self

    @model_validator(mode="after")
    def _parameters(self) -> LengthSpec:
        if (self.distribution == "quantiles") != bool(self.quantiles):
            raise ValueError("quantiles and distribution: quantiles belong together; give both or neither")
        if (self.mean is None) != bool(self.quantiles):
            raise ValueError("there is no mean; give one" if self.mean is None else "quantiles need no mean; remove it")
        if self.deviation and self.distribution in ("constant", "exponential", "quantiles"):
            raise ValueError(f"{self.distribution} lengths have no deviation to choose; remove it")
        if self.quantiles:
            shares, tokens = zip(*self.quantiles, strict=True)
            rising = list(shares) == sorted(set(shares)) and list(tokens) == sorted(tokens)
            if not rising or shares[0] != 0 or shares[-1] != 1:
                raise ValueError("quantiles do not ascend from share 0 to share 1; write them like [[0, 10], [1, 900]]")
        return self


class PrefixSpec(Schema):
    """A shared prefix: one of `groups` texts of `tokens` tokens, with `probability`, in front of the request's own
    input (whose length it adds to)."""

    groups: int = Field(gt=0, le=10**9)
    tokens: Tokens
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
    variation: Variation = 1.0
    prefix: Annotated[tuple[PrefixSpec, ...], BeforeValidator(_listed)] = ()


class RequestsSpec(Schema):
    """The load: a `mix` with rate and count (or duration), or a `trace` file (CSV, JSONL or Parquet).

    Of a trace, `count` takes the first requests and `duration` those that arrive before it.
    """

    mix: str | None = None
    trace: str | None = None
    rate: Rate | None = None
    count: Annotated[int, Field(gt=0, le=MOST_REQUESTS)] | None = None
    duration: Duration | None = None
    #: In place of the mix's own; `burst` has every request at time 0, and no rate.
    arrival: Arrival | None = None
    variation: Variation | None = None
    #: What happens to a request that exceeds the model's context.
    too_long: TooLong = "error"

    @model_validator(mode="after")
    def _one_source(self) -> RequestsSpec:
        if (self.mix is None) == (self.trace is None):
            both = "both a mix and a trace are given" if self.mix else "neither a mix nor a trace is given"
            raise ValueError(f"{both}; give a mix (with rate and count) or a trace")
        given = [name for name in ("rate", "arrival", "variation") if getattr(self, name) is not None]
        if self.trace is not None and given:
            raise ValueError(f"{given[0]} has no effect on a trace, whose rows say when they arrive; remove it")
        return self

    @model_validator(mode="after")
    def _complete_mix(self) -> RequestsSpec:
        if self.mix is None:
            return self
        if self.arrival == "burst":
            if self.rate is not None or self.count is None or self.duration is not None:
                raise ValueError("burst arrivals have a count, and neither rate nor duration; give count alone")
        elif self.rate is None:
            raise ValueError("a mix has no rate of its own; give one like rate: 10/s")
        elif (self.count is None) == (self.duration is None):
            both = "both a count and a duration are" if self.count else "neither a count nor a duration is"
            raise ValueError(f"{both} given with the mix; give one of them")
        elif self.duration is not None and self.rate * self.duration > MOST_REQUESTS:
            expected = f"rate times duration make {self.rate * self.duration:.3g} requests"
            raise ValueError(f"{expected}, at most {MOST_REQUESTS} can be simulated; shorten the duration")
        return self


class SloSpec(Schema):
    """Service level objective; goodput counts the requests that meet every part given."""

    ttft: Duration | None = None
    tpot: Duration | None = None
    e2e: Duration | None = None
