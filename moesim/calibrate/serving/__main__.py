"""`python -m moesim.calibrate.serving DATA OUT`: predictions of all measured runs, or of the measured points.

With `--fit` the engine's parameters are fitted to the runs of half of the models first, and printed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from moesim.calibrate.serving.fit import Parameters, fit
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
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
def main(data: Path, out: Path, points: bool, fits: bool, workers: int) -> None:
    """Simulate what was measured in DATA and write the predictions to OUT."""
    if points:
        _write(out, _point_rows(data, workers))
        return
    runs = measured_runs(data)
    changes = fit(_half(runs), FAMILIES, workers=workers, progress=_say).overrides(FAMILIES) if fits else []
    _write(out, (row for found in replay_all(runs, changes, workers=workers) for row in predictions([found])))


def _half(runs: Iterable[Run]) -> list[Run]:
    """Runs of the fitted models, equal workloads once."""
    scored = [run for run in runs if run.scored and run.workload == run.id]
    return [run for run, chosen in zip(scored, fitted_half([run.model for run in scored]), strict=True) if chosen]


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
