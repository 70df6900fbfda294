"""How long the main jobs take: `python benchmarks/serving.py [REPEATS]`. Medians; run it on a quiet machine.

On a busy one, processor seconds say more than wall seconds, and the ratios more than either.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from measure import ROOT, Run, command, middle, ratio, simulation, table

AZURE = (
    Path(os.environ.get("MOESIM_DATA", ROOT / "measured-data")) / "requests/requests_azure_conv_2023.csv.gz"
)
#: What each job may take: seconds of the command, of the simulation proper, of the processor; MB of memory.
LIMITS = {
    "quickstart": (8.0, 1.0, None, 1000),
    "replay": (10.0, None, None, 1000),
    "large": (None, 3.0, None, 1000),
    "large, no plan reuse": (None, 15.0, None, 1000),
    "stages": (None, None, 3.0, 1000),
    "many": (None, 15.0, None, 400),
    "large, numba": (None, 1.5, None, 1000),
    "large, no plan reuse, numba": (None, 7.5, None, 1000),
}


WITHOUT_FIGURES = {"stages", "many"}


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


def measured(repeats: int) -> dict[str, list[Run]]:
    """All jobs in turns, so that what else the machine does meets them alike."""
    plain = {"MOESIM_NUMBA": "0"}
    with tempfile.TemporaryDirectory() as folder:
        trace = AZURE.resolve() if AZURE.exists() else synthetic_replay(Path(folder))
        jobs = {
            "quickstart": ("experiments/quickstart.yaml", [], plain),
            "replay": ("experiments/quickstart.yaml", [f"requests.trace={trace}"], plain),
            "large": ("benchmarks/large.yaml", [], plain),
            "large, no plan reuse": ("benchmarks/large.yaml", ["plan_reuse=false"], plain),
            "stages": ("benchmarks/stages.yaml", [], plain),
            "many": ("benchmarks/many.yaml", [], plain),
        }
        if find_spec("numba") is not None:
            jobs["large, numba"] = ("benchmarks/large.yaml", [], {})
            jobs["large, no plan reuse, numba"] = ("benchmarks/large.yaml", ["plan_reuse=false"], {})
        found: dict[str, list[Run]] = {name: [] for name in jobs}
        for _ in range(repeats):
            for name, (experiment, overrides, environment) in jobs.items():
                figures = name not in WITHOUT_FIGURES
                found[name].append(simulation(experiment, overrides, figures=figures, **environment))
    return found


def limited(value: str, limit: float | None, unit: str = "") -> str:
    return value if limit is None else f"{value} (limit {limit:g}{unit})"


def main(repeats: int) -> None:
    found = measured(repeats)
    rows = []
    for name, runs in found.items():
        wall, proper, processor, peak = LIMITS[name]
        rows.append(
            [
                name,
                f"{middle(runs, 'steps'):,.0f}",
                limited(f"{middle(runs, 'simulation'):.2f}", proper),
                limited(f"{middle(runs, 'wall'):.2f}", wall),
                limited(f"{middle(runs, 'processor'):.2f}", processor),
                limited(f"{max(run['peak'] for run in runs) / 1e6:,.0f}", peak),
            ]
        )
    source = "Azure 2023 conversation trace" if AZURE.exists() else "a synthetic trace of its size"
    header = [
        "job",
        "steps",
        "simulation, s",
        "command, s",
        "of the processor, s",
        "peak, MB",
    ]
    without = ", ".join(sorted(WITHOUT_FIGURES))
    table(f"Serving runs (replay: {source}; without figures: {without}), medians of {repeats}", header, rows)
    reuse = ratio(found["large, no plan reuse"], found["large"], "simulation")
    print(f"\nlarge, without plan reuse to with it: {reuse:.1f}")
    if "large, numba" in found:
        print(f"large, numba to numpy: {ratio(found['large, numba'], found['large'], 'simulation'):.2f}")
    command("--help")
    print(f"`moesim --help`: {middle([command('--help') for _ in range(4 * repeats)], 'wall'):.2f} s (limit 0.4)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
