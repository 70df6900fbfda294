"""Routed experts in one call: top-k, permutation, two grouped products with the activation between, un-permutation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.kernels.forms import Rates, Times, register
from moesim.kernels.shapes import ExpertShape

FloatArray = NDArray[np.float64]

#: Seconds below which two roofs are both nothing: a rank without pairs.
_NOTHING = 1e-100


@register("experts")
@dataclass(frozen=True)
class Experts:
    """launch + sorting·log2(1 + all pairs) + expert·touched + pipeline·(hidden + width)
    + p-norm(arithmetic, weights) + activations.

    arithmetic: 2·rows·matrices·hidden·(width + fringe) FLOPs at the share `compute` of the peak; rows: pairs, and half
    a `tile` for each touched expert, but at most as many again, since kernels take smaller tiles for few rows. weights:
    those of the touched experts, likewise widened, at the share `memory` of the bandwidth; the p-norm with exponent
    `overlap` lets the two hide each other but for a rest. activations: rows of hidden and of width are read and written
    for each pair (2·(hidden + width) elements); the bytes of local pairs cross memory `local` times, those of all pairs
    that the kernel is handed `everywhere` times: Triton kernels under expert parallelism walk the rows of all tokens.
    sorting: seconds per doubling of the pairs that are sorted by expert (counting, prefix sums, more passes). pipeline:
    seconds per element along which the products sum, one step after the other however small the batch. fringe: columns
    of a tile that narrow shards leave empty, in the mean.

    A roofline (Williams et al., Communications of the ACM 52:4, 2009) with the terms that measured kernels needed:
    waves, occupancy, the fullest expert's load and cached weights brought nothing on unseen models.
    """

    launch: float
    sorting: float
    expert: float
    pipeline: float
    compute: float
    memory: float
    overlap: float
    local: float
    everywhere: float
    fringe: float
    tile: float

    def times(self, shape: ExpertShape, rates: Rates) -> Times:
        """Seconds of calls; compute and memory are what FLOPs and weights take at the datasheet's rates."""
        matrix = shape.matrices * shape.hidden
        per_row = matrix * shape.width * (2.0 / rates.compute)
        compute = shape.pairs * per_row
        memory = shape.touched * (matrix * shape.width * (shape.weight_bytes / rates.memory))
        wider = 1.0 + self.fringe / shape.width
        padded = compute + per_row * np.minimum((self.tile / 2.0) * shape.touched, shape.pairs)
        products = _norm(padded * (wider / self.compute), memory * (wider / self.memory), self.overlap)
        length = shape.hidden + shape.width
        row = length * (2.0 * shape.activation_bytes / rates.memory)
        moved = (shape.pairs * self.local + shape.all_pairs * self.everywhere) * row
        overhead = self.launch + self.sorting * np.log2(1.0 + shape.all_pairs) + self.expert * shape.touched
        return Times(overhead + self.pipeline * length + products + moved, compute, memory)


def _norm(one: FloatArray, other: FloatArray, exponent: float) -> FloatArray:
    """(one^p + other^p)^(1/p), at least the larger."""
    larger = np.maximum(np.maximum(one, other), _NOTHING)
    share = np.minimum(one, other) / larger
    return larger * (1.0 + share**exponent) ** (1.0 / exponent)
