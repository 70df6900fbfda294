"""Which device computes which rank: tensor, data, pipeline and expert parallelism laid over a machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.hardware.machine import Device, Machine
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ParallelismSpec
from moesim.spec.model import ModelSpec, MoeSpec
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


def replica_layouts(
    parallelism: ParallelismSpec, model: ModelSpec, machine: Machine, first: int = 0, redundant: int = 0
) -> list[ReplicaLayout]:
    """The replicas, in rank order over the machine's devices from the `first` on. redundant: experts of a layer beyond
    one each.

    DP ranks that hold all experts (ep 1) never wait for each other: each becomes a replica of its own.

    Raises:
        MoesimError: the degrees do not fit the model or the machine.
    """
    check_degrees(parallelism, model, redundant)
    if parallelism.devices > len(machine.devices) - first:
        left = f"the machine has {len(machine.devices)}" + (f", of which others take {first}" if first else "")
        raise MoesimError(
            f"the parallelism takes {parallelism.devices} devices, {left}",
            key="parallelism",
            fix="lower tp, dp, pp or replicas, or add devices",
        )
    shape = parallelism.replicas, parallelism.pp, parallelism.dp, parallelism.tp
    ranks = np.arange(first, first + parallelism.devices).reshape(shape)
    independent = parallelism.ep == 1
    layouts = []
    for replica in ranks:
        groups = [replica[:, d : d + 1] for d in range(parallelism.dp)] if independent else [replica]
        layouts += [ReplicaLayout(group, parallelism.ep) for group in groups]
    for layout in layouts:
        _check_one_kind(layout, machine)
    return layouts


def check_degrees(parallelism: ParallelismSpec, model: ModelSpec, redundant: int = 0) -> None:
    """Raises MoesimError where a degree of parallelism does not divide what it splits."""
    tp, pp, attention = parallelism.tp, parallelism.pp, model.attention
    heads, kv_heads = attention.heads, attention.kv_heads
    _require(
        heads % tp == 0, "tp", f"tp {tp} does not divide the {heads} attention heads of {model.name}",
        f"use a tp that divides {heads}",
    )  # fmt: skip
    _require(
        attention.kv_rank is not None or max(tp, kv_heads) % min(tp, kv_heads) == 0, "tp",
        f"tp {tp} and the {kv_heads} KV heads of {model.name} do not divide each other",
        f"use a tp that divides {kv_heads} or is a multiple of it",
    )  # fmt: skip
    for width, what in ((model.dense_width, "dense"), (model.residual_width, "residual")):
        _require(
            width is None or width % tp == 0, "tp", f"tp {tp} does not divide the {what} width {width} of {model.name}",
            f"use a tp that divides {width}",
        )  # fmt: skip
    _require(
        pp <= model.layers, "pp", f"pp {pp} exceeds the {model.layers} layers of {model.name}",
        f"use a pp of at most {model.layers}",
    )  # fmt: skip
    if model.moe is None:
        what = f"{model.name} is dense and has no experts for ep {parallelism.ep}"
        _require(parallelism.ep == 1, "ep", what, "leave ep out, or set it to 1")
    else:
        _check_experts(parallelism, model.moe, model.name, redundant)


def _check_experts(parallelism: ParallelismSpec, moe: MoeSpec, name: str, redundant: int) -> None:
    tp, ep, experts = parallelism.tp, parallelism.ep, moe.experts + redundant
    them = f"{moe.experts} experts of {name}" + (f" and {redundant} redundant ones" if redundant else "")
    _require(ep <= experts, "ep", f"ep {ep} exceeds the {them}", f"use an ep of at most {experts}")
    _require(experts % ep == 0, "ep", f"ep {ep} does not divide the {them}", f"use an ep that divides {experts}")
    _require(
        moe.shared_width % tp == 0, "tp", f"tp {tp} does not divide the width {moe.shared_width} of the shared experts "
        f"of {name}", f"use a tp that divides {moe.shared_width}",
    )  # fmt: skip
    shards = parallelism.stage_devices // ep if ep > 1 else tp
    _require(
        moe.width % shards == 0, "ep" if ep > 1 else "tp",
        f"{shards} devices share an expert of {name}, which does not divide its width {moe.width}",
        "raise ep or lower tp",
    )  # fmt: skip


def _require(holds: bool, degree: str, what: str, fix: str) -> None:
    """Raises MoesimError about a degree of parallelism unless `holds`."""
    if not holds:
        raise MoesimError(what, key=f"parallelism.{degree}", fix=fix)


def _check_one_kind(layout: ReplicaLayout, machine: Machine) -> None:
    """Raises MoesimError where devices of different kinds compute equal shards of the same matrices."""
    shares = (("a tensor-parallel group", layout.tp), ("a group of devices that share experts", layout.expert_tp))
    for what, width in shares:
        for group in layout.devices.reshape(-1, width):
            kinds = {machine.devices[i].spec.name for i in group}
            if len(kinds) > 1:
                raise MoesimError(
                    f"{what} mixes {' and '.join(sorted(kinds))}, whose shards would wait for each other",
                    key="machine.devices",
                    fix="order machine.devices so that such a group is of one kind, or raise ep; dp, pp and replicas "
                    "may differ",
                )


def stage_devices(layout: ReplicaLayout, stage: int, machine: Machine) -> list[Device]:
    """One representative device per DP rank of a stage (a tp group is of one kind)."""
    return [machine.devices[i] for i in layout.devices[stage, :, 0]]
