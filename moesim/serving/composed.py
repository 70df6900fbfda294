"""A replica that switches between whole models: what is not in its memory is copied before a prompt begins."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.memory.capacity import activation_bytes, workspace_bytes
from moesim.memory.experts import CACHES, Use
from moesim.memory.experts.residency import admit, initial
from moesim.routing.popularity import zipf_weights
from moesim.serving.footprint import lane_weight_bytes, stage_kv_bytes_per_token
from moesim.spec.composition import CompositionSpec
from moesim.spec.errors import MoesimError
from moesim.step.batch import Batch
from moesim.step.graph import PICOSECONDS, FloatArray
from moesim.step.layout import ReplicaLayout
from moesim.step.offload import find_source
from moesim.step.pricing import Block, ExpertUse, StepPricer
from moesim.step.program import StageProgram
from moesim.step.tables import StepContext


class Composition:
    """The models of one replica: how many stay, and what a switch takes.

    Raises:
        MoesimError: the tier holds too few of them or cannot be reached, or not even one fits on the devices.
    """

    def __init__(
        self, spec: CompositionSpec, context: StepContext, layout: ReplicaLayout, programs: list[StageProgram]
    ) -> None:
        self.spec, model, engine = spec, context.model, context.engine
        self.device = context.machine.devices[int(layout.devices.flat[0])]
        source = find_source(context.machine, self.device, spec.tier)
        lanes = layout.stage_lanes * layout.pp
        #: Bytes of one model's shard on the fullest device, and of the whole model.
        self.lane_bytes = max(lane_weight_bytes(context, layout, program) for program in programs)
        self.model_bytes = sum(lane_weight_bytes(context, layout, program) for program in programs) * layout.stage_lanes
        self.switch_seconds = source.latency + self.lane_bytes / source.rate
        router = int(spec.router > 0)
        own = source.owner is self.device
        room = source.capacity * lanes if own else _room(context, self.device.node, spec.tier)
        #: Models that the tier holds beside the router.
        self.most = int(room // self.model_bytes) - router
        if spec.models > self.most:
            raise MoesimError(
                f"{spec.models} models of {self.model_bytes / 1e9:.4g} GB do not fit, "
                f"the {spec.tier} of the node holds {room / 1e9:.4g} GB",
                key="composition.models",
                fix=f"use at most {self.most} models, a larger {spec.tier}, narrower weights, or more nodes (replicas)",
            )
        cached = engine.max_sequences * model.context
        kv = cached * max(stage_kv_bytes_per_token(context, layout, program) for program in programs)
        memory = self.device.memory.capacity
        others = activation_bytes(model, engine, context.dtype, layout.tp) + workspace_bytes(self.device, layout.tp)
        free = memory * engine.memory_utilization - others - kv
        self.slots = min(max(int(free // self.lane_bytes) - router, 0), spec.models)
        if self.slots == 0:
            raise MoesimError(
                f"no model fits beside its KV cache: {self.lane_bytes / 1e9:.4g} GB each"
                f"{' and a router' if router else ''}, {memory / 1e9:.4g} GB on {self.device.spec.name}",
                key="composition",
                fix="use more devices (tp, pp), narrower weights, or a lower engine.max_sequences",
            )
        self._further = self.slots + router - 1

    def beyond(self, program: StageProgram) -> float:
        """Bytes that a device holds beyond its share of one model."""
        return self._further * self.lane_bytes


def _room(context: StepContext, node: int, tier: str) -> float:
    beside = (*context.machine.hosts, *context.machine.storage)
    return sum(each.capacity for part in beside if part.node == node for each in part.tiers if each.tier == tier)


class ComposedPricer(StepPricer):
    """Adds to the first step of a prompt the switch to its model, and to every router batch the router's time.

    Args:
        key: of the random numbers by which requests choose models.
    """

    def __init__(self, *arguments: Any, composition: Composition, key: int) -> None:
        super().__init__(*arguments)
        self.composition, self._key = composition, key
        spec = composition.spec
        self._popularity: FloatArray = zipf_weights(spec.models, spec.zipf or 0.0)
        self._policy = CACHES.make(spec.cache.policy, spec.cache, 1)
        self._begin()

    def _begin(self) -> None:
        state = initial(self._popularity[None], self.composition.slots)
        self._resident, self._memory = state.resident[0], state.memory[0]
        self._begun = self._time = 0
        self._seen: set[int] = set()

    def clear(self) -> None:
        """Forget what was recorded, and what earlier requests left on the devices."""
        super().clear()
        self._begin()

    @property
    def copy_bytes(self) -> float:
        """Bytes that one switch moves to all devices together."""
        return self.composition.model_bytes

    def model_of(self, request: int) -> int:
        """The model that a request needs."""
        spec = self.composition.spec
        if spec.zipf is None:
            return request % spec.models
        rng = np.random.Generator(np.random.Philox(key=self._key, counter=[0, 0, 2, request]))
        return int(rng.choice(spec.models, p=self._popularity / self._popularity.sum()))

    def price(self, batch: Batch, rested: bool = False) -> Block:
        block = super().price(batch, rested)
        beginning = [chunk.request for chunk in batch.chunks if chunk.request not in self._seen]
        if not beginning:
            return block
        self._seen.update(beginning)
        misses = sum(self._switch(self.model_of(request)) for request in beginning)
        first, batches = self._begun, self.composition.spec.router_batch
        self._begun += len(beginning)
        routed = -(-self._begun // batches) - -(-first // batches)
        waiting = round(misses * self.composition.switch_seconds * PICOSECONDS)
        router = round(routed * self.composition.spec.router * PICOSECONDS)
        stages, host = block.stages.copy(), block.host.copy()
        stages[0, 0] += waiting
        host[0] += router
        durations = block.durations.copy()
        durations[0] += waiting + router
        hits = len(beginning) - misses
        use = ExpertUse(len(beginning), hits, copied=misses, waiting_for_copies=waiting)
        return block._replace(stages=stages, host=host, durations=durations, offload=use)

    def _switch(self, model: int) -> bool:
        """Make a model the one in use; whether it had to be copied."""
        missed = not self._resident[model]
        used = np.zeros(len(self._resident), dtype=np.int64)
        used[model] = 1
        self._time += 1
        use = Use(used, None, self._time, self._popularity)
        kept = admit(self._policy, self._resident, self._memory, use, used > 0, self.composition.slots)
        self._resident, self._memory = kept
        return missed
