"""What a sweep adds to its simulations, how fast known points come back, how long the configurator takes.

    python benchmarks/sweep.py

Targets: under 5 ms a point beyond the simulation; 1,000 points of an experiment of 50 ms on two processors in under
30 s; 10,000 known points in under 2 s; DeepSeek-V3 on 256 GPUs in under 10 s.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moesim.explore.backends import local
from moesim.explore.configure import configure
from moesim.explore.points import evaluate, job
from moesim.explore.sweep import Resources, sweep_points
from moesim.explore.table import table, write
from moesim.explore.version import code_version
from moesim.spec.study import Study, load_study

#: An experiment of about 50 ms.
EXPERIMENT: dict[str, Any] = {
    "name": "small",
    "model": {
        "name": "tiny", "layers": 2, "hidden": 256, "vocabulary": 1000, "context": 2048,
        "attention": {"heads": 8, "kv_heads": 4, "head_dim": 32}, "moe": {"experts": 8, "top_k": 2, "width": 128},
    },
    "machine": {"devices": {"rtx4090": 4}, "fabric": "pcie4-host"},
    "parallelism": {"dp": 2, "ep": 2},
    "engine": "vllm-0.19",
    "requests": {"mix": "fixed-512-128", "rate": "10/s", "count": 8},
}  # fmt: skip


def study(points: int) -> Study:
    return load_study({"name": "bench", "experiment": EXPERIMENT, "axes": {"seed": list(range(points))}})


@contextmanager
def timed(what: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - begin:.2f} s")


def main() -> None:
    work = job(study(1).base.load(["seed=0"]).spec, 0, code_version())
    outcome = evaluate(work)
    with timed("one point by itself"):
        evaluate(work)
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "known"
        computes, local.evaluate = local.evaluate, lambda _: outcome  # what is left is the sweep's own work
        with timed("10,000 points without their simulations"):
            sweep_points(study(10_000), Resources(workers=1, cache=known))
        local.evaluate = computes
        with timed("10,000 known points, with the table"):
            swept = sweep_points(study(10_000), Resources(workers=1, cache=known))
            write(table(swept.points, swept.outcomes, repeats=False), Path(folder) / "points.parquet")
        with timed("1,000 points on two processors"):
            sweep_points(study(1000), Resources(workers=2, cache=Path(folder) / "new"))
    with timed("DeepSeek-V3 on 256 GPUs"):
        configure("deepseek-v3", "dgx-h200", devices=256)


if __name__ == "__main__":
    main()
