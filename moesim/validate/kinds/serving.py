"""Measured serving runs, replayed request by request."""

from __future__ import annotations

import csv
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moesim.validate.cases import Found, Setting, case

if TYPE_CHECKING:
    from moesim.engine.record import RunRecord

Measure = Literal["ttft", "tpot", "itl", "e2e"]
Statistic = Literal["mean", "p50", "p90", "p95", "p99"]


@case("serving_latency", unit="second")
def serving_latency(
    setting: Setting, *, experiment: str, workload: str, measure: Measure, statistic: Statistic
) -> Found:  # fmt: skip
    """A statistic of a run that replays a measured run's requests.

    Args:
        experiment: of the library. workload: the measured requests, below the data folder, with the engine's own times
            of arrival (`queued_s_measured`).
    """
    summary = replayed(experiment, setting.file(workload))
    return Found(float(summary[measure][statistic]), detail=f"{summary['requests']['finished']} requests")


@case("serving_throughput", unit="1/second")
def serving_throughput(setting: Setting, *, experiment: str, workload: str) -> Found:
    """Output tokens per second, as `serving_latency`."""
    return Found(float(replayed(experiment, setting.file(workload))["throughput"]["output_tokens"]))


@lru_cache(maxsize=8)
def replayed(experiment: str, workload: Path) -> dict[str, Any]:
    """The summary of a run that replays measured requests, simulated once for all its cases."""
    from moesim.results.metrics import summarise

    return summarise(replay(experiment, workload))


def replay(experiment: str, workload: Path) -> RunRecord:
    """A run that replays measured requests, in the order in which the engine queued them."""
    from moesim.serving.simulate import simulate
    from moesim.spec.loading import load_experiment

    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "queued.csv"
        _write_queued(workload, trace)
        return simulate(load_experiment(experiment, [f"requests.trace={trace}"]).spec)


def _write_queued(requests: Path, trace: Path) -> None:
    """Measured requests as a trace, in the order in which the engine queued them."""
    with requests.open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["queued_s_measured"]))
    with trace.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["arrival_s", "prompt_tokens", "output_tokens"])
        writer.writerows([row["queued_s_measured"], row["prompt_tokens"], row["output_tokens"]] for row in rows)
