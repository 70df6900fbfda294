"""A group of measurements that is fitted on its own: one kernel of one device, software stack and number format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.fitting import Parameter, outliers
from moesim.calibrate.split import fitted_half
from moesim.kernels.forms import Rates
from moesim.kernels.shapes import Shape

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class KernelGroup:
    """[rows] shapes and seconds, repeats merged to their median.

    device: descriptor. stack: as `vllm-0.24.0`. kernel: the form's name. format: as `bf16`, `fp8-block`.
    rates: the device's, in the format's arithmetic. split: [rows] what may not be both fitted and scored: (n, k) pair,
    model shape, head configuration. series, size: [rows] for the rejection of outliers (see fitting.outliers). sizes:
    [rows] of each size by name, for the measured range. parameters: what is fitted, with starts and bounds.
    excluded: why this group is not scored, if so.
    """

    device: str
    stack: str
    kernel: str
    format: str
    implementation: str
    rates: Rates
    shape: Shape
    seconds: FloatArray
    split: Sequence[str]
    series: Sequence[str]
    size: FloatArray
    sizes: dict[str, FloatArray]
    parameters: tuple[Parameter, ...]
    excluded: str = ""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.device, self.stack, self.kernel, self.format, self.implementation)))

    @cached_property
    def fitted(self) -> BoolArray:
        return fitted_half(self.split)

    @cached_property
    def rejected(self) -> BoolArray:
        return outliers(self.series, self.size, self.seconds)
