"""Repeat something and report medians; every ratio that is printed was measured in one run of this process."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def median(action: Callable[[], float], repeats: int) -> float:
    """The median of `repeats` values of an action, after one that does not count."""
    action()
    return statistics.median(action() for _ in range(repeats))


def command(*arguments: str, **environment: str) -> float:
    """Wall seconds of a `moesim` command, which must succeed."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "moesim", *arguments],
        check=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - begin


def simulation(experiment: str, overrides: Sequence[str] = (), **environment: str) -> dict[str, float]:
    """Run an experiment in a process of its own: wall seconds of the command and of the simulation proper, peak bytes
    of memory, steps."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "results"
        sets = [part for override in overrides for part in ("--set", override)]
        wall = command("run", experiment, *sets, "--output", str(output), **environment)
        manifest = json.loads((output / "manifest.json").read_text())
        summary = json.loads((output / "summary.json").read_text())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024.0
    return {"wall": wall, "simulation": manifest["timing"]["simulation"], "peak": peak, "steps": summary["steps"]}


def middle(runs: Sequence[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(f"\n{title}\n")
    print(f"| {' | '.join(header)} |")
    print(f"| {' | '.join('---' for _ in header)} |")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()
