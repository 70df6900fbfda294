"""`moesim show`: one descriptor with all its numbers and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moesim.cli.listing import KINDS
from moesim.cli.options import KindName, set_option

if TYPE_CHECKING:
    from moesim.spec.library import Kind


@click.command("show", short_help="One descriptor: numbers, sources, the machine's graph.")
@click.argument("name")
@click.option("--kind", type=KindName(KINDS), metavar="KIND", help="Which kind NAME is, as `moesim list` has them.")
@set_option
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw the machine's graph (PDF, PNG, SVG)."
)
def show_command(name: str, kind: Kind | None, overrides: tuple[str, ...], plot: Path | None) -> None:
    """Show the descriptor NAME (or a YAML file): each number with its source, what is unverified or estimated marked;
    of a system also its graph. Of a results folder, its summary."""
    if (Path(name) / "manifest.json").is_file():
        if kind is not None or overrides or plot is not None:
            raise click.UsageError("options do not apply to a results folder")
        from moesim.report import print_summary
        from moesim.results import load

        print_summary(load(name))
        return
    from moesim.report.describe import console
    from moesim.report.show import draw, kinds_of, show

    screen = console()
    kinds = kinds_of(name, kind)
    for each in kinds:
        for part in show(each, name, overrides, brief=screen.is_terminal):
            screen.print(part)
    if plot is not None:
        screen.print(f"graph: {draw(kinds, name, overrides, plot)}")
