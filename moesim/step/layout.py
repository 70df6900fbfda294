"""Which device computes which rank: tensor, data, pipeline and expert parallelism laid over a machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.hardware.machine import Device, Machine
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ParallelismSpec
from moesim.spec.model import ModelSpec
from moesim.step.graph import IntArray


@dataclass(frozen=True)
class ReplicaLayout:
    """One replica: `devices[stage, dp rank, tp rank]` are indices into the machine's devices.

    `expert_ranks` groups of a stage's dp x tp lanes each hold a share of the experts; `expert_tp` lanes split each of
    these experts' matrices. Lane (d, t) has stage-wide index d x tp + t and belongs to expert rank index // expert_tp.
    """

    devices: IntArray
    expert_ranks: int

    @property
    def pp(self) -> int:
        return int(self.devices.shape[0])

    @property
    def dp(self) -> int:
        return int(self.devices.shape[1])

    @property
    def tp(self) -> int:
        return int(self.devices.shape[2])

    @property
    def stage_lanes(self) -> int:
        return self.dp * self.tp

    @property
    def expert_tp(self) -> int:
        return self.stage_lanes // self.expert_ranks

    def stage_of_layer(self, layers: int) -> IntArray:
        """Pipeline stage of each layer: as even as possible, the remainder to the earlier stages."""
        return np.repeat(np.arange(self.pp), [len(part) for part in np.array_split(np.arange(layers), self.pp)])


def replica_layouts(parallelism: ParallelismSpec, model: ModelSpec, machine: Machine) -> list[ReplicaLayout]:
    """The replicas, in rank order over the machine's first devices.

    DP ranks that hold all experts (ep 1) never wait for each other: each becomes a replica of its own.

    Raises:
        MoesimError: the degrees do not fit the model or the machine.
    """
    check_degrees(parallelism, model)
    if parallelism.devices > len(machine.devices):
        raise MoesimError(
            f"the parallelism takes {parallelism.devices} devices, the machine has {len(machine.devices)}",
            fix="lower tp, dp, pp or replicas, or add devices",
        )
    ranks = np.arange(parallelism.devices).reshape(parallelism.replicas, parallelism.pp, parallelism.dp, parallelism.tp)
    independent = parallelism.ep == 1
    layouts = []
    for replica in ranks:
        groups = [replica[:, d : d + 1] for d in range(parallelism.dp)] if independent else [replica]
        layouts += [ReplicaLayout(group, parallelism.ep) for group in groups]
    for layout in layouts:
        _check_one_kind(layout, machine)
    return layouts


def check_degrees(parallelism: ParallelismSpec, model: ModelSpec) -> None:
    """Raises MoesimError where a degree of parallelism does not divide what it splits."""
    tp, ep, attention, moe = parallelism.tp, parallelism.ep, model.attention, model.moe
    if attention.heads % tp:
        raise MoesimError(
            f"tp {tp} does not divide the {attention.heads} attention heads of {model.name}",
            fix=f"use a tp that divides {attention.heads}",
        )
    if attention.kv_rank is None and max(tp, attention.kv_heads) % min(tp, attention.kv_heads):
        raise MoesimError(f"tp {tp} and the {attention.kv_heads} KV heads of {model.name} do not divide each other")
    if moe is None and ep > 1:
        raise MoesimError(f"{model.name} is dense and has no experts for ep {ep}", fix="set parallelism.ep to 1")
    if moe is not None and ep > moe.experts:
        raise MoesimError(
            f"ep {ep} exceeds the {moe.experts} experts of {model.name}", fix=f"use an ep of at most {moe.experts}"
        )
    if moe is not None and moe.experts % ep:
        raise MoesimError(
            f"ep {ep} does not divide the {moe.experts} experts of {model.name}",
            fix=f"use an ep that divides {moe.experts}",
        )
    if moe is not None and moe.width % (parallelism.stage_devices // ep if ep > 1 else tp):
        raise MoesimError(
            f"the experts' width {moe.width} cannot be split over tp x dp / ep ranks", fix="raise ep or lower tp"
        )
    if model.dense_width is not None and model.dense_width % tp:
        raise MoesimError(
            f"tp {tp} does not divide the dense width {model.dense_width} of {model.name}", fix="lower tp"
        )
    if parallelism.pp > model.layers:
        raise MoesimError(f"pp {parallelism.pp} exceeds the {model.layers} layers of {model.name}", fix="lower pp")


def _check_one_kind(layout: ReplicaLayout, machine: Machine) -> None:
    for group in layout.devices.reshape(-1, layout.tp):
        kinds = {machine.devices[i].spec.name for i in group}
        if len(kinds) > 1:
            raise MoesimError(
                f"a tensor-parallel group mixes {' and '.join(sorted(kinds))}, whose shards would wait for each other",
                fix="order machine.devices so that each tp group is of one kind; dp, pp and replicas may differ",
            )


def stage_devices(layout: ReplicaLayout, stage: int, machine: Machine) -> list[Device]:
    """One representative device per DP rank of a stage (a tp group is of one kind)."""
    return [machine.devices[i] for i in layout.devices[stage, :, 0]]
