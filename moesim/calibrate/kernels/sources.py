"""What a row of a measured table belongs to: the device's rates, the number format."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from moesim.hardware.device import make_device
from moesim.kernels.calibrated import device_rates
from moesim.kernels.forms import Rates
from moesim.spec.base import Dtype
from moesim.spec.loading import load_descriptor


class Format(NamedTuple):
    """A number format: its name in calibrations, what the arithmetic runs in, bytes per element with their scales, and
    whether the call quantises its activations."""

    name: str
    dtype: Dtype
    activation: float
    weight: float
    quantises: bool


#: By `dtype` of the tables. Scales: fp32 per 128 x 128 weights and 1 x 128 activations; a byte per 16 (nvfp4) or 32
#: (mxfp4) elements.
FORMATS = {
    "bfloat16": Format("bf16", "bf16", 2.0, 2.0, False),
    "float16": Format("bf16", "bf16", 2.0, 2.0, False),
    "fp8": Format("fp8", "fp8", 1.0, 1.0, True),
    "fp8_block": Format("fp8-block", "fp8", 1.03125, 1.0, True),
    "nvfp4": Format("nvfp4", "fp4", 0.5625, 0.5625, True),
    "fp4": Format("mxfp4", "fp4", 0.53125, 0.53125, True),
    "sq": Format("int8", "int8", 1.0, 1.0, True),
    "int8": Format("int8", "int8", 1.0, 1.0, True),
    "int8_wo": Format("int8-weight", "bf16", 2.0, 1.0, False),
    "int4_wo": Format("int4-weight", "bf16", 2.0, 0.5, False),
}


@lru_cache(maxsize=256)
def rates(device: str, dtype: Dtype) -> Rates:
    """A measured device's rates."""
    return device_rates(make_device(load_descriptor("devices", device), index=0, name=device, node=0), dtype)
