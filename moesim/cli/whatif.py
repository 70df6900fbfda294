"""`moesim whatif`: a change against its base."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from moesim.cli.options import INTERRUPTED, set_option
from moesim.cli.running import processors, request_progress


@click.command("whatif", short_help="Compare an experiment with a change of it.")
@click.argument("experiment")
@set_option
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only these: tpot.p50, energy, ...")
@click.option("--repeats", type=int, default=32, metavar="N", show_default=True, help="Paired repeats for intervals.")
@click.option("--no-intervals", is_flag=True, help="One run of each, in seconds.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Also write tables and both results.")
@click.option("--overwrite", is_flag=True, help="Replace a folder of a comparison that exists.")
def whatif_command(
    experiment: str,
    overrides: tuple[str, ...],
    metrics: tuple[str, ...],
    repeats: int,
    no_intervals: bool,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Run EXPERIMENT (a YAML file, a name of the library, or a results folder) as it is and with all that `--set`
    changes, and print every metric of both, the difference with its interval, and what it comes from.

    Repeat k of both has the same seed and the same errors of whatever both have in common.
    """
    from moesim.explore.api import load
    from moesim.spec.errors import MoesimError

    if not overrides:
        raise click.UsageError("nothing is changed; give --set, such as --set machine=dgx-h200")
    base = load(experiment)
    change = base.set(overrides)
    from moesim.explore.whatif import MARK, whatif
    from moesim.explore.whatif_console import print_whatif
    from moesim.results import prepare

    if output is not None:
        prepare(output, overwrite=overwrite, mark=MARK)
    if not no_intervals and repeats < 1:
        raise MoesimError(f"{repeats} repeats give no interval", fix="ask for 2 or more, or for --no-intervals")
    with request_progress() as progress:
        found = whatif(
            base.loaded, change.loaded, metrics=metrics, repeats=0 if no_intervals else repeats, workers=processors(),
            progress=partial(progress, what="runs"),
        )  # fmt: skip
    print_whatif(found, metrics)
    if output is not None:
        found.write(output, overwrite=overwrite)
        click.echo(f"tables: {output}")
    if found.repeats < found.asked:
        click.get_current_context().exit(INTERRUPTED)
