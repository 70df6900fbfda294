"""The command line: a thin door that parses, calls the public functions and prints. One file per command.

Nothing heavy is imported here or at the top of a command's file, so that `moesim --help` answers at once.
"""

from __future__ import annotations

from typing import Any

import click

from moesim import __version__
from moesim.cli.importing import import_group
from moesim.cli.listing import list_command
from moesim.cli.options import INTERRUPTED, MISTAKE
from moesim.cli.routing import routing_group
from moesim.cli.running import run_command
from moesim.cli.showing import show_command
from moesim.cli.validating import validate_command
from moesim.spec.errors import MoesimError


class Door(click.Group):
    """Where a user's mistake becomes one line and exit code 2, and Ctrl-C exit code 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MoesimError as error:
            click.echo("error: " + " ".join(str(error).splitlines()), err=True)
            ctx.exit(MISTAKE)
        except MemoryError:
            click.echo("error: out of memory; ask for fewer requests, devices or tokens", err=True)
            ctx.exit(MISTAKE)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=Door, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="moesim", message="%(prog)s %(version)s")
def main() -> None:
    """Simulate Mixture-of-Experts models on hardware that may not exist yet."""


for command in (run_command, list_command, show_command, import_group, routing_group, validate_command):
    main.add_command(command)
