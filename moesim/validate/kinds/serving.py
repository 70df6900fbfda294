"""Measured serving runs, replayed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from moesim.validate.cases import Found, Setting, case

Measure = Literal["ttft", "tpot", "itl", "e2e"]
Statistic = Literal["mean", "p50", "p90", "p95", "p99"]


@case("serving_latency", unit="second")
def serving_latency(
    setting: Setting, *, experiment: str, workload: str, measure: Measure, statistic: Statistic
) -> Found:  # fmt: skip
    """A statistic of a run that replays a measured run's requests.

    Args:
        experiment: of the library. workload: its trace, below the data folder.
    """
    summary = _summary(experiment, setting.file(workload))
    return Found(float(summary[measure][statistic]), detail=f"{summary['requests']['finished']} requests")


@case("serving_throughput", unit="1/second")
def serving_throughput(setting: Setting, *, experiment: str, workload: str) -> Found:
    """Output tokens per second, as `serving_latency`."""
    return Found(float(_summary(experiment, setting.file(workload))["throughput"]["output_tokens"]))


@lru_cache(maxsize=8)
def _summary(experiment: str, workload: Path) -> dict[str, Any]:
    """The summary of a run, simulated once for all its cases."""
    from moesim.results.metrics import summarise
    from moesim.serving.simulate import simulate
    from moesim.spec.loading import load_experiment

    loaded = load_experiment(experiment, [f"requests.trace={workload}"])
    return summarise(simulate(loaded.spec), loaded.spec.slo)
