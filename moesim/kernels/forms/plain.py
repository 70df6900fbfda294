"""One form for every class of kernels: a roofline with a launch, a price per expert and rows that fill the arithmetic.

seconds = launch + expert · experts + ((F / (compute · P))^p + (B / (memory · W))^p)^(1/p), a smooth maximum of
arithmetic and traffic (p -> infinity: Williams, Waterman, Patterson, CACM 52(4), 2009). F counts `fill` more rows than
there are, per product: small products do not fill vector units and tiles. B counts `edge` more elements than there are,
per column of weights: a core reads ahead along a column, and begins anew at the next. It speaks for CPUs, and for
machines with too few measurements for the forms of single classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.kernels.forms import Rates, Times, register
from moesim.kernels.shapes import AttentionShape, ExpertShape, MatrixShape, RowShape, Shape

FloatArray = NDArray[np.float64]


@register("plain")
@dataclass(frozen=True)
class Plain:
    """launch, expert: seconds per call, and per expert with a token. compute, memory: shares of the device's peaks.
    fill: rows. edge: elements. sharpness: p. What a class has no use for stays at its default."""

    launch: float
    memory: float
    compute: float = 1.0
    sharpness: float = 1.0
    fill: float = 0.0
    expert: float = 0.0
    edge: float = 0.0

    def times(self, shape: Shape, rates: Rates) -> Times:
        work = work_of(shape)
        compute = (work.flops + self.fill * work.flops_per_row) / (self.compute * rates.compute)
        memory = (work.bytes + self.edge * work.column_bytes) / (self.memory * rates.memory)
        longer, shorter = np.maximum(compute, memory), np.minimum(compute, memory)
        ratio = np.divide(shorter, longer, out=np.zeros_like(longer), where=longer > 0)
        busy = longer * (1.0 + ratio**self.sharpness) ** (1.0 / self.sharpness)
        return Times(self.launch + self.expert * work.experts + busy, compute, memory)


class Work(NamedTuple):
    """FLOPs, FLOPs of one more row of each product, bytes, bytes of one more element of each column, experts."""

    flops: FloatArray
    flops_per_row: FloatArray
    bytes: FloatArray
    column_bytes: FloatArray
    experts: FloatArray


def work_of(shape: Shape) -> Work:
    """What a shape computes and moves, each operand once."""
    columns = _WORK[type(shape)](shape)
    return Work(*np.broadcast_arrays(*(np.asarray(column, dtype=np.float64) for column in columns)))


def _product(shape: MatrixShape) -> tuple[FloatArray | float, ...]:
    m, n, k = shape.m, shape.n, shape.k
    size = m * k * shape.activation_bytes + n * k * shape.weight_bytes + m * n * shape.output_bytes
    return 2.0 * m * n * k, 2.0 * n * k, size, n * shape.weight_bytes, 0.0


def _experts(shape: ExpertShape) -> tuple[FloatArray | float, ...]:
    weights = shape.matrices * shape.hidden * shape.width
    moved = shape.pairs * (4.0 * shape.hidden + 2.0 * shape.matrices * shape.width) * shape.activation_bytes
    size = shape.touched * weights * shape.weight_bytes + moved
    columns = shape.touched * ((shape.matrices - 1.0) * shape.width + shape.hidden) * shape.weight_bytes
    return 2.0 * shape.pairs * weights, 2.0 * shape.touched * weights, size, columns, shape.touched


def _attention(shape: AttentionShape) -> tuple[FloatArray | float, ...]:
    """Scores and weighted values; a latent cache holds keys and values in one."""
    widths = shape.query_width + shape.value_width
    seen = shape.keys + shape.chunk_keys
    cached = np.where(shape.latent > 0, shape.latent, shape.kv_heads * widths)
    size = seen * cached * shape.kv_bytes + (shape.decodes + shape.queries) * shape.heads * widths * shape.query_bytes
    return 2.0 * shape.heads * widths * (shape.keys + shape.pairs), 2.0 * shape.heads * widths * seen, size, 0.0, 0.0


def _rows(shape: RowShape) -> tuple[FloatArray | float, ...]:
    return 0.0, 0.0, shape.rows * (shape.read + shape.written) + shape.shared, 0.0, 0.0


_WORK: dict[type[Shape], Callable[[Any], tuple[FloatArray | float, ...]]] = {
    MatrixShape: _product, ExpertShape: _experts, AttentionShape: _attention, RowShape: _rows,
}  # fmt: skip
