"""The datasheet roofline (Williams, Waterman, Patterson, CACM 52(4), 2009) with efficiencies and overheads per family.

seconds = overhead + max(FLOPs / (peak x efficiency), bytes / (bandwidth x efficiency)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from moesim.hardware.machine import Device
from moesim.kernels.base import FUSED, Alone, Calls, Cost, FloatArray
from moesim.spec.base import Dtype

#: Kernel classes whose defaults another class's stand for.
_EFFICIENCY_AS = {"attention": "attention", "experts": "experts"}
_OVERHEAD_AS = {"norm": "elementwise", "embedding": "elementwise"}


class _Rates(NamedTuple):
    """FLOP and bytes per second, seconds per call, joules per FLOP and per byte."""

    compute: float
    memory: float
    overhead: float
    arithmetic_energy: float
    memory_energy: float


class DatasheetRoofline:
    """Peaks and bandwidth from the device's datasheet, efficiencies and launch overheads from its family's defaults.

    Args:
        launches: by device, the factor of its launch overheads; the others are what their family says.
    """

    def __init__(self, launches: Mapping[str, float] | None = None) -> None:
        self._launches = dict(launches or {})
        self._known: dict[tuple[Device, str, Dtype], _Rates] = {}

    def cost(self, calls: Calls, device: Device) -> Cost:
        key = device, calls.kind, calls.dtype
        rates = self._known.get(key) or self._known.setdefault(key, self._rates(*key))
        traffic = calls.weight_bytes + calls.data_bytes
        compute = calls.flops / rates.compute
        memory = traffic / rates.memory
        overhead = np.where(traffic + calls.flops > 0, rates.overhead, 0.0)
        return Cost(
            seconds=overhead + np.maximum(compute, memory),
            compute=compute,
            memory=memory,
            overhead=overhead,
            arithmetic_joules=calls.flops * rates.arithmetic_energy,
            memory_joules=traffic * rates.memory_energy,
        )

    def seconds(self, calls: Calls, device: Device) -> FloatArray:
        return self.cost(calls, device).seconds

    def alone(self, calls: Calls, device: Device) -> Alone | None:
        return None

    def _launch(self, device: Device, kind: str) -> float:
        """Seconds of a call without work."""
        seconds: float = getattr(device.family.overhead, _OVERHEAD_AS.get(kind, kind))
        return seconds * self._launches.get(device.spec.name, 1.0)

    def _rates(self, device: Device, kind: str, dtype: Dtype) -> _Rates:
        defaults, memory = device.family, device.memory
        return _Rates(
            compute=device.peak(dtype) * getattr(defaults.efficiency, _EFFICIENCY_AS.get(kind, "gemm")),
            memory=memory.compute_bandwidth * defaults.efficiency.memory,
            overhead=0.0 if kind == FUSED else self._launch(device, kind),
            arithmetic_energy=device.energy_per_flop(dtype),
            memory_energy=memory.energy,
        )
