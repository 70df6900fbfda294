"""How many kernel calls a second the measured rooflines price: python benchmarks/kernels.py"""

from __future__ import annotations

import time

import numpy as np
from measure import median

from moesim.kernels.forms import Rates
from moesim.kernels.forms.experts import Experts
from moesim.kernels.shapes import ExpertShape

H200 = Rates(compute=989e12, memory=4.8e12, units=132.0)

#: Calls priced at once: as many as a processor's cache holds columns of.
CALLS = 10_000


def experts() -> float:
    """Calls of fused experts per second, one thread."""
    stream = np.random.default_rng(0)
    pairs = stream.integers(1, 1 << 16, CALLS).astype(np.float64)
    touched = np.minimum(pairs, stream.integers(1, 256, CALLS))
    sizes = pairs, pairs, touched, *(np.full(CALLS, each) for each in (256.0, 7168.0, 2048.0, 3.0))
    shape = ExpertShape(*sizes, 2.0, 2.0)
    form = Experts(launch=4e-6, sorting=2e-6, expert=4e-9, pipeline=3e-9, compute=0.35, memory=0.78, overlap=1.5,
                   local=0.1, everywhere=2.5, fringe=1.0, tile=32.0)  # fmt: skip

    def once() -> float:
        begin = time.perf_counter()
        for _ in range(20):
            form.times(shape, H200)
        return 20 * CALLS / (time.perf_counter() - begin)

    return median(once, 9)


if __name__ == "__main__":
    print(f"fused experts: {experts() / 1e6:.1f} million calls/s")
