"""`moesim search`: the best points of a space."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from moesim.cli.options import INTERRUPTED, set_option
from moesim.cli.sweeping import resource_options


@click.command("search", short_help="Find the Pareto front of an experiment along axes.")
@click.argument("study")
@set_option
@click.option("--axis", "axes", multiple=True, metavar="KEY=VALUES", help="As of `moesim sweep`. May be repeated.")
@click.option("--zip", "zipped", multiple=True, metavar="KEY=VALUES", help="Axes that are varied together.")
@click.option("--objective", "objectives", multiple=True, metavar="METRIC",
              help="latency, throughput, cost, energy, power, area, or any metric; 'maximise METRIC' where it is not "
              "plain. May be repeated.")  # fmt: skip
@click.option("--constraint", "constraints", multiple=True, metavar="CONDITION",
              help="Like 'ttft.p99 <= 2 s'. May be repeated.")  # fmt: skip
@click.option("--trials", type=int, metavar="N", help="Points to look at. Default: the study's, or 100.")
@click.option("--seed", type=int, metavar="N", help="Of what is proposed.")
@click.option("--storage", metavar="URL", help="A database for the trials, like sqlite:///search.db. Default: a "
              "journal in the output folder.")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Default: results/<name of the study>.")
@click.option("--overwrite", is_flag=True, help="Replace the folder of another study.")
@resource_options
def search_command(
    study: str,
    overrides: tuple[str, ...],
    axes: tuple[str, ...],
    zipped: tuple[str, ...],
    objectives: tuple[str, ...],
    constraints: tuple[str, ...],
    trials: int | None,
    seed: int | None,
    storage: str | None,
    output: Path | None,
    overwrite: bool,
    backend: str,
    address: str | None,
    workers: int | None,
    cache: Path | None,
) -> None:
    """Search STUDY: a YAML file with axes and objectives, or an experiment with --axis and --objective.

    Trials are kept in a journal (or a database) as they finish: after Ctrl-C (exit code 130), the same command goes on.
    With --workers 1 the same seed gives the same trials.
    """
    from moesim.explore.axes import axis_changes
    from moesim.spec.study import load_study, refuse_experiment, searched_with

    changes: dict[str, Any] = axis_changes(axes, zipped, None, 0)
    changes |= {"objectives": list(objectives)} if objectives else {}
    changes |= {"constraints": list(constraints)} if constraints else {}
    loaded = searched_with(load_study(study, overrides, changes), trials, seed)
    refuse_experiment(loaded)
    from moesim.cli.running import request_progress
    from moesim.explore.folder import JOURNAL, check_folder, write_folder
    from moesim.explore.search import goals, search_points
    from moesim.explore.search_console import print_search
    from moesim.explore.sweep import Resources
    from moesim.explore.trials import trials_table

    wanted = goals(loaded.spec)
    target = output if output is not None else Path("results") / loaded.spec.name
    check_folder(target, loaded, overwrite=overwrite)
    with request_progress() as progress:
        searched = search_points(
            loaded, Resources(backend, address, workers, cache), target / JOURNAL, storage,
            partial(progress, what="trials"),
        )  # fmt: skip
    points = trials_table(searched, wanted)
    about = {"points": len(searched.trials), "partial": searched.interrupted, "importance": searched.importance}
    write_folder(target, loaded, points, about)
    print_search(loaded, searched, wanted, points, target)
    if searched.interrupted:
        click.get_current_context().exit(INTERRUPTED)
