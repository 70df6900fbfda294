"""How many times as long as their terms say the kernels and libraries of a run take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, get_args

from moesim.fabric.transfer import Operation
from moesim.hardware.machine import Machine
from moesim.kernels.calibrated import KernelScales
from moesim.spec.hardware import DeviceSpec
from moesim.spec.serving import EngineSpec

#: The name among an engine's scales that stands for no kernel.
COLLECTIVE: Final = "collective"


@dataclass(frozen=True)
class Scales:
    """kernels: by (device, kernel), see `CalibratedKernels.priced`. collectives: by operation of the measured library,
    and `dispatch` and `combine` of measured kernels that send tokens to experts. launches: of what a kernel takes
    whatever its size, by device, and under COLLECTIVE a call of a measured library, its rounds included. What is not
    named takes just as long. relatives: by device, the descriptor that says whose terms are taken over, where another
    than its own shall.
    """

    kernels: KernelScales = field(default_factory=dict)
    collectives: Mapping[str, float] = field(default_factory=dict)
    launches: Mapping[str, float] = field(default_factory=dict)
    relatives: Mapping[str, DeviceSpec] = field(default_factory=dict)


NOMINAL = Scales()


def families_of(machine: Machine) -> dict[str, str]:
    """The family of every descriptor that computes, coprocessors and hosts included."""
    devices = (*machine.devices, *machine.hosts)
    return {each.spec.name: each.spec.family for device in devices for each in device.processors}


def engine_scales(engine: EngineSpec, machine: Machine) -> KernelScales:
    """Factors of the kernels that an engine scales, by device and kernel."""
    families = families_of(machine)
    return {
        (name, kernel): factor
        for name, family in families.items()
        for kernel, factor in engine.scales.get(family, {}).items()
        if kernel != COLLECTIVE
    }


def collective_scales(engine: EngineSpec, machine: Machine, drawn: Mapping[str, float]) -> Mapping[str, float]:
    """Factors of the calls of a measured library by operation: what an engine scales, times those `drawn`.

    The first device's family speaks for all: no library is measured where a machine's devices are of several kinds.
    """
    factor = engine.scales.get(machine.devices[0].spec.family, {}).get(COLLECTIVE, 1.0)
    if factor == 1.0:
        return drawn
    return {name: factor * drawn.get(name, 1.0) for name in (*get_args(Operation), "dispatch", "combine")}


def joint(*scales: KernelScales) -> KernelScales:
    """Products of factors."""
    keys = dict.fromkeys(key for each in scales for key in each)
    return {key: math.prod(each.get(key, 1.0) for each in scales) for key in keys}
