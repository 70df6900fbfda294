"""The seam of every kernel model: columns in, columns out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from moesim.hardware.machine import Device
from moesim.kernels.shapes import AttentionShape, Shape
from moesim.spec.base import Dtype

FloatArray = NDArray[np.float64]


#: The kind of calls that are part of another kernel: they take what their FLOPs or bytes take, without a launch.
FUSED = "fused"

#: The variant of products whose activations come quantised.
QUANTISED = "quantised"


class Calls(NamedTuple):
    """Calls of one kernel class, one per element; the arrays broadcast against each other.

    flops: arithmetic, in FLOP. weight_bytes: weights read. data_bytes: activations and KV cache read and written.
    shape: what rooflines with measured terms see beyond that. formats: number formats of weights and activations as
    calibrations name them, the one that fits best first. variant: what tells kernels of one kind apart: `window`
    (attention), `rope`, `act` (elementwise), `norm`, `qk_norm`, `quantised` (gemm), `marlin`, `triton` (experts).
    """

    kind: str  # gemm, attention, experts, norm, elementwise, router, embedding, sampling, fused
    dtype: Dtype  # of the arithmetic
    flops: FloatArray
    weight_bytes: FloatArray
    data_bytes: FloatArray
    shape: Shape | None = None
    formats: tuple[str, ...] = ()
    variant: str = ""


class Cost(NamedTuple):
    """What the calls take: `seconds` = overhead + max(compute, memory), each an array like the calls; joules dynamic
    (arithmetic plus memory), idle power not included. A call without work takes no time."""

    seconds: FloatArray
    compute: FloatArray
    memory: FloatArray
    overhead: FloatArray
    arithmetic_joules: FloatArray
    memory_joules: FloatArray


#: Seconds of an attention kernel whose sizes are numbers.
Alone: TypeAlias = Callable[[AttentionShape], float]


class KernelModel(Protocol):
    """Time and energy of kernels on a device. Must be vectorised and pure."""

    def cost(self, calls: Calls, device: Device) -> Cost: ...

    def seconds(self, calls: Calls, device: Device) -> FloatArray:
        """The first column of `cost` alone, for the hot path."""
        ...

    def alone(self, calls: Calls, device: Device) -> Alone | None:
        """The same of single calls of attention, of the kind that `calls` are; None where arrays are as fast."""
