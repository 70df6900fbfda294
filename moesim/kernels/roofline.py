"""The datasheet roofline (Williams, Waterman, Patterson, CACM 52(4), 2009) with efficiencies and overheads per family.

seconds = overhead + max(FLOPs / (peak x efficiency), bytes / (bandwidth x efficiency)).
"""

from __future__ import annotations

import numpy as np

from moesim.hardware.machine import Device
from moesim.kernels.base import Calls, Cost

#: Kernel classes whose defaults another class's stand for.
_EFFICIENCY_AS = {"attention": "attention", "experts": "experts"}
_OVERHEAD_AS = {"norm": "elementwise", "embedding": "elementwise"}


class DatasheetRoofline:
    """Peaks and bandwidth from the device's datasheet, efficiencies and launch overheads from its family's defaults."""

    def cost(self, calls: Calls, device: Device) -> Cost:
        defaults, memory_tier = device.family, device.memory
        peak = device.peak(calls.dtype) * getattr(defaults.efficiency, _EFFICIENCY_AS.get(calls.kind, "gemm"))
        traffic = calls.weight_bytes + calls.data_bytes
        compute = calls.flops / peak
        memory = traffic / (memory_tier.compute_bandwidth * defaults.efficiency.memory)
        start = getattr(defaults.overhead, _OVERHEAD_AS.get(calls.kind, calls.kind))
        overhead = np.where(traffic + calls.flops > 0, start, 0.0)
        return Cost(
            seconds=overhead + np.maximum(compute, memory),
            compute=compute,
            memory=memory,
            overhead=overhead,
            arithmetic_joules=calls.flops * device.energy_per_flop(calls.dtype),
            memory_joules=traffic * memory_tier.energy,
        )
