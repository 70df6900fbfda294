"""Measured serving points: deployments, together or apart, under closed loops of fixed concurrency."""

from __future__ import annotations

import statistics
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from moesim.calibrate.serving.silicon import (
    MODELS,
    PointScore,
    fitted_models,
    measured_points,
    rank_correlation,
    replay_points,
    scored,
)
from moesim.spec.errors import MoesimError
from moesim.validate.cases import Found, Setting, case

Models = Literal["all", "MoE", "dense", "fitted", "held out", "fitted MoE", "held out MoE"]
Mode = Literal["all", "agg", "disagg"]

#: Processes that simulate.
_WORKERS = 2


@case("measured_points")
def measured_points_error(
    setting: Setting, *, metric: Literal["ttft", "tpot"], models: Models = "all", mode: Mode = "all"
) -> Found:
    """The median absolute relative error of a latency over measured points. `fitted`: of the models on which the
    engines' parameters were fitted; `held out`: of the others."""
    found = _chosen(setting, models, mode)
    predicted = [each for each in found if each.simulated is not None]
    groups: dict[str, list[float]] = {}
    for each in predicted:
        groups.setdefault(each.name, []).append(each.errors[metric])
    rows = [f"{name}: {100 * statistics.median(errors):+.1f} % of {len(errors)}" for name, errors in groups.items()]
    return Found(
        error=statistics.median(abs(each.errors[metric]) for each in predicted),
        rows=len(predicted),
        detail="\n".join(rows),
    )


@case("predicted_points")
def predicted_points(setting: Setting, *, models: Models = "all", mode: Mode = "all") -> Found:
    """The share of the measured points that can be simulated."""
    found = _chosen(setting, models, mode)
    failed = dict.fromkeys(each.failure for each in found if each.simulated is None)
    share = sum(each.simulated is not None for each in found) / len(found)
    return Found(share, rows=len(found), detail="\n".join(failed))


@case("ranked_points")
def ranked_points(setting: Setting, *, models: Models = "all", mode: Mode = "all") -> Found:
    """The rank correlation of simulated and measured TPOT."""
    found = [each for each in _chosen(setting, models, mode) if each.simulated is not None]
    simulated = np.array([each.simulated.tpot for each in found if each.simulated is not None])
    measured = np.array([each.point.tpot for each in found])
    return Found(rank_correlation(simulated, measured), rows=len(found))


def _chosen(setting: Setting, models: Models, mode: Mode) -> list[PointScore]:
    assert setting.data is not None
    fitted = fitted_models()
    kept = []
    for each in _scores(setting.data):
        model = MODELS[each.point.inputs["model_path"]]
        belongs = {
            "all": True,
            "MoE": each.point.moe,
            "dense": not each.point.moe,
            "fitted": model in fitted,
            "held out": model not in fitted,
            "fitted MoE": each.point.moe and model in fitted,
            "held out MoE": each.point.moe and model not in fitted,
        }[models]
        if belongs and mode in ("all", each.point.inputs["mode"]):
            kept.append(each)
    if not kept:
        raise MoesimError(f"no measured point is of {models} models ({mode})", fix="give a data folder that holds some")
    return kept


@lru_cache(maxsize=2)
def _scores(data: Path) -> tuple[PointScore, ...]:
    """Of all points, simulated once for all cases."""
    points = measured_points(data)
    return tuple(scored(points, replay_points(points, _WORKERS)))
