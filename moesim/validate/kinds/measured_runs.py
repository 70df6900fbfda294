"""Measured serving runs sent again as they were sent: errors over all of them, and single runs that are typed in."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from moesim.calibrate.serving.left_out import as_left_out
from moesim.calibrate.serving.measured import Run, Stage, measured_runs
from moesim.calibrate.serving.replay import Latencies, replay, replay_all
from moesim.calibrate.serving.scores import Score, scores
from moesim.calibrate.split import fitted_half
from moesim.spec.errors import MoesimError
from moesim.validate.cases import Found, Setting, case

Metric = Literal["ttft", "tpot", "e2e"]
Models = Literal["all", "MoE", "dense", "fitted", "held out"]
#: `shipped`: of the engine's descriptor. `left out`: for each model those fitted to all others.
Parameters = Literal["shipped", "left out"]

#: Processes that simulate.
_WORKERS = 2


@case("measured_runs")
def measured_runs_error(
    setting: Setting,
    *,
    metric: Metric,
    models: Models = "all",
    statistic: Literal["median", "mean"] = "median",
    parameters: Parameters = "shipped",
) -> Found:
    """The absolute relative error of a latency over measured runs, each the mean of its stages; runs of one workload
    count as one. `fitted`: of the models whose runs the engine's parameters were fitted to; `held out`: of the others.
    """
    kept = _kept(setting, models, parameters)
    middle = statistics.median if statistic == "median" else statistics.mean
    rows = [f"{_name(each)}: {100 * each.signed[metric]:+.1f} %" for each in kept]
    return Found(error=middle(each.absolute[metric] for each in kept), rows=len(kept), detail="\n".join(rows))


@case("measured_runs_within")
def measured_runs_within(
    setting: Setting, *, metric: Metric, models: Models = "all", parameters: Parameters = "shipped"
) -> Found:
    """The share of measured stages, each run the mean of its own, that lie in the simulator's 80 % intervals."""
    kept = _kept(setting, models, parameters)
    rows = [f"{_name(each)}: {100 * each.within[metric]:.0f} %" for each in kept]
    return Found(statistics.mean(each.within[metric] for each in kept), rows=len(kept), detail="\n".join(rows))


def _kept(setting: Setting, models: Models, parameters: Parameters) -> list[Score]:
    """Scores of the workloads of some models."""
    assert setting.data is not None
    found = _scores(setting.data, parameters)
    fitted = dict(zip((each.model for each in found), fitted_half([each.model for each in found]), strict=True))
    belongs = {
        "all": [True for _ in found],
        "MoE": [each.moe for each in found],
        "dense": [not each.moe for each in found],
        "fitted": [bool(fitted[each.model]) for each in found],
        "held out": [not fitted[each.model] for each in found],
    }[models]
    kept = [each for each, mine in zip(found, belongs, strict=True) if mine]
    if not kept:
        raise MoesimError(f"no measured run is of {models} models", fix="give a data folder that holds some")
    return kept


@case("measured_stage", unit="second")
def measured_stage(
    setting: Setting,
    *,
    model: str,
    system: str,
    tp: int,
    prefix: int,
    prompt: int,
    output: int,
    loads: tuple[tuple[float, float], ...],
    stage: int,
    metric: Metric,
    token_budget: int = 2048,
) -> Found:
    """The mean of a latency in a stage of one run.

    Args:
        prompt: tokens of a prompt, `prefix` of them shared by ten prompts of a hundred. loads: requests per second and
            seconds of each stage.
    """
    found = _stages(model, system, tp, token_budget, prefix, prompt, output, loads)[stage]
    return Found(float(getattr(found, metric)))


def _name(each: Score) -> str:
    return f"{each.workload}, {each.model} on {each.system}"


@lru_cache(maxsize=4)
def _scores(data: Path, parameters: Parameters) -> tuple[Score, ...]:
    runs, found = _simulated(data)
    if parameters == "left out":
        scored = [run for run in runs if run.scored]
        found = [[as_left_out(run.model, each) for each in part] for run, part in zip(scored, found, strict=True)]
    return tuple(scores(runs, found))


@lru_cache(maxsize=2)
def _simulated(data: Path) -> tuple[Sequence[Run], list[list[Latencies]]]:
    """All runs, simulated once for all cases."""
    runs = measured_runs(data)
    return runs, list(replay_all(runs, workers=_WORKERS))


@lru_cache(maxsize=64)
def _stages(
    model: str,
    system: str,
    tp: int,
    token_budget: int,
    prefix: int,
    prompt: int,
    output: int,
    loads: tuple[tuple[float, float], ...],
) -> tuple[Latencies, ...]:
    """A run, simulated once for all its cases. vLLM 0.15.1 as all these runs had it: 128 sequences, blocks of 16."""
    stages = tuple(
        Stage(number, rate, duration, ttft={}, e2e={}, tpot=0.0, scored=True, tail=False)
        for number, (rate, duration) in enumerate(loads)
    )
    run = Run(
        id="typed",
        model=model,
        moe=False,
        system=system,
        tp=tp,
        token_budget=token_budget,
        max_sequences=128,
        block_size=16,
        memory_utilization=0.9,
        groups=10,
        prompts=100,
        prefix=prefix,
        prompt=prompt,
        output=output,
        stages=stages,
    )
    return tuple(replay(run))
