"""A form with three terms, and tables that it made: what calibrations of kernels are tested with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moesim.calibrate.fitting import Parameter
from moesim.calibrate.kernels.groups import KernelGroup
from moesim.calibrate.kernels.tables import read_table, table_paths
from moesim.kernels.forms import Rates, Times
from moesim.kernels.shapes import MatrixShape

PARAMETERS = (
    Parameter("launch", (5e-6,), 1e-7, 1e-3),
    Parameter("compute", (0.7,), 0.05, 1.0),
    Parameter("memory", (0.7,), 0.05, 1.0),
)
TRUE = {"launch": 4e-6, "compute": 0.8, "memory": 0.6}
PEAKS = {"h100-sxm": (989e12, 3.35e12), "h200-sxm": (989e12, 4.8e12), "b200-sxm": (2250e12, 8e12)}


@dataclass(frozen=True)
class Toy:
    """launch + the larger of arithmetic and memory."""

    launch: float
    compute: float
    memory: float

    def times(self, shape: MatrixShape, rates: Rates) -> Times:
        m, n, k = shape.m, shape.n, shape.k
        arithmetic = 2.0 * m * n * k / (self.compute * rates.compute)
        streaming = 2.0 * (m * k + n * k + m * n) / (self.memory * rates.memory)
        return Times(self.launch + np.maximum(arithmetic, streaming), arithmetic, streaming)


def rates(device: str) -> Rates:
    return Rates(*PEAKS[device], 132.0)


def groups(data: Path) -> Iterator[KernelGroup]:
    table = read_table(table_paths(data, "gemm"), "gemm")
    for (device, source), rows in table.groupby(["device", "source"]):
        m, n, k = (rows[name].to_numpy(np.float64) for name in ("m", "n", "k"))
        pairs = [f"{a:.0f}/{b:.0f}" for a, b in zip(n, k, strict=True)]
        yield KernelGroup(
            device=device, stack=source.partition(":")[2], kernel="gemm", format="bf16", implementation="",
            rates=rates(device), shape=MatrixShape(m, n, k, 2.0, 2.0, 2.0),
            seconds=rows["latency_us"].to_numpy(np.float64) * 1e-6, split=pairs, series=pairs, size=m,
            sizes={"m": m, "n": n, "k": k}, parameters=PARAMETERS,
        )  # fmt: skip


def write_tables(folder: Path, devices: tuple[str, ...] = ("h100-sxm",), noise: float = 0.02) -> Path:
    """gemm.csv of devices that take what TRUE says, with lognormal noise."""
    stream = np.random.default_rng(7)
    lines = ["device,kernel,dtype,m,n,k,latency_us,source"]
    for device in devices:
        grid = np.meshgrid([512, 2048, 4096, 8192], [1024, 4096, 7168], 2.0 ** np.arange(15))
        n, k, m = (each.ravel() for each in grid)
        seconds = Toy(**TRUE).times(MatrixShape(m, n, k, 2.0, 2.0, 2.0), rates(device)).seconds
        seconds = seconds * np.exp(stream.normal(0.0, noise, len(m)))
        rows = zip(m, n, k, seconds * 1e6, strict=True)
        lines += [f"{device},gemm,bfloat16,{a:.0f},{b:.0f},{c:.0f},{t:.6g},aic:vllm-9.9" for a, b, c, t in rows]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gemm.csv").write_text("\n".join(lines) + "\n")
    return folder
