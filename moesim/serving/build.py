"""From an experiment to replicas that are ready to serve: machine, layout, memory, prices, queues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from moesim.engine.clock import Clock
from moesim.engine.recorder import StepRecorder
from moesim.engine.wires import Wires
from moesim.fabric.library import ExpertKernels
from moesim.fabric.machines import only_ports
from moesim.fabric.scaled import scaled_experts, scaled_fabric
from moesim.fabric.switch import Fabric
from moesim.hardware.machine import Machine, assemble
from moesim.kernels.calibrated import CalibratedKernels
from moesim.memory.kv_cache import PagedKVCache
from moesim.processors import make_mapping
from moesim.routing import make_routing
from moesim.routing.base import RoutingSource, StatelessRouting
from moesim.serving.detail import DetailKeeper
from moesim.serving.executed import executed_pricer
from moesim.serving.footprint import ReplicaMemory, replica_memory
from moesim.serving.interconnect import interconnect
from moesim.serving.live import LivePricer, LiveReplica, shared_wires
from moesim.serving.notes import independent_tokens, overlaps_shared_experts, shares_memory, without_effect
from moesim.serving.outside import Outside, advising, outside, outside_pricer
from moesim.serving.placing import Placed, placed
from moesim.serving.pools.base import Pool
from moesim.serving.replica import Replica
from moesim.serving.requests import Requests
from moesim.serving.scales import COLLECTIVE, NOMINAL, Scales, collective_scales, engine_scales, joint
from moesim.serving.scheduler import ContinuousBatching
from moesim.serving.sequences import RequestState
from moesim.serving.speculation import Acceptance
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.kernels import check_stacks
from moesim.spec.serving import EngineSpec
from moesim.step.communication import Communication
from moesim.step.exchange import Exchange
from moesim.step.layout import ReplicaLayout, replica_layouts
from moesim.step.pricing import StepPricer
from moesim.step.program import StageProgram, stage_program
from moesim.step.relieved import SentWeights
from moesim.step.routed import ExpertCosts
from moesim.step.sampled import Sampled
from moesim.step.single import SingleRankPricer
from moesim.step.tables import StepContext
from moesim.step.tabulated import Tabulated
from moesim.step.tokens import expert_places


@dataclass
class Deployment:
    """Replicas on a machine, with what the record needs of them."""

    machine: Machine
    context: StepContext
    kernels: CalibratedKernels
    fabric: Fabric
    dispatch: ExpertKernels | None
    replicas: list[Replica]
    memory: list[ReplicaMemory]
    recorder: StepRecorder
    keeper: DetailKeeper
    routing: RoutingSource | None
    notes: list[str]


@dataclass(frozen=True)
class Place:
    """Where a deployment stands: on a machine from its `device` on, with replicas numbered from `replica`; and the pool
    that it is, if any."""

    machine: Machine
    device: int = 0
    replica: int = 0
    pool: Pool | None = None


def deploy(
    spec: ExperimentSpec,
    requests: Requests,
    clock: Clock,
    streams: dict[str, np.random.SeedSequence],
    on_finish: Callable[[RequestState], None],
    scales: Scales = NOMINAL,
    place: Place | None = None,
) -> Deployment:
    """Put the replicas on their place, by default the whole machine; their kernels and libraries take `scales` times as
    long.

    Raises:
        MoesimError: the parallelism, the model or a request does not fit.
    """
    place = place or Place(assemble(spec.machine, spec.library))
    machine, pool = place.machine, place.pool
    kernel_scales = joint(engine_scales(spec.engine, machine), scales.kernels)
    check_stacks(spec.engine.kernels)
    priced = CalibratedKernels(spec.engine.kernels, kernel_scales, scales.launches, scales.relatives)
    mapping = make_mapping(spec.processors, machine)
    context = StepContext(spec.model, machine, spec.storage, spec.engine, priced, mapping)
    layouts = replica_layouts(spec.parallelism, spec.model, machine, place.device, spec.placement.redundant)
    joined = interconnect(spec, machine, layouts)
    wires = None if joined.topology is None else shared_wires(spec, clock, joined.topology)
    paces = collective_scales(spec.engine, machine, scales.collectives)
    launch = scales.launches.get(COLLECTIVE, 1.0)
    fabric, kernels = scaled_fabric(joined.fabric, paces, launch), scaled_experts(joined.kernels, paces, launch)
    routing = expert_routing(spec, streams["routing"])
    memories, pricers = [], []
    for index, layout in enumerate(layouts, place.replica):
        programs = [stage_program(spec.model, layout, stage, spec.engine) for stage in range(layout.pp)]
        elsewhere = outside(spec, context, layout, programs)
        where = None if routing is None else placed(spec, layout, machine, routing)
        beyond = None if elsewhere is None else elsewhere.beyond
        with advising(elsewhere):
            memory = replica_memory(context, layout, programs, None if where is None else where.held, beyond)
        _check_requests(requests, memory, spec, pool)
        memories.append(memory)
        pricers.append(
            _pricer(spec, context, layout, programs, fabric, kernels, where, streams["draws"], index, elsewhere)
        )
    recorder, keeper = StepRecorder(), DetailKeeper()
    replicas = [
        _replica(spec, number, pricer, memory, requests, clock, (recorder, keeper), streams, on_finish, pool, wires)
        for number, (pricer, memory) in enumerate(zip(pricers, memories, strict=True), place.replica)
    ]
    notes = [*joined.notes, *_notes(spec, machine, routing, whole=pool is None)]
    return Deployment(machine, context, priced, fabric, kernels, replicas, memories, recorder, keeper, routing, notes)


def redeploy(
    before: Deployment,
    spec: ExperimentSpec,
    requests: Requests,
    clock: Clock,
    streams: dict[str, np.random.SeedSequence],
    on_finish: Callable[[RequestState], None],
) -> Deployment:
    """The same replicas without their past, for other requests: what was tabulated and drawn is used again.

    Args:
        before: of an experiment that differs from `spec` in its requests alone, at the bound; it is of no use any more.

    Raises:
        MoesimError: a request does not fit.
    """
    recorder, keeper = StepRecorder(), DetailKeeper()
    replicas = []
    for old, memory in zip(before.replicas, before.memory, strict=True):
        _check_requests(requests, memory, spec, None)
        old.pricer.clear()
        replicas.append(
            _replica(
                spec, old.index, old.pricer, memory, requests, clock, (recorder, keeper), streams, on_finish, None, None
            )
        )  # fmt: skip
    return replace(before, replicas=replicas, recorder=recorder, keeper=keeper)


def _replica(
    spec: ExperimentSpec,
    number: int,
    pricer: StepPricer,
    memory: ReplicaMemory,
    requests: Requests,
    clock: Clock,
    keeps: tuple[StepRecorder, DetailKeeper],
    streams: dict[str, np.random.SeedSequence],
    on_finish: Callable[[RequestState], None],
    pool: Pool | None,
    wires: Wires | None,
) -> Replica:
    """A replica with empty queues and caches."""
    engine, (recorder, keeper) = spec.engine, keeps
    caches = [PagedKVCache(memory.blocks, engine.block_size, engine.prefix_caching) for _ in range(pricer.layout.dp)]
    acceptance = _acceptance(engine, streams)
    whole = pool is not None and pool.prefills
    scheduler = ContinuousBatching(engine, caches, requests.block_tokens, requests.reacts, acceptance, whole)
    make = Replica if wires is None else partial(LiveReplica, wires=wires)
    return make(
        number,
        clock,
        scheduler,
        pricer,
        recorder,
        run_ahead=spec.run_ahead,
        keep=keeper.offer,
        on_finish=on_finish,
        pool=pool,
    )


def _acceptance(engine: EngineSpec, streams: dict[str, np.random.SeedSequence]) -> Acceptance | None:
    return Acceptance(engine.speculation, streams["drafts"]) if engine.speculation is not None else None


def expert_routing(spec: ExperimentSpec, stream: np.random.SeedSequence) -> RoutingSource | None:
    """Where the tokens of the experiment's model go; None for a dense model."""
    moe = spec.model.moe
    if moe is None:
        return None
    layers = sum(moe.holds(layer) for layer in range(spec.model.layers))
    layers += spec.engine.draft_layers if moe.holds(spec.model.layers - 1) else 0
    profile = next(iter(spec.library.profiles.values()), None)
    return make_routing(spec.routing, profile, layers, moe.experts, moe.top_k, stream)


def _pricer(
    spec: ExperimentSpec,
    context: StepContext,
    layout: ReplicaLayout,
    programs: list[StageProgram],
    fabric: Fabric,
    kernels: ExpertKernels | None,
    where: Placed | None,
    stream: np.random.SeedSequence,
    index: int,
    elsewhere: Outside | None,
) -> StepPricer:
    communication = Communication(context, layout, fabric, kernels)
    executed = _executes(spec)
    key = int(
        np.random.SeedSequence(stream.entropy, spawn_key=(*stream.spawn_key, index)).generate_state(1, np.uint64)[0]
    )
    make: Callable[..., StepPricer] = StepPricer
    if elsewhere is not None:
        make = outside_pricer(spec, elsewhere, None if where is None else where.routing, key)
    elif executed:
        make = executed_pricer(spec.fidelity) if spec.fabric == "bound" else LivePricer
    if where is None:
        return _made(make, context, layout, programs, communication, None, None)
    routing, relief = where.routing, where.relief
    sent = None if relief is None else partial(SentWeights, relief, communication, programs)
    costs = ExpertCosts(context, layout, programs, where.slots, sent)
    assert spec.model.moe is not None
    limited = isinstance(routing, StatelessRouting)
    places = expert_places(where.slots, layout.expert_ranks, spec.model.moe, limited)
    places = places._replace(relief=relief, hops=where.hops)
    exchange = Exchange(communication, programs, places)
    reuse = spec.plan_reuse and not executed and not (exchange.over_links and exchange.all_to_all)
    if reuse and relief is None and isinstance(routing, StatelessRouting):
        routed: Sampled | Tabulated = Tabulated(costs, exchange, routing, key, context.token_limit * layout.dp)
    else:
        routed = Sampled(costs, exchange, routing, key)
    return _made(make, context, layout, programs, communication, routed, costs)


def _made(
    make: Callable[..., StepPricer],
    context: StepContext,
    layout: ReplicaLayout,
    programs: list[StageProgram],
    communication: Communication,
    routed: Sampled | Tabulated | None,
    costs: ExpertCosts | None,
) -> StepPricer:
    if make is StepPricer and SingleRankPricer.suits(context, layout, programs, routed):
        make = SingleRankPricer
    return make(context, layout, programs, communication, routed, costs)


def _executes(spec: ExperimentSpec) -> bool:
    """Whether every step is executed by itself."""
    engine, executed = spec.engine, spec.experts is not None or spec.fidelity == "op" or spec.fabric != "bound"
    beside = overlaps_shared_experts(spec) or engine.micro_batches > 1 or engine.overlap is not None
    return executed or beside or shares_memory(spec)


def _check_requests(requests: Requests, memory: ReplicaMemory, spec: ExperimentSpec, pool: Pool | None) -> None:
    """Every request must fit into an empty KV cache, or it would wait for ever."""
    prompts = pool is not None and pool.prefills
    need = requests.input_tokens + (0 if prompts else requests.output_tokens + spec.engine.drafts)
    if len(need) and int(need.max()) > memory.blocks * spec.engine.block_size:
        worst = int(need.argmax())
        room = memory.blocks * spec.engine.block_size
        where = "" if pool is None else f" of the {pool.name} pool"
        raise requests.error(
            worst,
            f"{need[worst]} tokens need KV cache, a DP rank{where} has room for {room}",
            "use more or larger devices, a higher tp, narrower weights or KV dtype, or shorter requests"
            if spec.engine.kv_blocks is None
            else "raise kv_blocks of the engine, or use shorter requests",
        )


def _notes(spec: ExperimentSpec, machine: Machine, routing: RoutingSource | None, whole: bool) -> list[str]:
    notes = []
    idle = len(machine.devices) - spec.parallelism.devices
    if idle and whole:
        notes.append(f"{idle} of {len(machine.devices)} devices take no part in the parallelism and only idle")
    if routing is not None:
        notes.append(f"routing: {routing.description}")
        if spec.plan_reuse and not only_ports(machine) and spec.engine.transport == "alltoall":
            notes.append("plan reuse is off: an all-to-all over links depends on who sends to whom")
        if not routing.stateless:
            notes.append("plan reuse is off: the routing has a state")
    if _executes(spec):
        why = "fidelity is op" if spec.fidelity == "op" else "computation and communication run side by side"
        why = why if spec.fabric == "bound" else f"fabric is {spec.fabric}"
        notes.extend(independent_tokens(spec))
        why = why if spec.experts is None else "every step changes which experts the devices hold"
        notes.append(f"plan reuse and run-ahead are off, every step is executed by itself: {why}")
    return [*notes, *without_effect(spec)]
