"""The datasheet roofline (Williams, Waterman, Patterson, CACM 52(4), 2009) with efficiencies and overheads per family.

seconds = overhead + max(FLOPs / (peak x efficiency), bytes / (bandwidth x efficiency)).
"""

from __future__ import annotations

import numpy as np

from moesim.hardware.machine import Device
from moesim.kernels.base import Calls, Cost


class DatasheetRoofline:
    """Peaks and bandwidth from the device's datasheet, efficiencies and launch overheads from its family's defaults."""

    def cost(self, calls: Calls, device: Device) -> Cost:
        defaults = device.defaults
        efficiency = defaults.efficiency.of(calls.kind)
        traffic = calls.weight_bytes + calls.data_bytes
        compute = calls.flops / (device.peak(calls.dtype) * efficiency)
        memory = traffic / (device.bandwidth * defaults.efficiency.memory)
        overhead = np.where((traffic > 0) | (calls.flops > 0), defaults.overhead.of(calls.kind), 0.0)
        return Cost(
            seconds=overhead + np.maximum(compute, memory),
            compute=compute,
            memory=memory,
            overhead=overhead,
            arithmetic_joules=calls.flops * device.flop_energy(calls.dtype),
            memory_joules=traffic * device.memory_energy,
        )
