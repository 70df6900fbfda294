"""Groups of measured matrix products: per device, stack and number format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import moesim.kernels.forms.gemm  # noqa: F401 - registers the form
from moesim.calibrate.fitting import Parameter
from moesim.calibrate.kernels.groups import KernelGroup
from moesim.calibrate.kernels.profiles import matrix_products
from moesim.calibrate.kernels.sources import FORMATS, grouped, merged, newest, rates
from moesim.calibrate.kernels.tables import DEVICES, read_table
from moesim.kernels.shapes import MatrixShape

if TYPE_CHECKING:
    import pandas as pd

#: Fewer rows say too little to fit and score.
FEWEST_ROWS = 100

#: Slices of the public tables that say nothing of a stack's kernels: (stack's name, dtype) -> why.
EXCLUDED = {("vllm", "fp8_block"): "timed without a graph: 60 us of launches hide the kernel"}

OUTPUT_BYTES = 2.0  # outputs are bf16

TERMS = (
    Parameter("launch", (2.5e-6,), 1e-7, 6e-5),
    Parameter("compute", (0.8,), 0.1, 1.0),
    Parameter("memory", (0.82,), 0.1, 1.0),
    Parameter("on_chip", (0.03,), 1e-3, 1.0),
    Parameter("wave", (5e-7,), 1e-8, 1e-5),
    Parameter("split", (2.5e-6,), 1e-8, 1e-4),
    Parameter("reduce", (0.5,), 0.03, 10.0),
    Parameter("store", (0.3,), 1e-3, 3.0),
    Parameter("grain", (80.0,), 16.0, 256.0),
    Parameter("columns", (64.0,), 16.0, 256.0),
    Parameter("rounding", (0.3,), 0.0, 1.0, linear=True),
    Parameter("cache", (2.0,), 1.0, 10.0),
    Parameter("kept", (3e7,), 1e6, 2e8),
    Parameter("kept_weights", (5e6,), 2e5, 1e8),
    Parameter("throttle", (0.1,), 1e-3, 1.0),
    Parameter("sharpness", (3.0,), 1.0, 12.0),
)
QUANTISATION = (Parameter("quantise", (1.2,), 0.1, 20.0), Parameter("row", (1e-7,), 1e-9, 1e-5))


def groups(data: Path) -> Iterator[KernelGroup]:
    """The groups of `data`/kernels, of each stack's newest version, and of `data`/profiles.

    Raises:
        MoesimError: a table is missing or cannot be used.
    """
    tuned = data / "kernels" / "gemm_amd_aiter.csv.gz"
    paths = sorted(set((data / "kernels").glob("gemm*.csv.gz")) - {tuned})
    rows = newest(read_table(paths or [data / "kernels" / "gemm.csv.gz"], "gemm"))
    for (device, stack, dtype), part in _large(rows):
        yield _group(part, device, stack, dtype, quantised=False)
    for (device, stack, dtype), part in _large(_tuned(tuned)) if tuned.is_file() else ():
        yield _group(part, device, stack, dtype, quantised=True)
    for device, stack, part in matrix_products(data):
        yield _group(part, device, stack, "bfloat16", quantised=False)


def _large(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Rows of each device, stack and known dtype that has enough."""
    for (device, stack, dtype), part in grouped(rows[rows["dtype"].isin(FORMATS)], ("device", "stack", "dtype")):
        if len(part) >= FEWEST_ROWS:
            yield (device, stack, dtype), part


def _tuned(path: Path) -> pd.DataFrame:
    """The fastest kernel of each shape in aiter's tables of tuned kernels; those without a time have failed."""
    import pandas as pd

    rows: pd.DataFrame = pd.read_csv(path, low_memory=False)
    rows = rows[np.isfinite(rows["latency_us"]) & (rows["latency_us"] > 0) & rows["device"].isin(DEVICES)]
    best: pd.DataFrame = rows.sort_values("latency_us").drop_duplicates(["device", "dtype", "m", "n", "k"])
    return best.assign(stack="aiter")


def _group(rows: pd.DataFrame, device: str, stack: str, dtype: str, quantised: bool) -> KernelGroup:
    """quantised: activations come in the number format of the weights."""
    sizes = ["m", "n", "k"]
    rows = merged(rows, sizes)
    m, n, k = (rows[name].to_numpy(np.float64) for name in sizes)
    number = FORMATS[dtype]
    pairs = [f"{columns:.0f}x{depth:.0f}" for columns, depth in zip(n, k, strict=True)]
    return KernelGroup(
        device=DEVICES[device],
        stack=stack,
        kernel="gemm",
        format=number.name,
        implementation="",
        rates=rates(device, number.dtype),
        shape=MatrixShape(m, n, k, number.activation, number.weight, OUTPUT_BYTES),
        seconds=rows["latency_us"].to_numpy(np.float64) * 1e-6,
        split=pairs,
        series=pairs,
        size=m,
        sizes={"m": m, "n": n, "k": k},
        parameters=TERMS + (QUANTISATION if number.quantises and not quantised else ()),
        excluded=EXCLUDED.get((stack.split("-")[0], dtype), ""),
    )
