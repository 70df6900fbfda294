"""Experts outside a device's memory: where from, how fast, and how many fit on the device."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from moesim.hardware.machine import Device, Machine
from moesim.memory.experts import CACHES, PREFETCHES, SCHEDULINGS, CachePolicy, ExpertScheduling, PrefetchPolicy
from moesim.memory.experts.residency import Residency, initial
from moesim.model.operators import Operator
from moesim.spec.base import DTYPE_BYTES
from moesim.spec.errors import MoesimError
from moesim.spec.offload import ExpertsSpec
from moesim.step.graph import FloatArray
from moesim.step.layout import ReplicaLayout
from moesim.step.program import StageProgram
from moesim.step.sharding import ExpertShare, weight_dtype

if TYPE_CHECKING:
    from moesim.step.tables import StepContext


@dataclass(frozen=True)
class Source:
    """The tier that holds all experts. owner: the device itself, its host or a drive; rate: bytes per second of a copy
    to the device, latency: seconds before its first byte."""

    owner: Device
    capacity: float
    rate: float
    latency: float


def find_source(machine: Machine, device: Device, tier: str) -> Source:
    """The tier called `tier` that is nearest to the device: its own, or that of a host or drive of its node.

    Raises:
        MoesimError: there is none, it is the device's own memory, or no link leads from it to the device.
    """
    if tier == device.memory.tier:
        others = ", ".join(each.tier for each in device.tiers if each is not device.memory) or "it has no other tier"
        raise MoesimError(
            f"{tier} is where {device.spec.name} holds everything else, experts beside it need another tier",
            key="experts.tier",
            fix=f"leave experts out, or choose a tier of its host (such as ddr) or its own ({others})",
        )
    own = next((each for each in device.tiers if each.tier == tier), None)
    if own is not None:
        return Source(device, own.capacity, min(own.bandwidth, device.memory.write_bandwidth), own.latency)
    beside = [each for each in (*machine.hosts, *machine.storage) if each.node == device.node]
    holders = [each for each in beside if any(other.tier == tier for other in each.tiers)]
    for holder in holders:
        if machine.reachable(holder, device):
            return _along_links(machine, holder, device, tier)
    if holders:
        raise MoesimError(
            f"no link leads from the {tier} of {holders[0].name} to {device.name}",
            key="experts.tier",
            fix=f"give {device.spec.name} a port that {holders[0].spec.name} has ({', '.join(holders[0].spec.links)})",
        )
    raise MoesimError(
        f"neither {device.spec.name} nor a host or drive of its node has a memory tier {tier}",
        key="experts.tier",
        fix="add machine.host (such as xeon-8480-plus: 1), or choose a tier that the machine has",
    )


def _along_links(machine: Machine, holder: Device, device: Device, tier: str) -> Source:
    """A copy over the shortest way, as fast as its slowest link."""
    import networkx as nx

    path = nx.shortest_path(machine.graph, f"{holder.name}/{tier}", device.name)
    links = [machine.graph.edges[u, v] for u, v in pairwise(path)]
    rate = min(min(float(link["bandwidth"]) for link in links), device.memory.write_bandwidth)
    return Source(holder, holder.tier(tier).capacity, rate, sum(float(link["latency"]) for link in links))


class Offload:
    """The experts of one replica: policies, where they come from, and how many stay.

    Args:
        operator: the routed experts of one layer. layers: MoE layers of the model.

    Raises:
        MoesimError: a policy is unknown, the tier holds too little or cannot be reached, the host computes nothing, or
            the parallelism divides experts.
    """

    def __init__(self, spec: ExpertsSpec, context: StepContext, layout: ReplicaLayout, operator: Operator) -> None:
        moe = context.model.moe
        assert moe is not None
        if layout.dp > 1 or layout.expert_ranks > 1:
            raise MoesimError(
                "experts outside the devices' memory are not divided among ranks yet",
                key="experts",
                fix="use ep 1 (tp, pp and replicas may be larger), or leave experts out",
            )
        self.spec, self.experts = spec, moe.experts
        self.cache: CachePolicy = CACHES.make(spec.cache.policy, spec.cache, moe.top_k)
        self.prefetch: PrefetchPolicy = PREFETCHES.make(spec.prefetch.policy, spec.prefetch)
        self.scheduling: ExpertScheduling = SCHEDULINGS.make(spec.scheduling)
        self.prefill: ExpertScheduling = SCHEDULINGS.make(spec.prefill_scheduling or spec.scheduling)
        self.device = context.machine.devices[int(layout.devices.flat[0])]
        self.source = find_source(context.machine, self.device, spec.tier)
        self.slots = round(spec.cache.capacity * moe.experts)
        self.staged = min(self.prefetch.staged(moe.experts, moe.top_k), 2 * moe.experts)
        #: Bytes of one expert's shard on one device, and of all experts of the model.
        whole = operator.weights / moe.experts * DTYPE_BYTES[weight_dtype(operator, context.dtype)]
        self.expert_bytes = whole / layout.expert_tp
        layers = sum(moe.holds(layer) for layer in range(context.model.layers))
        self.total_bytes = whole * moe.experts * layers
        self._check_capacity(context.model.name, layout)
        self.host = self._host(layout, context)
        self._share = ExpertShare(operator, context.model, moe.experts, layout.expert_tp, context.dtype)
        self._context = context

    def _check_capacity(self, model: str, layout: ReplicaLayout) -> None:
        own = self.source.owner is self.device
        needed = self.total_bytes / (layout.stage_lanes * layout.pp if own else 1)
        if needed > self.source.capacity:
            raise MoesimError(
                f"the experts of {model} need {needed / 1e9:.4g} GB, the {self.spec.tier} of {self.source.owner.name} "
                f"holds {self.source.capacity / 1e9:.4g} GB",
                key="experts.tier",
                fix="use a larger tier, narrower experts (dtype: {experts: int4}), or more devices",
            )

    def _host(self, layout: ReplicaLayout, context: StepContext) -> Device | None:
        """Who computes beside the device; None where nobody does."""
        if not (self.scheduling.uses_host or self.prefill.uses_host):
            return None
        host, devices = self.source.owner, [d for d in context.machine.devices if d.node == self.device.node]
        if host is self.device or not host.peaks:
            raise MoesimError(
                f"{host.spec.name}, whose {self.spec.tier} holds the experts, cannot compute beside {self.device.name}",
                key="experts.scheduling",
                fix="use scheduling: device, or a tier of a host that computes",
            )
        if len(devices) > 1:
            raise MoesimError(
                f"the host computes experts for one device, node {self.device.node} has {len(devices)}",
                key="experts.scheduling",
                fix="use one device per node, or scheduling: device",
            )
        return host

    @property
    def copy_seconds(self) -> float:
        return self.source.latency + self.expert_bytes / self.source.rate

    def beyond(self, program: StageProgram) -> float:
        """Bytes of experts on a device of a stage (the cache of each layer, and those in transit) less all experts."""
        layers = len(program.moe_layers)
        return ((self.slots - self.experts) * layers + (self.staged if layers else 0)) * self.expert_bytes

    def initial(self, popularity: FloatArray) -> Residency:
        return initial(popularity, self.slots)

    def seconds(self, pairs: FloatArray, touched: FloatArray, device: Device) -> FloatArray:
        """One kernel of a device or the host over `touched` experts; 0 without tokens."""
        cost = self._context.kernels.cost(self._share.calls(pairs, touched, pairs), device)
        found: FloatArray = np.where(pairs > 0, cost.seconds, 0.0)
        return found

    def host_seconds(self, pairs: FloatArray) -> FloatArray:
        """Of every expert by itself, with so many tokens; infinite where no host computes."""
        if self.host is None:
            return np.full(pairs.shape, np.inf)
        return self.seconds(pairs, np.minimum(pairs, 1.0), self.host)
