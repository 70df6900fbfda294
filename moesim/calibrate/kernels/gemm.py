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
from moesim.calibrate.kernels.sources import FORMATS, rates
from moesim.calibrate.kernels.tables import DEVICES, known_devices, merged, newest, parts, read_table, table_paths
from moesim.kernels.shapes import MatrixShape

if TYPE_CHECKING:
    import pandas as pd

#: Fewer rows say too little to fit and score.
FEWEST_ROWS = 100

#: Slices of the public tables, by stack's name and dtype, that were timed without a graph: launches hide the kernels.
EAGER = (("vllm", "fp8_block"),)

#: Tables of kernels that a search has chosen per shape: the fastest counts, and activations come quantised.
TUNED = "gemm_amd_aiter"

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
    """The groups of a folder's tables, of each stack's newest version, and of `data`/profiles.

    Raises:
        MoesimError: a table cannot be used.
    """
    paths = table_paths(data, "gemm")
    tuned = [path for path in paths if path.name.startswith(TUNED)]
    if len(paths) > len(tuned):
        for key, part in _large(newest(read_table([path for path in paths if path not in tuned], "gemm"))):
            yield _group(part, key, quantised=False)
    for path in tuned:
        for key, part in _large(_tuned(path)):
            yield _group(part, key, quantised=True)
    for device, stack, part in matrix_products(data):
        yield _group(part, (DEVICES[device], stack, "bfloat16"), quantised=False)


def _large(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Rows of each device, stack and known dtype that has enough, timed as a graph."""
    for key, part in parts(rows[rows["dtype"].isin(FORMATS)], ("device", "stack", "dtype")):
        if len(part) >= FEWEST_ROWS and (key[1].split("-")[0], key[2]) not in EAGER:
            yield key, part


def _tuned(path: Path) -> pd.DataFrame:
    """The fastest kernel of each shape in aiter's tables of tuned kernels; those without a time have failed."""
    import pandas as pd

    rows = pd.read_csv(path, low_memory=False)
    rows = known_devices(rows[np.isfinite(rows["latency_us"]) & (rows["latency_us"] > 0)])
    best = rows.groupby(["device", "dtype", "m", "n", "k"])["latency_us"].min().reset_index()
    return best.assign(stack="aiter")


def _group(rows: pd.DataFrame, key: tuple[str, ...], quantised: bool) -> KernelGroup:
    """key: device, stack, dtype. quantised: activations come in the number format of the weights."""
    device, stack, dtype = key
    sizes = ["m", "n", "k"]
    rows = merged(rows, sizes)
    m, n, k = (rows[name].to_numpy(np.float64) for name in sizes)
    number = FORMATS[dtype]
    pairs = [f"{columns:.0f}x{depth:.0f}" for columns, depth in zip(n, k, strict=True)]
    return KernelGroup(
        device=device,
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
    )
