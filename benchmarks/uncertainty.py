"""What `moesim run --uncertainty` costs: `python benchmarks/uncertainty.py [REPEATS]`, in processor seconds.

32 repeats may cost at most 40 runs: nominal run and repeats together, over the simulation of one run.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measure import ROOT, table

from moesim.running import Uncertainty, run
from moesim.serving.simulate import Simulation
from moesim.spec.loading import load_experiment

LIMIT = 40.0


def processor(action: Callable[[], object]) -> float:
    """Seconds of this process and of those it started and waited for."""

    def used() -> float:
        who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, who))

    before = used()
    action()
    return used() - before


def main(repeats: int) -> None:
    rows = []
    for name in ("experiments/quickstart.yaml", "benchmarks/large.yaml"):
        experiment = load_experiment(ROOT / name)
        one = statistics.median(processor(lambda e=experiment: Simulation(e.spec).run()) for _ in range(3))
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                wanted, output = Uncertainty(repeats, workers), Path(folder) / "results"
                whole = processor(lambda e=experiment, o=output, w=wanted: run(e, o, figures=False, uncertainty=w))
            rows.append([name, str(workers), f"{one:.2f}", f"{whole:.1f}", f"{whole / one:.1f} (limit {LIMIT:g})"])
    header = ["experiment", "processes", "one simulation, s", f"run with {repeats} repeats, s", "ratio"]
    table("Repeated runs", header, rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 32)
