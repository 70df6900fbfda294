"""From a finished run to its record: columns of requests, steps, devices and operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.engine.record import Column, RunRecord, Totals
from moesim.fabric.library import CalibratedFabric
from moesim.fabric.transfer import PICOSECONDS
from moesim.serving.build import Deployment
from moesim.serving.composed import ComposedPricer
from moesim.serving.detail import timeline_steps
from moesim.serving.footprint import ReplicaMemory, weight_bytes
from moesim.serving.notes import kernel_notes, unused_scales
from moesim.serving.offloaded import OffloadedPricer
from moesim.serving.replica import Replica
from moesim.serving.requests import Requests
from moesim.serving.sequences import RequestState
from moesim.spec.base import DTYPE_BYTES
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.model import ModelSpec
from moesim.spec.serving import EngineSpec
from moesim.step.graph import FloatArray
from moesim.step.ledger import BOUNDS, Ledger, settle
from moesim.step.routed import RoutedTotals
from moesim.step.sharding import products_dtype

_LANE_COLUMNS = (
    "compute_busy", "network_busy", "flops", "memory_bytes", "sent_bytes", "energy_compute", "energy_memory",
    "energy_link",
)  # fmt: skip


def run_record(
    spec: ExperimentSpec,
    requests: Requests,
    states: list[RequestState],
    deployment: Deployment,
    end: int,
    partial: bool,
) -> RunRecord:
    """Settle all accounts. `end` in picoseconds."""
    seconds = end / PICOSECONDS
    ledgers = [
        settle(replica.pricer.accounts, replica.pricer.communication, replica.pricer.experts)
        for replica in deployment.replicas
    ]
    iterations = deployment.recorder.columns()
    capacity = np.array([m.blocks * spec.engine.block_size * r.scheduler.ranks for m, r in _pairs(deployment)])
    replica = iterations["replica"].astype(np.int64) - deployment.replicas[0].index
    iterations["kv_used"] = iterations.pop("kv_tokens") / capacity[replica]
    devices = _device_columns(deployment, ledgers, seconds)
    return RunRecord(
        requests=request_columns(states, deployment.replicas),
        iterations=iterations,
        itl=deployment.recorder.gaps(),
        devices=devices,
        operators=_operator_columns(ledgers),
        links=_link_columns(ledgers),
        expert_tokens=_expert_tokens(deployment),
        moe_layers=_moe_layers(deployment),
        totals=_totals(spec, requests, deployment, devices, ledgers),
        end=seconds,
        partial=partial,
        timeline=lambda: timeline_steps(deployment.keeper, deployment.replicas),
        notes=_notes(spec.engine, requests, deployment),
        kernels={
            device: {each.kind: " ".join(filter(None, (each.device, each.stack))) or "datasheet" for each in sources}
            for device, sources in deployment.kernels.sources().items()
        },
    )


def _notes(engine: EngineSpec, requests: Requests, deployment: Deployment) -> list[str]:
    kernels = deployment.kernels
    communicates = any(replica.pricer.layout.devices.size > 1 for replica in deployment.replicas)
    measured = isinstance(deployment.fabric, CalibratedFabric) or deployment.dispatch is not None
    scales = unused_scales(engine, deployment.machine, kernels, communicates, measured)
    return [*kernel_notes(kernels.sources()), *deployment.notes, *scales, *requests.notes]


def _pairs(deployment: Deployment) -> list[tuple[ReplicaMemory, Replica]]:
    return list(zip(deployment.memory, deployment.replicas, strict=True))


def request_columns(states: list[RequestState], replicas: Sequence[Replica]) -> dict[str, Column]:
    """Columns of the requests that were sent, which these replicas serve."""
    left = {
        state.request: int(left)
        for replica in replicas
        for state, left in zip(replica.scheduler.running.states, replica.scheduler.running.left, strict=True)
    }
    columns: dict[str, Column] = {
        name: np.array([getattr(state, name) for state in states], dtype=np.int64)
        for name in ("request", "replica", "rank", "input_tokens", "output_tokens", "preemptions")
    }
    columns["cached_tokens"] = np.array([state.cached for state in states], dtype=np.int64)
    columns["generated_tokens"] = np.array(
        [s.output_tokens - left[s.request] if s.request in left else s.generated for s in states], dtype=np.int64
    )
    for name in ("arrival", "first_scheduled", "first_token", "finish"):
        times = np.array([getattr(state, name) for state in states], dtype=np.float64)
        columns[name] = np.where(times < 0, np.nan, times / PICOSECONDS)
    return columns


def _device_columns(deployment: Deployment, ledgers: list[Ledger], seconds: float) -> dict[str, Column]:
    machine, products = deployment.machine, products_dtype(deployment.context.dtype)
    count = len(machine.devices)
    columns: dict[str, Column] = {
        "device": np.arange(count),
        "name": np.array([device.name for device in machine.devices]),
        "descriptor": np.array([device.spec.name for device in machine.devices]),
        **{name: np.full(count, -1, dtype=np.int64) for name in ("replica", "dp_rank", "stage")},
        **{name: np.zeros(count) for name in (*_LANE_COLUMNS, "weight_bytes", "kv_bytes")},
        "energy_idle": np.array([device.idle_power * seconds for device in machine.devices]),
        "capacity_bytes": np.array([device.memory.capacity for device in machine.devices]),
        "peak_flops": np.array([device.peaks.get(products, 0.0) for device in machine.devices]),
        "peak_bandwidth": np.array([device.memory.compute_bandwidth for device in machine.devices]),
    }
    for (memory, replica), ledger in zip(_pairs(deployment), ledgers, strict=True):
        layout = replica.pricer.layout
        for stage, use in enumerate(ledger.lanes):
            at = layout.devices[stage]
            columns["replica"][at], columns["stage"][at] = replica.index, stage
            columns["dp_rank"][at] = np.arange(layout.dp)[:, None]
            for name in _LANE_COLUMNS:
                columns[name][at] = getattr(use, name)
            columns["weight_bytes"][at] = memory.footprints[stage].weights
            columns["kv_bytes"][at] = memory.footprints[stage].kv
    return columns


def _operator_columns(ledgers: list[Ledger]) -> dict[str, Column]:
    """Critical-path seconds by row, summed over replicas, largest first."""
    sums: dict[str, tuple[str, FloatArray]] = {}
    for ledger in ledgers:
        for name, (kind, bounds) in ledger.critical.items():
            before = sums.get(name, (kind, np.zeros(len(BOUNDS))))[1]
            sums[name] = (kind, before + bounds)
    names = sorted(sums, key=lambda name: (-float(sums[name][1].sum()), name))
    table = np.array([sums[name][1] for name in names]).reshape(len(names), len(BOUNDS))
    return {
        "name": np.array(names),
        "kind": np.array([sums[name][0] for name in names]),
        "seconds": table.sum(axis=1),
        **{f"{bound}_seconds": table[:, i] for i, bound in enumerate(BOUNDS)},
        "least_seconds": np.array([_least(ledgers, name) for name in names]),
        "level": np.array([_level(ledgers, name) for name in names], dtype=str),
        **_work(ledgers, names),
    }


def _least(ledgers: list[Ledger], name: str) -> float:
    """Seconds that a kind of transfer takes at least, over all replicas; NaN where it is none."""
    parts = [ledger.least(name) for ledger in ledgers if name in ledger.traffic]
    return sum(parts) if parts else np.nan


def _work(ledgers: list[Ledger], names: list[str]) -> dict[str, Column]:
    """Seconds, FLOP and bytes of each operator over all devices; NaN of what does not compute."""
    none = np.full(3, np.nan)
    sums = [[ledger.work[name] for ledger in ledgers if name in ledger.work] for name in names]
    table = np.array([np.sum(parts, axis=0) if parts else none for parts in sums]).reshape(len(names), 3)
    return {name: table[:, i] for i, name in enumerate(("device_seconds", "flops", "memory_bytes"))}


def _level(ledgers: list[Ledger], name: str) -> str:
    """The part of the machine whose links a kind of transfer keeps busy the longest; empty where it is none."""
    traffic = [ledger.traffic[name] for ledger in ledgers if name in ledger.traffic]
    return max(traffic, key=lambda each: each.seconds).level if traffic else ""


def _link_columns(ledgers: list[Ledger]) -> dict[str, Column]:
    """Bytes of all transfers over each link."""
    links = ledgers[0].links
    loads = [traffic.load for ledger in ledgers for traffic in ledger.traffic.values()]
    there = links.bandwidth > 0
    return {
        "name": np.array(links.name)[there],
        "level": np.array(links.level)[there],
        "bandwidth": links.bandwidth[there],
        "bytes": np.sum([np.zeros(len(there)), *loads], axis=0)[there],
    }


def _moe_layers(deployment: Deployment) -> tuple[int, ...]:
    return tuple(layer for program in deployment.replicas[0].pricer.programs for layer in program.moe_layers)


def _routed(deployment: Deployment) -> list[RoutedTotals]:
    return [r.pricer.routed.totals() for r in deployment.replicas if r.pricer.routed is not None]


def _expert_tokens(deployment: Deployment) -> FloatArray:
    """[MoE layers, experts] tokens of all replicas of the deployment, and of all replicas of an expert."""
    pricers = [replica.pricer for replica in deployment.replicas]
    found = [
        pricer.experts.by_expert(pricer.routed.totals().expert_tokens)
        for pricer in pricers
        if pricer.routed is not None and pricer.experts is not None
    ]
    return sum(found[1:], found[0]) if found else np.zeros((0, 0))


def _totals(
    spec: ExperimentSpec,
    requests: Requests,
    deployment: Deployment,
    devices: dict[str, Column],
    ledgers: list[Ledger],
) -> Totals:
    machine, model, dtype = deployment.machine, spec.model, spec.storage
    used = devices["replica"] >= 0
    totals = Totals(
        busy=sum(r.pricer.accounts.busy for r in deployment.replicas) / PICOSECONDS,
        step_count=sum(r.pricer.accounts.steps for r in deployment.replicas),
        prefix_hit_tokens=sum(c.hit_tokens for r in deployment.replicas for c in r.scheduler.caches),
        preemptions=sum(r.scheduler.preemptions for r in deployment.replicas),
        dropped=requests.dropped,
        clipped=requests.clipped,
        price=machine.price,
        chassis_power=machine.standing_power,
        hidden=sum(ledger.hidden for ledger in ledgers),
        sharing=sum(ledger.sharing for ledger in ledgers),
        peak_flops=float(devices["peak_flops"][used].sum()),
        peak_bandwidth=float(devices["peak_bandwidth"][used].sum()),
    )
    for replica in deployment.replicas:
        _add_offload(totals, replica)
    elements = weight_bytes(model, dtype)
    for replica in deployment.replicas:
        _add_work(totals, replica, model, elements, DTYPE_BYTES[dtype.kv])
    routed = _routed(deployment)
    weight = sum(t.weight for t in routed)
    if weight:
        totals.rank_imbalance = sum(t.rank_imbalance for t in routed) / weight
        totals.expert_imbalance = sum(t.expert_imbalance for t in routed) / weight
    return totals


def _add_offload(totals: Totals, replica: Replica) -> None:
    use = replica.pricer.accounts.offload
    if use is None or not isinstance(replica.pricer, OffloadedPricer | ComposedPricer):
        return
    totals.expert_requests += use.requests
    totals.expert_hits += use.hits
    totals.expert_fetched_ahead += use.fetched_ahead
    totals.expert_on_host += use.on_host
    totals.expert_copied += use.copied * replica.pricer.copy_bytes


def _add_work(totals: Totals, replica: Replica, model: ModelSpec, elements: dict[str, float], kv_bytes: float) -> None:
    """MoE-CAP's work of a replica: FLOPs of real tokens, bytes of weights and KV cache, each weight once a step."""
    accounts = replica.pricer.accounts
    sizes = np.arange(accounts.context.token_limit + 1)
    tokens = float((accounts.stages[0].tokens @ sizes).sum()) - accounts.dummies - accounts.padding
    samples = float((accounts.stages[-1].samples @ sizes).sum()) - accounts.dummies
    flops = kv = 0.0
    for account in accounts.stages:
        flops += sum(op.flops_per_token * times for op, times in account.costs.operators.items()) * tokens
        flops += sum(op.flops_per_token for op in account.costs.per_sequence) * account.costs.total("heads") * samples
        for (reach, _), sums in sorted(account.attention.items(), key=lambda each: each[0]):
            layers = account.costs.total(f"{reach}_attention")
            flops += float(sums[1].sum()) * layers
            kv += float(sums[2].sum()) * layers
    fixed = accounts.steps * (sum(elements.values()) - elements.get("experts", 0.0) - elements["lookup"])
    totals.sparse_bytes += fixed + kv * kv_bytes
    totals.dense_bytes += fixed + kv * kv_bytes
    totals.sparse_flops += flops
    totals.dense_flops += flops
    if replica.pricer.routed is not None and model.moe is not None and replica.pricer.experts is not None:
        experts, routed = replica.pricer.experts, replica.pricer.routed.totals()
        pair = experts.operator.flops_per_token
        one = elements["experts"] / (experts.layers * experts.experts)
        totals.sparse_flops += tokens * experts.layers * model.moe.top_k * pair
        totals.dense_flops += tokens * experts.layers * experts.experts * pair
        totals.sparse_bytes += float(routed.touched.sum()) * one
        totals.dense_bytes += accounts.steps * elements["experts"]
