"""What a run's devices communicate over, and under which measured libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.fabric.library import ExpertKernels, expert_kernels, library_fabric
from moesim.fabric.machines import link_fabric, machine_fabric
from moesim.fabric.switch import Fabric
from moesim.fabric.topology import Topology
from moesim.hardware.machine import Machine
from moesim.spec.experiment import ExperimentSpec
from moesim.step.layout import ReplicaLayout


@dataclass(frozen=True)
class Interconnect:
    """The fabric, measured kernels that dispatch to experts, and what the summary says of both. topology: whose links
    transfers in progress share; None where each has them to itself."""

    fabric: Fabric
    kernels: ExpertKernels | None
    topology: Topology | None
    notes: list[str]


def interconnect(spec: ExperimentSpec, machine: Machine, layouts: Sequence[ReplicaLayout]) -> Interconnect:
    """Raises MoesimError where the devices do not fit the shape of their fabric."""
    links = None if spec.fabric == "bound" else link_fabric(machine)
    plain = links or machine_fabric(machine)
    fabric, collectives = library_fabric(machine, plain, spec.engine.collectives, _within_a_node(machine, layouts))
    stages = [stage.ravel() for layout in layouts for stage in layout.devices]
    several_nodes = any(len({machine.devices[i].node for i in stage}) > 1 for stage in stages)
    kernels, dispatch = expert_kernels(machine, spec.engine.dispatch, several_nodes)
    notes = [collectives] if any(layout.devices.size > 1 for layout in layouts) else []
    if spec.engine.transport == "alltoall" and spec.model.moe is not None and any(each.dp > 1 for each in layouts):
        notes.append(dispatch)
    return Interconnect(fabric, kernels, None if links is None else links.topology, notes)


def _within_a_node(machine: Machine, layouts: Sequence[ReplicaLayout]) -> bool:
    """Whether any tensor-parallel group, group of DP ranks, or pair of stages lies within one node."""
    node = np.array([device.node for device in machine.devices])
    for layout in layouts:
        of_lane = node[layout.devices]  # [stages, dp, tp]
        if (of_lane[1:] == of_lane[:-1]).any():
            return True
        for axis in (1, 2):
            if of_lane.shape[axis] > 1 and (of_lane == of_lane.take([0], axis=axis)).all(axis=axis).any():
                return True
    return False
