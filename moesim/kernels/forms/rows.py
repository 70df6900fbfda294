"""Kernels that stream rows: norms, activations, rotary embedding, look-ups, sampling, the router's top-k."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.kernels.forms import Rates, Times, register
from moesim.kernels.shapes import RowShape

#: How sharply rows stop fitting into the cache.
EVICTION = 4


@register("norm")
@register("elementwise")
@register("embedding")
@register("sampling")
@register("router")
@dataclass(frozen=True)
class Rows:
    """Terms of a streaming kernel: after its launch, SMs work off waves of rows while memory and cache deliver them.

    launch: seconds of an empty call. memory: share of the datasheet's bandwidth, at most 1. cache: rate of rows that
    the kernel before left in the cache, as a multiple of the memory's, at least 1; kept: bytes that stay there.
    resident: rows that an SM has in work at once, a whole number; wave: seconds of a wave whatever its width; flow:
    bytes per second into all SMs, as a multiple of the memory's; rounding: share of rows that wait for whole waves.
    sharpness: exponent of the norm that joins SMs and memory.
    """

    launch: float
    memory: float
    sharpness: float
    kept: float = 0.0
    cache: float = 2.0
    resident: float = 2.0
    wave: float = 0.0
    flow: float = 4.0
    rounding: float = 0.0

    def times(self, shape: RowShape, rates: Rates) -> Times:
        """Seconds of the calls. Columns broadcast. There is no arithmetic to speak of."""
        columns = np.broadcast_arrays(*(np.asarray(each, dtype=np.float64) for each in shape))
        rows, read, written, shared = columns
        size = rows * (read + written) + shared
        cold = size / (1.0 + (self.kept / np.maximum(size, 1.0)) ** EVICTION)
        memory = (cold / self.memory + (size - cold) / self.cache) / rates.memory
        at_once = rates.units * max(1.0, round(self.resident))
        waves = np.maximum(rows / at_once, 1.0) * (1.0 - self.rounding) + np.ceil(rows / at_once) * self.rounding
        busy = waves * (self.wave + at_once * (read + written) / (self.flow * rates.memory))
        seconds = self.launch + (busy**self.sharpness + memory**self.sharpness) ** (1.0 / self.sharpness)
        return Times(seconds, np.zeros_like(memory), memory)
