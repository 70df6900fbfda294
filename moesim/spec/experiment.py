"""An experiment: the configuration section of a paper."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from moesim.spec.base import Dtype, Schema
from moesim.spec.composition import CompositionSpec
from moesim.spec.hardware import MOST_PARTS, DeviceSpec, FabricSpec, SystemSpec
from moesim.spec.model import ModelSpec
from moesim.spec.offload import ExpertsSpec
from moesim.spec.placement import PlacementSpec, by_name
from moesim.spec.processors import Processors, ProcessorsSpec
from moesim.spec.routing import RoutingProfile, RoutingSpec
from moesim.spec.serving import EngineSpec, MixSpec, RequestsSpec, SloSpec
from moesim.spec.training import TrainingSpec
from moesim.spec.units import Bytes, Seconds

Degree = Annotated[int, Field(gt=0, le=MOST_PARTS)]


def _folder_name(value: str) -> str:
    """An experiment's name is that of its results folder."""
    if not value.strip() or value.strip(".") == "" or "/" in value or "\\" in value or not value.isprintable():
        raise ValueError(f"{value!r} cannot be the name of a results folder; use letters, digits, - and _")
    return value


FolderName = Annotated[str, Field(max_length=100), AfterValidator(_folder_name)]


class ParallelismSpec(Schema):
    """Ranks of one replica: tp x dp x pp devices, tp innermost, pp outermost.

    `ep` splits the experts over `ep` groups of the stage's tp x dp devices; what is left, tp x dp / ep, splits each
    expert's matrices. ep 1 keeps all experts on every DP rank (sharded by tp).
    """

    tp: Degree = 1
    pp: Degree = 1
    dp: Degree = 1
    ep: Degree = 1
    replicas: Degree = 1

    @property
    def stage_devices(self) -> int:
        return self.tp * self.dp

    @property
    def replica_devices(self) -> int:
        return self.tp * self.dp * self.pp

    @property
    def devices(self) -> int:
        return self.replica_devices * self.replicas

    @model_validator(mode="after")
    def _experts_fit(self) -> ParallelismSpec:
        if self.ep > self.stage_devices:
            raise ValueError(
                f"ep {self.ep} exceeds tp x dp = {self.stage_devices}; raise dp or tp, or use ep {self.stage_devices}"
            )
        if self.stage_devices % self.ep:
            raise ValueError(
                f"ep {self.ep} does not divide tp x dp = {self.stage_devices}; use one that does, or raise dp"
            )
        return self


class PoolSpec(Schema):
    """Replicas for one phase. `parallelism`: the experiment's unless it is given. `machine`: of its own, else it takes
    the next devices of the experiment's. `engine`: what differs from the experiment's; a name, or a mapping with
    `extends`, replaces that."""

    parallelism: ParallelismSpec | None = None
    machine: SystemSpec | None = None
    engine: EngineSpec | None = None


class TransferSpec(Schema):
    """How KV entries travel from the prefill pool to the decode pool. `when`: "end", as a whole when the prompt is
    complete; "layerwise", each layer's as soon as it is computed, so that only what computation does not hide is waited
    for. `fabric` joins the nodes of two machines. `latency` passes before each transfer (control messages)."""

    when: Literal["end", "layerwise"] = "end"
    fabric: str | None = None
    latency: Seconds = 0.0


class PoolsSpec(Schema):
    """Prefill and decode on devices of their own (Splitwise, ISCA 2024; DistServe, OSDI 2024)."""

    prefill: PoolSpec
    decode: PoolSpec
    transfer: TransferSpec = TransferSpec()

    @property
    def shares_machine(self) -> bool:
        return self.prefill.machine is None and self.decode.machine is None

    @model_validator(mode="after")
    def _both_or_none(self) -> PoolsSpec:
        if (self.prefill.machine is None) != (self.decode.machine is None):
            raise ValueError("one pool has a machine of its own and the other none; give both one, or neither")
        if self.shares_machine and self.transfer.fabric is not None:
            raise ValueError("both pools are on one machine, whose fabrics join them; remove transfer.fabric")
        return self


class DtypeSpec(Schema):
    """What tensors are stored in. Products run in the wider dtype of weights and activations."""

    weights: Dtype = "bf16"
    experts: Dtype | None = Field(default=None, description="expert weights; as weights where not given")
    attention: Dtype | None = Field(default=None, description="attention's projections; as weights where not given")
    activations: Dtype = "bf16"
    kv: Dtype = "bf16"


def _dtype(value: object) -> object:
    """`dtype: fp8` means fp8 weights and activations with a bf16 KV cache, as engines do; bf16 means bf16 all over."""
    if not isinstance(value, str):
        return value
    activations = value if value in ("bf16", "fp16", "fp8", "int8", "fp32") else "bf16"
    kv = value if value in ("fp16", "fp32") else "bf16"
    return {"weights": value, "activations": activations, "kv": kv}


class Library(Schema):
    """The descriptors that an experiment refers to, by name; filled by the loader."""

    devices: dict[str, DeviceSpec] = {}
    fabrics: dict[str, FabricSpec] = {}
    mixes: dict[str, MixSpec] = {}
    profiles: dict[str, RoutingProfile] = {}


class ExperimentSpec(Schema):
    """All that a run depends on. The loader replaces names (`model: qwen3-30b-a3b`) by the descriptors themselves."""

    name: FolderName = "experiment"
    description: str = ""
    model: ModelSpec
    machine: SystemSpec
    parallelism: ParallelismSpec = ParallelismSpec()
    #: What tensors are stored in; as the model is published where it is not given.
    dtype: Annotated[DtypeSpec | None, BeforeValidator(_dtype)] = None
    engine: EngineSpec
    #: Prefill and decode apart; machine, parallelism and engine are then those of pools that have none of their own.
    pools: PoolsSpec | None = None
    routing: RoutingSpec = RoutingSpec()
    placement: Annotated[PlacementSpec, BeforeValidator(by_name)] = PlacementSpec()
    #: Where the routed experts live if not on the devices; they do where it is not given.
    experts: ExpertsSpec | None = None
    #: Many models of this architecture, of which the devices hold a few.
    composition: CompositionSpec | None = None
    #: Which processor of a device computes what, where it has several.
    processors: Processors = ProcessorsSpec()
    #: What is simulated: requests that are served, or a training step.
    requests: RequestsSpec | None = None
    training: TrainingSpec | None = None
    router: str = "least-loaded"
    slo: SloSpec = SloSpec()
    seed: int = Field(default=0, ge=0)
    fidelity: Literal["plan", "op"] = "plan"
    #: How transfers share links: each has them to itself (bound), max-min fair (flow), or stored and forwarded (chunk).
    fabric: Literal["bound", "flow", "chunk"] = "bound"
    #: Largest piece that links store and forward, with fabric: chunk.
    chunk: Bytes = 65536.0
    #: Use the routing-dependent part of a step again for equal token counts, where the routing is stateless.
    plan_reuse: bool = True
    #: Price decode steps in blocks up to the next event that can change them.
    run_ahead: bool = True
    library: Library = Library()

    @model_validator(mode="after")
    def _serves_or_trains(self) -> ExperimentSpec:
        if self.training is None:
            if self.requests is None:
                raise ValueError("the key 'requests' is missing; add requests: ..., or training: ... to train")
            return self
        if self.requests is not None:
            raise ValueError("requests and training are two kinds of run; remove one of them")
        serving = ("pools", "experts", "composition", "processors", "router", "slo", "plan_reuse", "run_ahead")
        idle = [name for name in serving if name in self.model_fields_set]
        if idle:
            raise ValueError(f"{idle[0]} has no effect on a training step; remove it")
        return self

    def pool(self, name: Literal["prefill", "decode"]) -> ExperimentSpec:
        """One of the pools, as an experiment by itself."""
        assert self.pools is not None
        pool: PoolSpec = getattr(self.pools, name)
        return self.model_copy(
            update={
                "pools": None,
                "machine": pool.machine or self.machine,
                "engine": pool.engine or self.engine,
                "parallelism": pool.parallelism or self.parallelism,
            }
        )

    @model_validator(mode="after")
    def _pools_at_the_bound(self) -> ExperimentSpec:
        if self.pools is not None and self.fabric != "bound":
            raise ValueError(f"pools share links at the bound only, and fabric is {self.fabric}; remove fabric")
        return self

    @property
    def storage(self) -> DtypeSpec:
        """The dtypes of the run: as given, or as the model's weights are published."""
        if self.dtype is not None:
            return self.dtype
        published = DtypeSpec.model_validate(_dtype(self.model.dtype))
        return published.model_copy(update={"experts": self.model.expert_dtype})
