"""`moesim explain`: what each number is worth, and what binds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from moesim.cli.options import set_option
from moesim.cli.running import processors, request_progress


@click.command("explain", short_help="What each number is worth, and what binds.")
@click.argument("experiment")
@set_option
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Explain these: ttft.p99, cost, ...")
@click.option("--repeats", type=int, default=0, metavar="N", help="Repeat it all N times, for intervals.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Also write tables and figures.")
@click.option("--overwrite", is_flag=True, help="Replace a folder of an explanation that exists.")
def explain_command(
    experiment: str,
    overrides: tuple[str, ...],
    metrics: tuple[str, ...],
    repeats: int,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Run EXPERIMENT (a YAML file, a name of the library, or a results folder) with each number of its hardware and
    engine 10 % higher and lower, and print which of them changes what; then relieve what binds, again and again."""
    from moesim.explore.api import load

    loaded = load(experiment, overrides).loaded
    from moesim.explore.explain import MARK, explain
    from moesim.explore.explain_console import print_explanation
    from moesim.results import prepare

    if output is not None:
        prepare(output, overwrite=overwrite, mark=MARK)
    with request_progress() as progress:
        found = explain(
            loaded, metrics=metrics, repeats=repeats, workers=processors(), progress=partial(progress, what="runs")
        )
    print_explanation(found)
    if output is not None:
        found.write(output, overwrite=overwrite)
        click.echo(f"\ntables and figures: {output}")
