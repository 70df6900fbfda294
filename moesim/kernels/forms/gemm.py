"""Matrix products: the cheapest tiling's time on the SMs, beside the bytes from memory and cache, with a launch.

A tile/wave roofline: a product of [m, k] and [k, n] is cut into tiles, which the SMs work off in waves; few tiles may
share their sum over k among several SMs. Meanwhile operands stream in from memory, or from the cache where they were
left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.kernels.forms import Rates, Times, register
from moesim.kernels.shapes import MatrixShape

FloatArray = NDArray[np.float64]

#: Rows and columns of the output tiles that libraries choose from, and into how many parts each may cut its sum.
TILES: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (64, 32, (1, 2, 4, 8, 16)), (64, 64, (1, 2, 4, 8, 16)), (64, 128, (1, 2, 4, 8, 16)), (64, 256, (1,)),
    (128, 64, (1, 2, 4, 8)), (128, 128, (1, 2, 4, 8)), (128, 192, (1,)), (128, 256, (1, 2, 4)),
    (256, 128, (1, 2)), (256, 192, (1,)), (256, 256, (1,)),
)  # fmt: skip

#: Rows priced at once: their intermediate columns fit into a core's cache.
BLOCK = 8192

#: How sharply operands stop fitting into the cache.
EVICTION = 4

PARTIAL_BYTES = 4  # a partial sum: fp32
UNQUANTISED_BYTES = 2  # activations before their quantisation


@register("gemm")
@dataclass(frozen=True)
class Gemm:
    """Terms of a stack's matrix products on a device.

    launch: seconds of an empty call. compute, memory: shares of the datasheet's peaks, at most 1. cache: rate of cached
    operands, as a multiple of the memory's, at least 1; on_chip: bytes that reach the SMs per FLOP of their peak. wave,
    split: seconds of a wave's start and drain, and of handing over partial sums. reduce: traffic of partial sums, as a
    multiple of their bytes at the memory's rate; store: the same of outputs, which nothing overlaps. grain, columns:
    rows and columns that a tile costs at least (an instruction's width, or a library's fixed tile). rounding: share of
    tiles that wait for whole waves. kept: bytes of activations and outputs found in the cache; kept_weights: the same
    of weights, as in a benchmark that repeats a call. throttle: extra time of long calls as a share, for those that
    work much longer than `burst` seconds. quantise: traffic of the activations' quantisation, as `reduce`; row: seconds
    of it per row of an SM; both 0 where activations come quantised or in bf16. sharpness: exponent of the norm that
    joins SMs and memory.
    """

    launch: float
    compute: float
    memory: float
    on_chip: float
    wave: float
    split: float
    reduce: float = 0.5
    store: float = 0.0
    grain: float = 64.0
    columns: float = 64.0
    rounding: float = 1.0
    cache: float = 2.0
    kept: float = 0.0
    kept_weights: float = 0.0
    throttle: float = 0.0
    burst: float = 1e-3
    quantise: float = 0.0
    row: float = 0.0
    sharpness: float = 3.0

    def times(self, shape: MatrixShape, rates: Rates) -> Times:
        """Seconds of the calls: launch + norm(SMs, memory) + outputs + quantisation. Columns broadcast."""
        m, n, k = np.broadcast_arrays(*(np.asarray(each, dtype=np.float64) for each in shape[:3]))
        seconds, memory = np.empty(m.shape), np.empty(m.shape)
        flat = [each.reshape(-1) for each in (m, n, k)]
        for start in range(0, m.size, BLOCK):
            part = slice(start, start + BLOCK)
            rows = MatrixShape(flat[0][part], flat[1][part], flat[2][part], *shape[3:])
            seconds.reshape(-1)[part], memory.reshape(-1)[part] = self._block(rows, rates)
        return Times(seconds, 2.0 * m * n * k / rates.compute, memory)

    def _block(self, shape: MatrixShape, rates: Rates) -> tuple[FloatArray, FloatArray]:
        m, n, k, activation, _, output = shape
        memory = self._streamed(shape) / rates.memory
        busy = self._busiest(shape, rates)
        busy *= 1.0 + self.throttle * busy / (busy + self.burst)
        longest = np.maximum(busy, memory)
        shorter = np.minimum(busy, memory) / longest
        both = longest * (1.0 + shorter**self.sharpness) ** (1.0 / self.sharpness)
        apart = self.store * m * n * output + self.quantise * m * k * (UNQUANTISED_BYTES + activation)
        return self.launch + both + apart / rates.memory + self.row * m / rates.units, memory

    def _streamed(self, shape: MatrixShape) -> FloatArray:
        """Bytes of the operands, as if all came from memory at its datasheet rate."""
        m, n, k, activation, weight, output = shape
        total = np.zeros_like(m)
        for size, kept in ((m * k * activation + m * n * output, self.kept), (n * k * weight, self.kept_weights)):
            cold = size / (1.0 + (kept / np.maximum(size, 1.0)) ** EVICTION)
            total += cold / self.memory + (size - cold) / self.cache
        return total

    def _busiest(self, shape: MatrixShape, rates: Rates) -> FloatArray:
        """Seconds of the SMs with the best tiling."""
        m, n, k, activation, weight, _ = shape
        multiply = 2.0 * rates.units / (self.compute * rates.compute)
        load = rates.units / (self.on_chip * rates.compute)
        partial = self.reduce * PARTIAL_BYTES * m * n / rates.memory
        grain, loaded = np.minimum(self.grain, m), np.minimum(m, 256.0)
        best = np.full_like(m, np.inf)
        for tile_rows, tile_columns, parts in TILES:
            tiles = np.ceil(m / tile_rows) * np.ceil(n / tile_columns)
            step = multiply * max(tile_columns, self.columns) * np.maximum(grain, tile_rows)
            step += load * (np.minimum(loaded, tile_rows) * activation + tile_columns * weight)
            step *= k
            for part in parts:
                waves = tiles * (part / rates.units)
                whole = np.ceil(waves) * self.rounding
                np.maximum(waves, 1.0, out=waves)
                waves *= 1.0 - self.rounding
                waves += whole
                waves *= step / part + self.wave
                if part > 1:
                    waves += self.split + partial * (part + 1)
                np.minimum(best, waves, out=best)
        return best
