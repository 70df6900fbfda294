"""`moesim run`: one simulation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click

from moesim.cli.options import INTERRUPTED, set_option


@click.command("run", short_help="Simulate an experiment and write its results.")
@click.argument("experiment")
@set_option
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="DIR", help="Default: results/<name of the experiment>."
)
@click.option("--overwrite", is_flag=True, help="Replace a results folder that exists.")
@click.option("--no-figures", is_flag=True, help="Tables and summary only.")
@click.option(
    "--uncertainty",
    "repeats",
    is_flag=False,
    flag_value=32,
    type=int,
    metavar="[N]",
    help="Repeat the run N times (32) with drawn errors, overheads and seeds, for 80 % intervals of every metric.",
)
def run_command(
    experiment: str,
    overrides: tuple[str, ...],
    output: Path | None,
    overwrite: bool,
    no_figures: bool,
    repeats: int | None,
) -> None:
    """Run EXPERIMENT (a YAML file, or the name of one in the library) and write a results folder.

    Ctrl-C ends the simulation early and still writes its results, marked partial (exit code 130); once more abandons
    them.
    """
    from moesim.spec.loading import load_experiment

    loaded = load_experiment(experiment, overrides)
    target = output if output is not None else Path("results") / loaded.spec.name
    # Only now: the simulator takes longer to import than a mistake to report.
    from moesim.report import print_summary
    from moesim.running import Uncertainty, run

    with request_progress() as progress:
        wanted = None
        if repeats is not None:
            wanted = Uncertainty(repeats, processors(), partial(progress, what="repeats"))
        results = run(
            loaded, target, overwrite=overwrite, figures=not no_figures, progress=progress, uncertainty=wanted
        )
    print_summary(results)
    if results.manifest["partial"]:
        click.get_current_context().exit(INTERRUPTED)


def processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def request_progress() -> Iterator[Callable[..., None]]:
    """A progress bar on the terminal's standard error, for runs that take longer than a moment: told how many of how
    many requests, or of `what` else, are finished."""
    from rich.console import Console
    from rich.progress import Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    bar = Progress(
        *Progress.get_default_columns()[:2],
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} {task.fields[what]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    begin = time.monotonic()
    task: TaskID | None = None

    def report(finished: int, total: int, what: str = "requests") -> None:
        nonlocal task
        if task is None and console.is_terminal and time.monotonic() - begin > 1.0:
            bar.start()
            task = bar.add_task("simulating", total=total, what=what)
        if task is not None:
            bar.update(task, completed=finished, total=total, what=what)

    try:
        yield report
    finally:
        if task is not None:
            bar.stop()
