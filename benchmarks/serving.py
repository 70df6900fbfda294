"""How long the main jobs take: `python benchmarks/serving.py [REPEATS]`. Medians; run it on a quiet machine."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from measure import command, median, middle, simulation, table

AZURE = Path(os.environ.get("MOESIM_DATA", "../shared/data")) / "requests" / "requests_azure_conv_2023.csv.gz"
#: What each job may take: seconds of the command, seconds of the simulation proper.
LIMITS = {"quickstart": (8.0, 1.0), "replay": (10.0, None), "large": (None, 3.0), "large, compiled": (None, 1.5)}


def synthetic_replay(folder: Path) -> Path:
    """A trace of the size and rate of the Azure conversation trace of 2023: 19,366 requests in 3,500 seconds."""
    import numpy as np

    random = np.random.default_rng(1)
    arrivals = np.sort(random.uniform(0, 3500, 19_366))
    inputs = np.clip(random.lognormal(6.6, 0.9, 19_366), 3, 4000).astype(int)
    outputs = np.clip(random.lognormal(5.1, 0.8, 19_366), 1, 1000).astype(int)
    path = folder / "replay.csv"
    lines = [f"{a:.4f},{i},{o}" for a, i, o in zip(arrivals, inputs, outputs, strict=True)]
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "\n".join(lines) + "\n")
    return path


def main(repeats: int) -> None:
    compiled = find_spec("numba") is not None
    plain = {"MOESIM_NUMBA": "0"}
    with tempfile.TemporaryDirectory() as folder:
        trace = AZURE.resolve() if AZURE.exists() else synthetic_replay(Path(folder))
        jobs = {
            "quickstart": ("experiments/quickstart.yaml", [], plain),
            "replay": ("experiments/quickstart.yaml", [f"requests.trace={trace}"], plain),
            "large": ("benchmarks/large.yaml", [], plain),
            "large, no plan reuse": ("benchmarks/large.yaml", ["plan_reuse=false"], plain),
        }
        if compiled:
            jobs["large, compiled"] = ("benchmarks/large.yaml", [], {})
            jobs["large, no plan reuse, compiled"] = ("benchmarks/large.yaml", ["plan_reuse=false"], {})
        found = {}
        for name, (experiment, overrides, environment) in jobs.items():
            found[name] = [simulation(experiment, overrides, **environment) for _ in range(repeats)]
    rows = []
    for name, runs in found.items():
        wall, proper = LIMITS.get(name, (None, None))
        rows.append(
            [
                name,
                f"{middle(runs, 'steps'):,.0f}",
                f"{middle(runs, 'simulation'):.2f} s" + (f" (limit {proper:g})" if proper else ""),
                f"{middle(runs, 'wall'):.2f} s" + (f" (limit {wall:g})" if wall else ""),
                f"{max(run['peak'] for run in runs) / 1e6:,.0f} MB",
            ]
        )
    source = "Azure 2023 conversation trace" if AZURE.exists() else "a synthetic trace of its size"
    table(
        f"Serving runs (replay: {source})", ["job", "steps", "simulation", "command with figures", "peak so far"], rows
    )
    without = middle(found["large, no plan reuse"], "simulation") / middle(found["large"], "simulation")
    print(f"\nwithout plan reuse: {without:.1f} times as long")
    print(f"`moesim --help`: {median(lambda: command('--help'), 2 * repeats):.2f} s (limit 0.4)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
