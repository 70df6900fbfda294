"""Errors of simulated serving runs by the rules of their publication: stages that never drained are left out, cold
ones are compared at the 90th percentile, the stages of a run are averaged, equal workloads count as one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from moesim.calibrate.serving.measured import Run, Stage
from moesim.calibrate.serving.replay import Latencies

METRICS = ("e2e", "ttft", "tpot")


@dataclass(frozen=True)
class Score:
    """Relative errors of a workload, with their sign, each the mean over its stages. absolute: of their sizes. within:
    share of its stages whose measured value lies in the simulator's 80 % interval."""

    workload: str
    model: str
    moe: bool
    system: str
    signed: Mapping[str, float]
    absolute: Mapping[str, float]
    within: Mapping[str, float]


def stage_errors(stage: Stage, simulated: Latencies) -> dict[str, float]:
    """Relative errors with their sign, by metric."""
    return {metric: guess / measured - 1.0 for metric, (guess, measured) in compared(stage, simulated).items()}


def compared(stage: Stage, simulated: Latencies) -> dict[str, tuple[float, float]]:
    """(Simulated, measured) by metric, means or 90th percentiles."""
    at = "p90" if stage.tail else "mean"
    return {
        "e2e": (simulated.e2e_p90 if stage.tail else simulated.e2e, stage.e2e[at]),
        "ttft": (simulated.ttft_p90 if stage.tail else simulated.ttft, stage.ttft[at]),
        "tpot": (simulated.tpot, stage.tpot),
    }


def stage_within(stage: Stage, simulated: Latencies) -> dict[str, bool]:
    """Whether the measured value lies in the simulator's 80 % interval, by metric."""
    values = compared(stage, simulated).items()
    return {metric: simulated.within(metric, measured, guess) for metric, (guess, measured) in values}


def scores(runs: Sequence[Run], simulated: Iterable[Sequence[Latencies]]) -> list[Score]:
    """One per workload, from the scored runs and their latencies in the same order."""
    groups: dict[str, tuple[Run, list[tuple[Stage, Latencies]]]] = {}
    for run, found in zip((run for run in runs if run.scored), simulated, strict=True):
        stages = [stage for stage in run.stages if stage.scored]
        groups.setdefault(run.workload, (run, []))[1].extend(zip(stages, found, strict=True))
    return [_score(name, run, pairs) for name, (run, pairs) in groups.items()]


def _score(name: str, run: Run, pairs: Sequence[tuple[Stage, Latencies]]) -> Score:
    errors = [stage_errors(*pair) for pair in pairs]
    within = [stage_within(*pair) for pair in pairs]
    return Score(
        workload=name,
        model=run.model,
        moe=run.moe,
        system=run.system,
        signed={metric: statistics.mean(each[metric] for each in errors) for metric in METRICS},
        absolute={metric: statistics.mean(abs(each[metric]) for each in errors) for metric in METRICS},
        within={metric: statistics.mean(each[metric] for each in within) for metric in METRICS},
    )


def median_error(scored: Iterable[Score], metric: str, keep: Callable[[Score], bool] = lambda _: True) -> float:
    """Median over workloads of the absolute relative error."""
    return statistics.median(each.absolute[metric] for each in scored if keep(each))


def predictions(simulated: Iterable[Sequence[Latencies]]) -> list[dict[str, str | int | float]]:
    """Rows of a table of predictions, in milliseconds."""
    return [
        {
            "id": each.run,
            "stage": each.stage,
            **{
                f"{name}_ms": 1e3 * getattr(each, name)
                for name in ("ttft", "tpot", "e2e", "ttft_p90", "e2e_p90")
            },
        }
        for found in simulated
        for each in found
    ]  # fmt: skip
