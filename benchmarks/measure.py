"""Repeat something and report medians; every ratio that is printed was measured in one run of this process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent

#: What was measured of one command: wall and processor seconds, peak bytes of memory, and what else there is to say.
Run = dict[str, float]


def median(action: Callable[[], float], repeats: int) -> float:
    """The median of `repeats` values of an action, after one that does not count."""
    action()
    return statistics.median(action() for _ in range(repeats))


def command(*arguments: str, **environment: str) -> Run:
    """Run a `moesim` command, which must succeed, in a process of its own."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "moesim", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"moesim {' '.join(arguments)} failed")
    wall, unit = time.perf_counter() - begin, 1 if sys.platform == "darwin" else 1024
    return {"wall": wall, "processor": usage.ru_utime + usage.ru_stime, "peak": float(usage.ru_maxrss * unit)}


def simulation(experiment: str, overrides: Sequence[str] = (), *, figures: bool = True, **environment: str) -> Run:
    """Run an experiment; adds wall seconds of the simulation proper, and its steps."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "results"
        sets = [part for override in overrides for part in ("--set", override)]
        plain = [] if figures else ["--no-figures"]
        run = command("run", experiment, *sets, *plain, "--output", str(output), **environment)
        manifest = json.loads((output / "manifest.json").read_text())
        summary = json.loads((output / "summary.json").read_text())
    return run | {"simulation": manifest["timing"]["simulation"], "steps": summary["steps"]}


def middle(runs: Sequence[Run], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def ratio(above: Sequence[Run], below: Sequence[Run], key: str) -> float:
    """Median of the ratios of runs that were made one after the other."""
    return statistics.median(a[key] / b[key] for a, b in zip(above, below, strict=True))


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(f"\n{title}\n")
    print(f"| {' | '.join(header)} |")
    print(f"| {' | '.join('---' for _ in header)} |")
    for row in rows:
        print(f"| {' | '.join(row)} |")
