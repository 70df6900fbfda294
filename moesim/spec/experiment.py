"""An experiment: the configuration section of a paper."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from moesim.spec.base import Dtype, Schema
from moesim.spec.composition import CompositionSpec
from moesim.spec.hardware import MOST_PARTS, DeviceSpec, FabricSpec, SystemSpec
from moesim.spec.model import ModelSpec
from moesim.spec.offload import ExpertsSpec
from moesim.spec.processors import Processors, ProcessorsSpec
from moesim.spec.routing import RoutingProfile, RoutingSpec
from moesim.spec.serving import EngineSpec, MixSpec, RequestsSpec, SloSpec
from moesim.spec.units import Bytes

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


class DtypeSpec(Schema):
    """What tensors are stored in. Products run in the wider dtype of weights and activations."""

    weights: Dtype = "bf16"
    experts: Dtype | None = Field(default=None, description="expert weights; as weights where not given")
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
    routing: RoutingSpec = RoutingSpec()
    placement: str = "contiguous"
    #: Where the routed experts live if not on the devices; they do where it is not given.
    experts: ExpertsSpec | None = None
    #: Many models of this architecture, of which the devices hold a few.
    composition: CompositionSpec | None = None
    #: Which processor of a device computes what, where it has several.
    processors: Processors = ProcessorsSpec()
    requests: RequestsSpec
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

    @property
    def storage(self) -> DtypeSpec:
        """The dtypes of the run: as given, or as the model's weights are published."""
        if self.dtype is not None:
            return self.dtype
        published = DtypeSpec.model_validate(_dtype(self.model.dtype))
        return published.model_copy(update={"experts": self.model.expert_dtype})
