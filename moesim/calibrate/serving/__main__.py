"""`python -m moesim.calibrate.serving DATA OUT`: predictions of all measured runs, or of the measured points.

With `--fit` the engine's parameters are fitted to the runs of half of the models first, and printed. With `--left-out`
those that all other models' runs fit are written for each model (`left_out.py`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from moesim.calibrate.serving.fit import Parameters, fit, fit_left_out
from moesim.calibrate.serving.measured import Run, measured_runs
from moesim.calibrate.serving.replay import replay_all
from moesim.calibrate.serving.scores import predictions
from moesim.calibrate.serving.silicon import measured_points, replay_points
from moesim.calibrate.split import fitted_half

#: Families of the GPUs of the runs, which share the factors.
FAMILIES = ("hopper", "ampere", "ada")


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--points", is_flag=True, help="The measured points instead of the runs.")
@click.option("--fit", "fits", is_flag=True, help="Fit to half of the models first, and predict with that.")
@click.option("--left-out", is_flag=True, help="The parameters with each model left out of the fit, in place of runs.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
def main(data: Path, out: Path, points: bool, fits: bool, left_out: bool, workers: int) -> None:
    """Simulate what was measured in DATA and write the predictions to OUT."""
    if points:
        _write(out, _point_rows(data, workers))
        return
    runs = measured_runs(data)
    if left_out:
        fitted = fit_left_out(_once(runs), FAMILIES, workers=workers, progress=_say)
        _write(out, ({"model": model, **each.scales, "gap": each.gap, "frontend": each.frontend}
                     for model, each in fitted.items()))  # fmt: skip
        return
    changes = fit(_half(runs), FAMILIES, workers=workers, progress=_say).overrides(FAMILIES) if fits else []
    _write(out, (row for found in replay_all(runs, changes, workers=workers) for row in predictions([found])))


def _half(runs: Iterable[Run]) -> list[Run]:
    """Runs of the fitted models."""
    scored = _once(runs)
    return [run for run, chosen in zip(scored, fitted_half([run.model for run in scored]), strict=True) if chosen]


def _once(runs: Iterable[Run]) -> list[Run]:
    """Scored runs, equal workloads once."""
    return [run for run in runs if run.scored and run.workload == run.id]


def _point_rows(data: Path, workers: int) -> Iterable[Mapping[str, float]]:
    points = measured_points(data)
    for point, found in zip(points, replay_points(points, workers), strict=True):
        if not isinstance(found, str):
            yield {"row": point.row, "ttft_ms": 1e3 * found.ttft, "tpot_ms": 1e3 * found.tpot}


def _write(out: Path, rows: Iterable[Mapping[str, object]]) -> None:
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow(row)
            file.flush()


def _say(parameters: Parameters) -> None:
    click.echo(" ".join(parameters.overrides(FAMILIES[:1])))


if __name__ == "__main__":
    main()
