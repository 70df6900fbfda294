"""`moesim run`: one simulation."""

from __future__ import annotations

from pathlib import Path

import click

from moesim.cli.options import set_option


@click.command("run")
@click.argument("experiment")
@set_option
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="DIR", help="Default: results/<name of the experiment>."
)
@click.option("--overwrite", is_flag=True, help="Replace a results folder that exists.")
@click.option("--no-figures", is_flag=True, help="Tables and summary only.")
def run_command(
    experiment: str, overrides: tuple[str, ...], output: Path | None, overwrite: bool, no_figures: bool
) -> None:
    """Run EXPERIMENT (a YAML file, or the name of one in the library) and write a results folder."""
    from moesim.spec.loading import load_experiment

    loaded = load_experiment(experiment, overrides)
    target = output if output is not None else Path("results") / loaded.spec.name
    # Only now: the simulator takes longer to import than a mistake to report.
    from moesim.run import run

    run(loaded, target, overwrite=overwrite, figures=not no_figures)
