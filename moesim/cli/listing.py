"""`moesim list`: what the library holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moesim.cli.options import KindName

if TYPE_CHECKING:
    from moesim.spec.library import Kind

KINDS: tuple[Kind, ...] = ("devices", "fabrics", "systems", "models", "requests", "routing", "engines", "experiments")


@click.command("list", short_help="What the library holds.")
@click.argument("kind", type=KindName(KINDS), metavar="[KIND]", required=False)
def list_command(kind: Kind | None) -> None:
    """List the descriptors of a KIND, or of all kinds.

    Kinds are devices, fabrics, systems, models, requests, routing, engines and experiments. Folders named in
    MOESIM_PATH come first.
    """
    from moesim.report.describe import catalogue, console

    screen = console()
    for number, each in enumerate(KINDS if kind is None else (kind,)):
        if number:
            screen.print()
        screen.print(catalogue(each))
