"""What a row of a measured table belongs to: the device's rates, the software stack, the number format."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from moesim.calibrate.kernels.tables import DEVICES
from moesim.calibrate.measured import TARGETS
from moesim.hardware.device import make_device
from moesim.kernels.forms import Rates
from moesim.spec.base import Dtype
from moesim.spec.loading import load_descriptor

if TYPE_CHECKING:
    import pandas as pd

#: `source` of rows that name a stack and its version.
_SOURCE = re.compile(r"aic:(?P<stack>[a-z]+)-(?P<version>.+)")


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
    """A measured device's rates, by its name in the tables."""
    spec = load_descriptor("devices", DEVICES[device])
    made = make_device(spec, index=0, name=device, node=0)
    units = spec.compute.units or TARGETS[device].units
    return Rates(made.peak(dtype), made.memory.compute_bandwidth, float(units))


def grouped(rows: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The values of several columns, and the rows that have them."""
    for key, part in rows.groupby(list(columns)):
        yield tuple(key) if isinstance(key, tuple) else (key,), part


def merged(rows: pd.DataFrame, sizes: Sequence[str]) -> pd.DataFrame:
    """Measurements of equal sizes as their median, ordered by size."""
    found: pd.DataFrame = rows.groupby(list(sizes))["latency_us"].median().reset_index()
    return found


def newest(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of known devices by the newest version of each of their stacks; `stack` becomes a column."""
    named = rows["source"].str.extract(_SOURCE)
    rows = rows.assign(stack=named["stack"], version=named["version"])
    rows = rows[rows["device"].isin(DEVICES) & rows["stack"].notna()]
    order = rows["version"].map(_version_order)
    last = order.groupby([rows["device"], rows["stack"]]).transform("max")
    return rows[order == last].assign(stack=rows["stack"] + "-" + rows["version"])


def _version_order(version: str) -> tuple[int, ...]:
    """1.3.0rc20 after 1.3.0rc9, 0.14.0 after 0.9.0; a release after its candidates."""
    numbers = [int(each) for each in re.findall(r"\d+", version)]
    return (*numbers, *([] if "rc" in version else [10**6]))
