"""`moesim list`: what the library holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from moesim.spec.library import Kind

KINDS: tuple[Kind, ...] = ("devices", "fabrics", "systems", "models", "requests", "routing", "engines", "experiments")


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS), metavar="[KIND]", required=False)
def list_command(kind: Kind | None) -> None:
    """List the descriptors of a KIND, or of all kinds.

    Kinds are devices, fabrics, systems, models, requests, routing, engines and experiments. Folders named in
    MOESIM_PATH come first.
    """
    from moesim.report.describe import catalogue, console

    screen = console()
    for each in KINDS:
        if kind in (None, each):
            screen.print(catalogue(each))
