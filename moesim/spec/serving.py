"""Serving engines, requests and service levels as a user writes them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from moesim.spec.base import Descriptor, Schema
from moesim.spec.dispatch import DispatchSpec
from moesim.spec.overlap import OverlapSpec
from moesim.spec.speculation import Share, SpeculationSpec
from moesim.spec.units import Duration, IdleRate, Pause, Rate, Seconds

#: Far beyond any system, so that a slip of the pen is a message and does not fill the memory.
MOST_TOKENS, MOST_REQUESTS = 10_000_000, 10_000_000

Tokens = Annotated[int, Field(gt=0, le=MOST_TOKENS)]


def _ranges(value: object) -> object:
    """Sizes one by one, or [first, last, step] for many: [1, 2, 4, [8, 256, 8]]."""
    if not isinstance(value, (list, tuple)):
        return value
    sizes: list[object] = []
    for each in value:
        whole = isinstance(each, (list, tuple)) and len(each) == 3 and all(type(n) is int and n > 0 for n in each)
        sizes += range(each[0], each[1] + 1, each[2]) if whole else [each]
    return sizes


#: Kernels that an engine's scales name: those with measured terms, classes of calls where there are none, and the calls
#: of measured communication libraries.
ScaledKernel = Literal[
    "gemm", "router", "experts", "attention", "attention_prefill", "attention_decode", "mla_prefill", "mla_decode",
    "norm", "elementwise", "embedding", "sampling", "collective",
]  # fmt: skip
Scale = Annotated[float, Field(ge=0.01, le=100)]
GraphSize = Annotated[int, Field(gt=0, le=2**17)]


class EngineSpec(Descriptor):
    """A serving engine's scheduler and its costs on the host.

    `prefill`: "mixed" puts prompts beside decoding sequences, "first" computes the prompts of a DP rank alone, before
    its sequences go on to decode.

    `graph_sizes`: numbers of tokens for which CUDA graphs were captured, single ones or [first, last, step]. A step
    runs the smallest that holds its fullest rank, and every rank is padded to it; beyond the largest, and with prompts
    where `piecewise_graphs` is false, its kernels are launched one by one, each in `launch_overhead`. Piecewise graphs
    leave out attention, so that two launches per layer remain.

    A step takes host time: `step_overhead`, `sequence_overhead` for each scheduled sequence of the fullest rank, and
    `request_overhead` for each of its prompts. The devices wait meanwhile; with `asynchronous_scheduling` they compute
    the step before, which hides it but for `exposed_overhead`, and the step is then decided one step ahead: requests
    that arrive during a step take part in the step after the next. `frontend_latency` passes before the engine sees a
    request (tokenisation, and streaming back).

    `memory_share`: what `memory_utilization` is a share of. "total": of the memory, for weights, activations, workspace
    and KV cache (vLLM); "static": of the memory, for weights and KV cache (SGLang); "free": of what weights,
    activations and workspace leave (TensorRT-LLM). `kv_blocks` says how many blocks a rank has instead.

    `scales`: by family of the devices and kernel, the factor of its times.

    `sort_bytes`: what sorting moves per logit, and what filters the sorted ones, where the model's `top_p` asks for it
    and the engine sorts (vLLM up to 0.15); 0 where it does not, or requests sample otherwise (greedily).

    `transport` is how tokens travel between expert-parallel ranks: "allgather" gathers hidden states on every rank and
    reduce-scatters the outputs, "alltoall" dispatches each token to its experts and combines the outputs, as `dispatch`
    says. `collectives` names communication libraries by the start of their names, in order of preference: between the
    devices of a node, each operation takes what the first of them that was measured with it was measured to take.
    """

    token_budget: int = Field(default=2048, gt=0, le=2**20, description="tokens per step and DP rank")
    max_sequences: int = Field(default=256, gt=0, le=2**17, description="running sequences per DP rank")
    block_size: int = Field(default=16, gt=0, le=2**16, description="tokens per KV block")
    memory_utilization: float = Field(default=0.9, gt=0, le=1)
    memory_share: Literal["total", "static", "free"] = "total"
    kv_blocks: int | None = Field(default=None, gt=0, le=2**40)
    prefill: Literal["mixed", "first"] = "mixed"
    chunked_prefill: bool = True
    prefix_caching: bool = True
    #: Without it, a request is admitted when what it and all running ones can grow to has room (TensorRT-LLM's
    #: GUARANTEED_NO_EVICT).
    preemption: bool = True
    transport: Literal["allgather", "alltoall"] = "allgather"
    dispatch: DispatchSpec = DispatchSpec()
    collectives: tuple[str, ...] = ()
    overlap: OverlapSpec | None = None
    #: A step's sequences in so many groups, of which one computes while another's tokens travel.
    micro_batches: int = Field(default=1, ge=1, le=8)
    #: Shared experts run on a second compute stream beside the routed ones, both drawing on the memory's bandwidth.
    overlap_shared_experts: bool = False
    #: Which implementation of the routed experts, where several were measured; none: the one measured closest by.
    expert_kernels: Literal["marlin", "triton"] | None = None
    #: What an engine does inside its other kernels. norms: all-reduces add the residual and normalise. shared_experts:
    #: they are one more of the routed ones, or on a stream beside them. quantisation: of activations, tensor by tensor
    #: or in four bits, at the end of the kernel before a product.
    fused: tuple[Literal["norms", "shared_experts", "quantisation"], ...] = ()
    #: Software stacks whose measured kernels speak for this engine, the preferred first; none: the datasheet roofline.
    kernels: tuple[str, ...] = ()
    scales: dict[str, dict[ScaledKernel, Scale]] = {}
    sort_bytes: float = Field(default=0.0, ge=0, le=1e6, description="bytes")
    speculation: SpeculationSpec | None = None
    graph_sizes: Annotated[tuple[GraphSize, ...], BeforeValidator(_ranges)] = ()
    piecewise_graphs: bool = True
    asynchronous_scheduling: bool = False
    step_overhead: Seconds = 0.0
    sequence_overhead: Seconds = 0.0
    request_overhead: Seconds = 0.0
    exposed_overhead: Seconds = 0.0
    launch_overhead: Seconds = 0.0
    frontend_latency: Seconds = 0.0

    @property
    def drafts(self) -> int:
        """Drafts that a decoding sequence's step verifies beside its last token."""
        return self.speculation.tokens if self.speculation is not None else 0

    @property
    def draft_layers(self) -> int:
        """Passes through the drafting layer in a step."""
        return self.drafts if self.speculation is not None and self.speculation.drafter == "layer" else 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if list(self.graph_sizes) != sorted(set(self.graph_sizes)):
            raise ValueError("graph_sizes do not ascend; write them like [1, 2, 4, [8, 256, 8]]")
        if self.exposed_overhead and not self.asynchronous_scheduling:
            raise ValueError(
                "without asynchronous_scheduling all host time is exposed; add exposed_overhead to step_overhead"
            )
        return self


Arrival = Literal["poisson", "conditioned", "gamma", "deterministic", "burst"]
TooLong = Literal["error", "drop", "clip"]
Variation = Annotated[float, Field(ge=0.001, le=100)]


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


def _constant(value: object) -> object:
    """`turns: 5` means five turns, always."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {"distribution": "constant", "mean": value} if plain else value


class SessionSpec(Schema):
    """A conversation of several requests. Each turn comes when the one before is answered and the user has thought
    about it; its prompt is all that was said before, and an input of its own.

    `turns` are drawn as lengths are. `think` is the mean time from an answer's last token to the next turn.
    """

    turns: Annotated[LengthSpec, BeforeValidator(_constant)]
    think: Pause = 0.0
    thinking: Literal["exponential", "constant"] = "exponential"


class ClassSpec(Schema):
    """A class of a mix's requests: a `share` of them (shares need not add up to 1), with lengths of its own."""

    share: float = Field(gt=0, le=1e9)
    input: LengthSpec | None = None
    output: LengthSpec | None = None


class MixSpec(Descriptor):
    """A kind of traffic: lengths, prefixes, arrivals. Several prefixes follow one another (a system prompt, then a
    document), each drawn on its own.

    `pool` is a number of distinct prompts: request n sends prompt n modulo `pool`, and the groups of the prefixes are
    dealt to the prompts in turn. With `sessions` each arrival begins a conversation.
    """

    input: LengthSpec
    output: LengthSpec
    arrival: Literal["poisson", "gamma", "deterministic"] = "poisson"
    #: Coefficient of variation of the gaps, for gamma arrivals.
    variation: Variation = 1.0
    prefix: Annotated[tuple[PrefixSpec, ...], BeforeValidator(_listed)] = ()
    pool: Annotated[int, Field(gt=0, le=MOST_REQUESTS)] | None = None
    sessions: SessionSpec | None = None
    classes: dict[str, ClassSpec] = {}

    @model_validator(mode="after")
    def _one_kind_of_text(self) -> MixSpec:
        if self.pool is not None and self.sessions is not None:
            raise ValueError("a pool repeats single prompts, sessions grow; give pool or sessions")
        return self


class LoadSpec(Schema):
    """Requests of a `mix` or of a `trace` file (CSV, JSONL or Parquet), and when they are sent.

    Open loop: a mix at a `rate`, or at `rates` that hold from a time on (and start again after each `period`), for a
    `count` or a `duration`; a trace at its own times, which `scale` compresses (2: twice the rate). Of a trace, `count`
    takes the first requests and `duration` those that arrive before it.

    Closed loop: `concurrency` requests are under way at any time, a new one is sent when one finishes, until `count`
    are sent; `warmup` others before them are not counted, and finish before the first one that is.
    """

    mix: str | None = None
    trace: str | None = None
    rate: Rate | None = None
    rates: Annotated[tuple[tuple[Pause, IdleRate], ...], Field(min_length=1)] | None = None
    period: Duration | None = None
    count: Annotated[int, Field(gt=0, le=MOST_REQUESTS)] | None = None
    duration: Duration | None = None
    #: In place of the mix's own. `conditioned` is a Poisson process of which the number of arrivals is known, the last
    #: of them at the end; `burst` has every request at time 0, and no rate.
    arrival: Arrival | None = None
    variation: Variation | None = None
    scale: Annotated[float, Field(gt=0, le=1e9)] | None = None
    concurrency: Annotated[int, Field(gt=0, le=MOST_REQUESTS)] | None = None
    warmup: int = Field(default=0, ge=0, le=MOST_REQUESTS)
    #: How long after the last arrival of an open loop the run may go on; it then ends with its diagnosis.
    drain: Pause | None = None

    @property
    def is_load(self) -> bool:
        """Whether this is a load, and not a list of them."""
        return True

    def _given(self, *names: str) -> list[str]:
        return [name for name in names if getattr(self, name)]

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if not self.is_load:
            return self
        if (self.mix is None) == (self.trace is None):
            both = "both a mix and a trace are given" if self.mix else "neither a mix nor a trace is given"
            raise ValueError(f"{both}; give a mix (with rate and count) or a trace")
        given = self._given("rate", "rates", "period", "arrival", "variation")
        if self.trace is not None and given:
            raise ValueError(f"{given[0]} has no effect on a trace, whose rows say when they arrive; remove it")
        if self.mix is not None and self.scale is not None:
            raise ValueError("scale compresses the times of a trace; with a mix raise the rate")
        return self

    @model_validator(mode="after")
    def _closed_loop(self) -> Self:
        if self.concurrency is None or not self.is_load:
            if self.warmup:
                raise ValueError("warmup requests belong to a closed loop; give concurrency, or put a stage before")
            return self
        given = self._given("rate", "rates", "period", "duration", "arrival", "variation", "scale", "drain")
        if given:
            raise ValueError(f"with concurrency a request is sent when one finishes, {given[0]} contradicts that; "
                             f"remove {given[0]} or concurrency")  # fmt: skip
        if self.mix is not None and self.count is None:
            raise ValueError("concurrency needs a count; 10 for each of them is usual")
        return self

    @model_validator(mode="after")
    def _rising_rates(self) -> Self:
        if self.rates is None:
            if self.period is not None:
                raise ValueError("a period repeats rates; give rates like [[0 s, 2/s], [8 h, 10/s]]")
            return self
        times = [time for time, _ in self.rates]
        if times[0] != 0 or times != sorted(set(times)):
            raise ValueError("the times of rates do not ascend from 0; write them like [[0 s, 2/s], [10 min, 8/s]]")
        if self.period is not None and self.period <= times[-1]:
            raise ValueError("the period ends before the last of the rates begins; extend it")
        if not any(rate for _, rate in self.rates[slice(None) if self.period else slice(-1, None)]):
            raise ValueError("with these rates no request comes any more; end with a rate above zero, or give a period")
        return self

    @model_validator(mode="after")
    def _complete_mix(self) -> Self:
        if self.mix is None or self.concurrency is not None or not self.is_load:
            return self
        if self.arrival == "burst":
            if self._given("rate", "rates", "duration") or self.count is None:
                raise ValueError("burst arrivals have a count, and neither rate nor duration; give count alone")
            return self
        if (self.rate is None) == (self.rates is None):
            none = "a mix has no rate of its own; give one like rate: 10/s, or concurrency: 32"
            raise ValueError(none if self.rate is None else "both a rate and rates are given; give one of them")
        if (self.count is None) == (self.duration is None):
            both = "both a count and a duration are" if self.count else "neither a count nor a duration is"
            raise ValueError(f"{both} given with the mix; give one of them")
        fastest = self.rate or max(rate for _, rate in self.rates or ())
        if self.duration is not None and fastest * self.duration > MOST_REQUESTS:
            expected = f"rate times duration make {fastest * self.duration:.3g} requests"
            raise ValueError(f"{expected}, at most {MOST_REQUESTS} can be simulated; shorten the duration")
        return self


class RequestsSpec(LoadSpec):
    """What is sent: one load, or `stages`, each a load that begins when the one before it has drained and a `pause`
    has passed. What is said beside the stages, the loader writes into those that do not say otherwise."""

    stages: tuple[LoadSpec, ...] | None = None
    pause: Pause = 1.0
    #: What happens to a request that exceeds the model's context.
    too_long: TooLong = "error"

    @property
    def is_load(self) -> bool:
        return self.stages is None

    @property
    def loads(self) -> tuple[LoadSpec, ...]:
        return (self,) if self.stages is None else self.stages

    @model_validator(mode="after")
    def _some_stage(self) -> Self:
        if self.stages is None:
            if "pause" in self.model_fields_set:
                raise ValueError("a pause separates stages, and there are none; remove it")
        elif not self.stages:
            raise ValueError("stages is empty; list loads like [{rate: 2/s, count: 100}, {rate: 8/s, count: 400}]")
        return self


class ObjectiveSpec(Schema):
    """Limits on a request's latencies; it is good if it meets every one given."""

    ttft: Duration | None = None
    tpot: Duration | None = None
    e2e: Duration | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The limits given, in seconds, by metric."""
        values = {name: getattr(self, name) for name in ("ttft", "tpot", "e2e")}
        return {name: limit for name, limit in values.items() if limit is not None}


class SloSpec(ObjectiveSpec):
    """Service level objective; goodput counts the requests that meet every part given. `classes` of requests that have
    objectives of their own meet these instead."""

    classes: dict[str, ObjectiveSpec] = {}
