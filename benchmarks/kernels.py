"""Millions of kernel calls that each form prices per second, on one core. `python benchmarks/kernels.py`. Medians."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from measure import median, table

from moesim.kernels.forms import Form, Rates, Times
from moesim.kernels.forms.attention import Decode, Prefill, mixed
from moesim.kernels.forms.experts import Experts
from moesim.kernels.forms.gemm import Gemm
from moesim.kernels.forms.rows import Rows
from moesim.kernels.shapes import AttentionShape, ExpertShape, MatrixShape, RowShape, Shape

H100 = Rates(989e12, 3.35e12, 132.0)
#: As many as a processor's cache holds columns of, so often.
CALLS, TIMES = 10_000, 20


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


def experts() -> float:
    random = np.random.default_rng(0)
    pairs = random.integers(1, 1 << 16, CALLS).astype(np.float64)
    touched = np.minimum(pairs, random.integers(1, 256, CALLS))
    sizes = pairs, pairs, touched, *(np.full(CALLS, each) for each in (256.0, 7168.0, 2048.0, 3.0))
    form = Experts(launch=4e-6, sorting=2e-6, expert=4e-9, pipeline=3e-9, compute=0.35, memory=0.78, overlap=1.5,
                   local=0.1, everywhere=2.5, fringe=1.0, tile=32.0)  # fmt: skip
    return speed(form, ExpertShape(*sizes, 2.0, 2.0))


PREFILL = Prefill(launch=1e-5, compute=0.7, memory=0.6, width_power=0.9, tile=1e-6, tail=0.9, even=3.0, masked=0.02,
                  packed=0.5, blend=1.5, append=0.3, token=3e-10)  # fmt: skip
DECODE = Decode(launch=6e-6, compute=0.3, memory=0.9, width_power=1.0, rows=32.0, keys=100.0, round=1e-6, split=500.0,
                most=64.0, occupancy=1.0, fill=1.5, blend=2.0)  # fmt: skip


@dataclass(frozen=True)
class Mixed:
    """Chunks and decoding sequences in one kernel, called like a form."""

    def times(self, shape: AttentionShape, rates: Rates) -> Times:
        return mixed(PREFILL, DECODE, shape, rates)


def attention(form: Form) -> float:
    """Of batches with both parts, of one model."""
    random = np.random.default_rng(0)
    decodes, chunks = (random.integers(1, most, CALLS).astype(np.float64) for most in (256, 8))
    queries = chunks * random.integers(16, 2048, CALLS)
    model = (np.full(1, each) for each in (32.0, 8.0, 128.0, 128.0, 0.0))
    shape = AttentionShape(
        decodes, 1000.0 * decodes, chunks, queries, queries**2 / chunks / 2.0, 1.5 * queries, *model, 2.0, 2.0
    )
    return speed(form, shape)


def speed(form: Form, shape: Shape) -> float:
    """Millions of calls per second of processor time."""

    def once() -> float:
        begin = time.process_time()
        for _ in range(TIMES):
            form.times(shape, H100)
        return TIMES * CALLS / (time.process_time() - begin) / 1e6

    return median(once, 5)


if __name__ == "__main__":
    found = {"gemm": (matrix_products(), 0.5), "norm, elementwise, ...": (streams(), 3.0), "experts": (experts(), 3.0),
             "attention, chunks": (attention(PREFILL), 3.0), "attention, decoding": (attention(DECODE), 3.0),
             "attention, mixed": (attention(Mixed()), 3.0)}  # fmt: skip
    rows = [[name, f"{calls:.1f}", f"{least:g}"] for name, (calls, least) in found.items()]
    table("Millions of calls per second", ["form", "median", "at least"], rows)
