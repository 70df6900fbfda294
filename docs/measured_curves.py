"""Measured serving runs beside simulated ones, as curves: docs/images/measured-latency.png and measured-load.png.

The measured requests and runs are not part of this repository: they are read from the folder that MOESIM_DATA names,
and the figures show their percentiles and means alone.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import examples
import measured_runs
import numpy as np

from moesim.calibrate.serving.measured import Run
from moesim.calibrate.serving.measured import measured_runs as published_runs
from moesim.calibrate.serving.replay import replay_all
from moesim.calibrate.split import fitted_half
from moesim.report.style import BLUE, COLUMN, INK, blank, printed, save
from moesim.results.tables import request_columns
from moesim.validate.kinds.serving import replay

IMAGES = examples.ROOT / "docs" / "images"
#: Percentiles that stand for the measured requests.
PERCENTILES = np.arange(1, 100)
MEASURES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}
#: Deployments that were measured at several rates, with prompts of 570 to 600 tokens and outputs of 248.
DEPLOYMENTS = (("mixtral-8x7b", 2), ("llama-2-70b", 4), ("codellama-34b", 2), ("qwen3-14b", 1))


def draw(folder: Path) -> None:
    """Both figures, from the data folder."""
    IMAGES.mkdir(exist_ok=True)
    with printed():
        save(latencies(folder), IMAGES / "measured-latency", ("png",))
        save(loads(folder), IMAGES / "measured-load", ("png",))


def latencies(folder: Path) -> Any:
    """Distributions of latencies of the two runs whose requests were published."""
    figure = blank(COLUMN["double"], 1.75 * len(measured_runs.RUNS) + 0.3)
    grid = figure.subplots(len(measured_runs.RUNS), len(MEASURES), squeeze=False, sharey=True)
    for row, run in zip(grid, measured_runs.RUNS, strict=True):
        simulated = request_columns(replay(run.experiment, folder / run.workload))
        for axes, (name, label) in zip(row, MEASURES.items(), strict=True):
            factor, unit = (1e3, "ms") if name == "tpot" else (1.0, "s")
            measured = factor * 1e-3 * np.percentile(_column(folder / run.workload, f"{name}_ms"), PERCENTILES)
            mine = factor * np.nanpercentile(np.asarray(simulated[name], float), PERCENTILES)
            axes.plot(measured, PERCENTILES, color=INK, linestyle=(0, (1.5, 1.5)), label="measured")
            axes.plot(mine, PERCENTILES, color=BLUE, label="simulated")
            axes.set(xlabel=f"{label} ({unit})", ylim=(0, 100), yticks=[0, 25, 50, 75, 100])
        row[0].set(ylabel="% of requests")
        row[0].set_title(run.title)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _column(path: Path, name: str) -> Any:
    with path.open(newline="", encoding="utf-8") as file:
        return np.array([float(row[name]) for row in csv.DictReader(file)])


def loads(folder: Path) -> Any:
    """Mean latencies against the rate of requests, of deployments that were measured at several."""
    everything = [run for run in published_runs(folder) if run.scored]
    points = _points([run for run in everything if _shown(run)])
    names = [run.model for run in everything]
    fitted = dict(zip(names, fitted_half(names), strict=True))
    figure = blank(COLUMN["double"], 1.25 * len(MEASURES) + 0.5)
    grid = figure.subplots(len(MEASURES), len(DEPLOYMENTS), squeeze=False, sharex=True, sharey="row")
    for column, (model, tp) in enumerate(DEPLOYMENTS):
        for axes, name in zip(grid[:, column], MEASURES, strict=True):
            factor = 1.0 if name == "e2e" else 1e3
            rates, measured, simulated = np.array(points[model, tp, name]).T
            axes.plot(rates, factor * simulated, color=BLUE, label="simulated")
            axes.plot(rates, factor * measured, color=INK, marker="o", markersize=3, linestyle="none", label="measured")
        grid[0][column].set_title(f"{model}, TP {tp}" + ("" if fitted[model] else "\n(held out)"))
        grid[-1][column].set(xlabel="requests per second", xlim=(0, None))
    for row, (name, label) in zip(grid, MEASURES.items(), strict=True):
        row[0].set(ylabel=f"{label} ({'s' if name == 'e2e' else 'ms'})", ylim=(0, None))
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _points(runs: list[Run]) -> dict[tuple[str, int, str], list[tuple[float, float, float]]]:
    """By model, TP and measure: rate, measured and simulated mean of each stage, in the order of rates. Stages whose
    begin was cold are left out, their means are not to be compared."""
    found: dict[tuple[str, int, str], list[tuple[float, float, float]]] = {}
    for run, simulated in zip(runs, replay_all(runs), strict=True):
        for stage, mine in zip((each for each in run.stages if each.scored), simulated, strict=True):
            measured = {"ttft": stage.ttft["mean"], "tpot": stage.tpot, "e2e": stage.e2e["mean"]}
            for name, value in measured.items() if not stage.tail else ():
                found.setdefault((run.model, run.tp, name), []).append((stage.rate, value, getattr(mine, name)))
    return {key: sorted(rows) for key, rows in found.items()}


def _shown(run: Run) -> bool:
    """One of several runs of equal load is enough."""
    return (run.model, run.tp) in DEPLOYMENTS and run.system == "dgx-h100" and run.prefix == 100 and run.id not in _SAME


#: Runs with the load of another one of the same deployment.
_SAME = ("28", "29", "30")
