"""Everything about a training step that is decided before it is priced: machine, layout, model parts, routing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from moesim.fabric.library import library_fabric
from moesim.fabric.machines import machine_fabric
from moesim.fabric.switch import Fabric
from moesim.hardware.machine import Device, Machine, assemble
from moesim.kernels.base import Calls
from moesim.kernels.calibrated import CalibratedKernels
from moesim.model.operators import Operator
from moesim.placement import Relief, Situation, Slots, make_placement, place
from moesim.routing import make_routing
from moesim.routing.base import RoutingSource
from moesim.routing.clustered import coactivation
from moesim.spec.base import DTYPE_BYTES
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.kernels import check_stacks
from moesim.spec.training import TrainingSpec
from moesim.step.program import StageProgram, stage_program
from moesim.step.sharding import weight_dtype
from moesim.training.layout import TrainingLayout, training_layout
from moesim.training.order import check_complete
from moesim.training.pieces import Kernel
from moesim.training.schedules import SCHEDULES, Listed, Order, PipelineSchedule
from moesim.training.tokens import draw


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """A training step, ready to be priced.

    kernels: prices calls on `near[device]`. programs: of each part of the model. order: of every stage's passes.
    slots: of the experts of every MoE layer, one each; None for dense models.
    """

    spec: ExperimentSpec
    training: TrainingSpec
    machine: Machine
    layout: TrainingLayout
    kernels: CalibratedKernels
    fabric: Fabric
    programs: tuple[StageProgram, ...]
    schedule: PipelineSchedule
    order: Order
    routing: RoutingSource | None
    slots: Slots | None
    notes: tuple[str, ...]

    @property
    def sequences(self) -> int:
        """Of a micro-batch on one data-parallel rank."""
        return self.training.batch // (self.layout.ranks * self.training.micro_batches)

    @property
    def tokens(self) -> int:
        """Of a micro-batch on one data-parallel rank."""
        return self.sequences * self.training.sequence

    @cached_property
    def near(self) -> tuple[Device, ...]:
        """The machine's devices as kernels see them: where weights are streamed, without the tiers from these on."""
        stream = self.training.stream
        if stream is None:
            return self.machine.devices
        return tuple(_inner(device, stream.tier) for device in self.machine.devices)

    @cached_property
    def moe_layers(self) -> list[int]:
        """Model-wide numbers of the MoE layers; the routing's and the placement's layers, in order."""
        moe = self.spec.model.moe
        return [] if moe is None else [layer for layer in range(self.spec.model.layers) if moe.holds(layer)]


def _inner(device: Device, tier: str) -> Device:
    names = [each.tier for each in device.tiers]
    if tier not in names or names.index(tier) == 0:
        has = ", ".join(names)
        raise MoesimError(
            f"{device.spec.name} has no tiers before {tier!r} to stream weights into; from the nearest on it has {has}",
            key="training.stream.tier",
            fix="name an outer tier of every device, or leave stream out",
        )
    return replace(device, tiers=device.tiers[: names.index(tier)])


def make_plan(spec: ExperimentSpec) -> TrainingPlan:
    """Raises MoesimError where the experiment cannot run: what is wrong, and what would fix it."""
    training = spec.training
    assert training is not None
    _check_alone(spec)
    machine = assemble(spec.machine, spec.library)
    layout = training_layout(spec, training, machine)
    schedule = Listed(training.order) if training.order else SCHEDULES.make(training.schedule)
    order = schedule.order(layout.stages, training.micro_batches, training.chunks)
    check_complete(order, training.micro_batches, training.chunks)
    check_stacks(spec.engine.kernels)
    # Tokens travel all-to-all and shared experts run in line: the other ways are those of serving engines.
    engine = spec.engine.model_copy(update={"transport": "alltoall", "overlap_shared_experts": False})
    parts = layout.of_parts()
    programs = tuple(stage_program(spec.model, parts, part, engine) for part in range(layout.parts))
    fabric, said = library_fabric(machine, machine_fabric(machine), spec.engine.collectives, machine.nodes == 1)
    routing = _routing(spec)
    slots = None if routing is None else _slots(spec, routing, machine, layout)
    notes = [said] if len(machine.devices) > 1 and spec.engine.collectives else []
    if routing is not None:
        notes.append(f"routing: {routing.description}")
    idle = len(machine.devices) - sum(len(layout.all_lanes(stage)) for stage in range(layout.stages))
    if idle:
        notes.append(f"{idle} of {len(machine.devices)} devices take no part in the parallelism and only idle")
    return TrainingPlan(
        spec, training, machine, layout, CalibratedKernels(spec.engine.kernels), fabric, programs, schedule, order,
        routing, slots, tuple(notes),
    )  # fmt: skip


def _check_alone(spec: ExperimentSpec) -> None:
    """Raises MoesimError where the experiment says something that only serving runs do."""
    if spec.fabric != "bound":
        raise MoesimError(
            f"a training step is not simulated with fabric: {spec.fabric}", key="fabric", fix="leave fabric out"
        )
    engine = spec.engine
    serving = {
        "overlap": engine.overlap is not None,
        "micro_batches": engine.micro_batches > 1,
        "speculation": engine.speculation is not None,
    }
    for name in (name for name, given in serving.items() if given):
        fix = "give training.micro_batches instead" if name == "micro_batches" else f"remove {name}, or set it to null"
        raise MoesimError(f"engine.{name} has no effect on a training step", key=f"engine.{name}", fix=fix)
    if isinstance(make_placement(spec.placement.policy, spec.placement.options), Relief):
        raise MoesimError(
            f"placement {spec.placement.policy} moves tokens of serving steps and does not train",
            key="placement",
            fix="choose a placement that keeps tokens with their experts, such as contiguous",
        )


def _routing(spec: ExperimentSpec) -> RoutingSource | None:
    moe = spec.model.moe
    if moe is None:
        return None
    layers = sum(moe.holds(layer) for layer in range(spec.model.layers))
    profile = next(iter(spec.library.profiles.values()), None)
    stream = np.random.SeedSequence(spec.seed).spawn(2)[1]  # that of a serving run's routing
    return make_routing(spec.routing, profile, layers, moe.experts, moe.top_k, stream)


#: Tokens from which a placement learns which experts are chosen together, not those of the step.
LEARNED_FROM = 4096


def _slots(spec: ExperimentSpec, routing: RoutingSource, machine: Machine, layout: TrainingLayout) -> Slots:
    """Where the experts are."""
    lanes = layout.experts[0, 0, :, 0]
    popularity = getattr(routing, "popularity", None)
    drawn = draw(routing, 1, 1, LEARNED_FROM, -1, [spec.seed, 3]) if spec.placement.policy == "clustered" else None
    situation = Situation(
        layers=routing.layers,
        experts=routing.experts,
        ranks=layout.expert_ranks,
        redundant=spec.placement.redundant,
        loads=np.ones((routing.layers, routing.experts)) if popularity is None else popularity,
        nodes=np.array([machine.devices[lane].node for lane in lanes]),
        transitions=getattr(routing, "transitions", None),
        together=None if drawn is None or not drawn.picks.size else coactivation(drawn),
        sharers=max(tier.shared_by for tier in machine.devices[int(lanes[0])].tiers),
    )
    slots = place(make_placement(spec.placement.policy, spec.placement.options), situation)
    if slots.replicated:
        raise MoesimError(
            "experts with replicas are not trained", key="placement", fix="choose a placement without replicas"
        )
    return slots


def priced(plan: TrainingPlan, calls: Calls, device: Device) -> Kernel:
    """What calls cost on a device, and the bytes that they move in its memory."""
    return Kernel(plan.kernels.cost(calls, device), calls.flops, calls.weight_bytes + calls.data_bytes)


def gradient_ratio(plan: TrainingPlan, operator: Operator) -> float:
    """Bytes of a gradient per byte of the operator's weights."""
    return DTYPE_BYTES[plan.training.gradients] / DTYPE_BYTES[weight_dtype(operator, plan.spec.storage)]
