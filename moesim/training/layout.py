"""Which devices compute which part of a training step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.hardware.machine import Machine
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.training import TrainingSpec
from moesim.step.graph import IntArray
from moesim.step.layout import ReplicaLayout, replica_layouts


@dataclass(frozen=True)
class TrainingLayout:
    """Groups of data-parallel ranks that exchange tokens, and the pipeline stages of each.

    dense: [groups, stages, dp, tp] device that computes a rank's attention and dense layers. experts: [groups, stages,
    expert ranks, width] device that holds a share of an expert rank's matrices. Where experts have no devices of their
    own, these are the same devices. Lanes of the step graph are the devices of the machine.
    """

    dense: IntArray
    experts: IntArray
    apart: bool
    chunks: int

    @property
    def groups(self) -> int:
        return int(self.dense.shape[0])

    @property
    def stages(self) -> int:
        return int(self.dense.shape[1])

    @property
    def dp(self) -> int:
        """Ranks of a group."""
        return int(self.dense.shape[2])

    @property
    def tp(self) -> int:
        return int(self.dense.shape[3])

    @property
    def ranks(self) -> int:
        """Data-parallel ranks in all."""
        return self.groups * self.dp

    @property
    def expert_ranks(self) -> int:
        return int(self.experts.shape[2])

    @property
    def expert_tp(self) -> int:
        return int(self.experts.shape[3])

    @property
    def parts(self) -> int:
        """Parts of the model: part c x stages + s is chunk c of stage s."""
        return self.stages * self.chunks

    def stage_lanes(self, group: int, stage: int) -> list[int]:
        """Dense lanes, then those of the experts that are others."""
        dense = [int(lane) for lane in self.dense[group, stage].ravel()]
        return dense + ([int(lane) for lane in self.experts[group, stage].ravel()] if self.apart else [])

    def all_lanes(self, stage: int) -> IntArray:
        """Of all groups."""
        lanes = [lane for group in range(self.groups) for lane in self.stage_lanes(group, stage)]
        return np.array(lanes, dtype=np.int64)

    def of_parts(self) -> ReplicaLayout:
        """The parts of the model as stages of a longer pipeline."""
        return ReplicaLayout(np.tile(self.dense[0], (self.chunks, 1, 1)), self.expert_ranks)


def training_layout(spec: ExperimentSpec, training: TrainingSpec, machine: Machine) -> TrainingLayout:
    """Ranks over the machine's first devices: group by group, stage by stage, each stage's expert devices behind it.

    Raises:
        MoesimError: degrees, batch, micro-batches, layers or devices do not fit each other.
    """
    _check_divisible(spec, training)
    if training.expert_devices:
        layout = _apart(spec, training, machine)
    else:
        found = replica_layouts(spec.parallelism, spec.model, machine)
        dense = np.array([each.devices for each in found], dtype=np.int64)
        groups, stages = dense.shape[:2]
        ranks = found[0].expert_ranks
        layout = TrainingLayout(dense, dense.reshape(groups, stages, ranks, -1), False, training.chunks)
    if layout.parts > spec.model.layers:
        raise MoesimError(
            f"{layout.stages} stages of {training.chunks} chunks exceed the {spec.model.layers} layers of "
            f"{spec.model.name}",
            key="training.chunks",
            fix=f"pp x chunks may be at most {spec.model.layers}",
        )
    return layout


def _apart(spec: ExperimentSpec, training: TrainingSpec, machine: Machine) -> TrainingLayout:
    """Experts on devices of their own, one expert rank each."""
    degrees, moe, more = spec.parallelism, spec.model.moe, training.expert_devices
    if moe is None:
        raise MoesimError(
            f"{spec.model.name} is dense and has no experts for {more} devices",
            key="training.expert_devices",
            fix="leave it out",
        )
    if moe.experts % more or degrees.ep > 1:
        raise MoesimError(
            f"{more} expert devices and ep {degrees.ep} do not fit the {moe.experts} experts of {spec.model.name}",
            key="training.expert_devices",
            fix=f"use a number that divides {moe.experts}, and leave ep out",
        )
    # The attention side must fit as any parallelism does; the experts only have to find devices.
    replica_layouts(degrees, spec.model, machine)
    each = degrees.stage_devices + more
    groups, stages = degrees.replicas, degrees.pp
    if groups * stages * each > len(machine.devices):
        raise MoesimError(
            f"the stages and their expert devices take {groups * stages * each} devices, the machine has "
            f"{len(machine.devices)}",
            key="training.expert_devices",
            fix="lower it, or add devices",
        )
    block = np.arange(groups * stages * each).reshape(groups, stages, each)
    dense = block[..., : degrees.stage_devices].reshape(groups, stages, degrees.dp, degrees.tp)
    experts = block[..., degrees.stage_devices :, None]
    return TrainingLayout(dense, experts, True, training.chunks)


def _check_divisible(spec: ExperimentSpec, training: TrainingSpec) -> None:
    ranks = spec.parallelism.dp * spec.parallelism.replicas
    if training.batch % (ranks * training.micro_batches):
        raise MoesimError(
            f"a batch of {training.batch} sequences does not divide into {training.micro_batches} micro-batches on "
            f"each of {ranks} data-parallel rank{'s' if ranks > 1 else ''}",
            key="training.micro_batches",
            fix=f"use a batch that is a multiple of {ranks * training.micro_batches}, or other micro_batches",
        )
    if training.sequence > spec.model.context:
        raise MoesimError(
            f"sequences of {training.sequence} tokens exceed the context of {spec.model.name}, {spec.model.context}",
            key="training.sequence",
            fix=f"use at most {spec.model.context}",
        )
