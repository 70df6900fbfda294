"""`moesim sweep`: an experiment along axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from moesim.cli.options import INTERRUPTED, set_option

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def resource_options(command: CommandT) -> CommandT:
    """Where points are computed and remembered: --backend, --address, --workers, --cache."""
    options = (
        click.option("--backend", default="local", metavar="NAME", show_default=True, help="local, dask or ray."),
        click.option("--address", metavar="ADDRESS", help="Of the backend's scheduler; without it one starts here."),
        click.option("--workers", type=int, metavar="N", help="Processes on this machine. Default: one per processor."),
        click.option(
            "--cache",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Where finished points are remembered. Default: MOESIM_CACHE, or ~/.cache/moesim.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command("sweep", short_help="Simulate an experiment along axes, into one table.")
@click.argument("study")
@set_option
@click.option("--axis", "axes", multiple=True, metavar="KEY=VALUES",
              help="Values of a key between commas, or {low: 1, high: 10, count: 5, scale: log}; "
              "'KEY=VALUES if OTHER=VALUE' where it is conditional. May be repeated.")  # fmt: skip
@click.option("--zip", "zipped", multiple=True, metavar="KEY=VALUES", help="Axes that are varied together.")
@click.option("--sample", metavar="METHOD:N", help="N points (sobol, halton or random) instead of the whole grid.")
@click.option("--seed", type=int, default=0, metavar="N", help="Of the samples.")
@click.option("--repeats", type=int, metavar="N", help="Repeat every point N times, for intervals.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Default: results/<name of the study>.")
@click.option("--overwrite", is_flag=True, help="Replace the folder of another study.")
@resource_options
def sweep_command(
    study: str,
    overrides: tuple[str, ...],
    axes: tuple[str, ...],
    zipped: tuple[str, ...],
    sample: str | None,
    seed: int,
    repeats: int | None,
    output: Path | None,
    overwrite: bool,
    backend: str,
    address: str | None,
    workers: int | None,
    cache: Path | None,
) -> None:
    """Sweep STUDY: a YAML file with axes, or an experiment and --axis.

    Every point is kept in a cache when it is finished. After Ctrl-C (exit code 130) the same command goes on where it
    was.
    """
    from moesim.explore.axes import axis_changes
    from moesim.spec.study import load_study, refuse_experiment

    changes = axis_changes(axes, zipped, sample, seed)
    if repeats is not None:
        changes["repeats"] = repeats
    loaded = load_study(study, overrides, changes)
    refuse_experiment(loaded)
    from moesim.cli.running import request_progress
    from moesim.explore.console import print_sweep
    from moesim.explore.figure import draw_figure
    from moesim.explore.folder import check_folder, write_folder
    from moesim.explore.sweep import Resources, plan, sweep_points
    from moesim.explore.table import frame, table

    plan(loaded.spec)  # mistakes are said before anything is looked at
    target = output if output is not None else Path("results") / loaded.spec.name
    check_folder(target, loaded, overwrite=overwrite)
    with request_progress() as progress:
        swept = sweep_points(loaded, Resources(backend, address, workers, cache), partial(progress, what="points"))
    points = table(swept.points, swept.outcomes, loaded.spec.repeats > 0)
    about = {"points": len(swept.outcomes), "partial": swept.interrupted}
    write_folder(target, loaded, points, about)
    if loaded.spec.figure is not None and "ok" in points["status"].to_pylist():
        draw_figure(frame(points), loaded.spec.figure, target / "figures")
    print_sweep(loaded, swept, points, target)
    if swept.interrupted:
        click.get_current_context().exit(INTERRUPTED)
