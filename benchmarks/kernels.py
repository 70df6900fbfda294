"""Millions of kernel calls that each form prices per second, on one core. `python benchmarks/kernels.py`. Medians."""

from __future__ import annotations

import time

import numpy as np
from measure import median, table

from moesim.kernels.forms import Form, Rates
from moesim.kernels.forms.gemm import Gemm
from moesim.kernels.forms.rows import Rows
from moesim.kernels.shapes import MatrixShape, RowShape, Shape

H100 = Rates(989e12, 3.35e12, 132.0)
CALLS = 200_000


def matrix_products() -> float:
    random = np.random.default_rng(0)
    n, k = (256.0 * random.integers(1, 64, CALLS) for _ in range(2))
    shape = MatrixShape(random.integers(1, 8192, CALLS).astype(np.float64), n, k, 2.0, 2.0, 2.0)
    form = Gemm(2e-6, 0.8, 0.8, 0.05, 5e-7, 2e-6, rounding=0.3, throttle=0.1, kept=3e7, kept_weights=5e6)
    return speed(form, shape)


def streams() -> float:
    random = np.random.default_rng(0)
    width = 1024.0 * random.integers(1, 32, CALLS)
    shape = RowShape(random.integers(1, 8192, CALLS).astype(np.float64), width, width, width)
    return speed(Rows(2e-6, 0.8, 3.0, kept=3e7, wave=5e-7, rounding=0.3), shape)


def speed(form: Form, shape: Shape) -> float:
    """Millions of calls per second of processor time."""

    def once() -> float:
        begin = time.process_time()
        form.times(shape, H100)
        return CALLS / (time.process_time() - begin) / 1e6

    return median(once, 5)


if __name__ == "__main__":
    rows = [["gemm", f"{matrix_products():.1f}"], ["norm, elementwise, ...", f"{streams():.1f}"]]
    table("Millions of calls per second", ["form", "median"], rows)
