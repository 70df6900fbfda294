"""The command line: a thin door that parses, calls the public functions and prints. One file per command.

Nothing heavy is imported here or at the top of a command's file, so that `moesim --help` answers at once.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from io import TextIOWrapper
from typing import Any, NoReturn

import click

from moesim import __version__
from moesim.cli.calibrating import calibrate_group
from moesim.cli.comparing import compare_command
from moesim.cli.configuring import configure_command
from moesim.cli.explaining import explain_command
from moesim.cli.fabric import fabric_command
from moesim.cli.fitting import COMMANDS as FITTING
from moesim.cli.importing import import_group
from moesim.cli.listing import list_command
from moesim.cli.measuring import COMMANDS as MEASURING
from moesim.cli.options import INTERRUPTED, MISTAKE
from moesim.cli.plotting import plot_command
from moesim.cli.reporting import report_command
from moesim.cli.reproducing import reproduce_command
from moesim.cli.routing import routing_group
from moesim.cli.running import run_command
from moesim.cli.searching import search_command
from moesim.cli.showing import show_command
from moesim.cli.sweeping import sweep_command
from moesim.cli.validating import validate_command
from moesim.cli.whatif import whatif_command
from moesim.spec.errors import MoesimError


class Door(click.Group):
    """Where a user's mistake becomes one line and exit code 2, and Ctrl-C exit code 130."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a newcomer meets them."""
        return list(self.commands)

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        with _one_line():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line():
            return super().invoke(ctx)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"there is no command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "moesim"
        message = error.format_message().removesuffix(".")
        _complain(f"{message[:1].lower()}{message[1:]}; see `{path} --help`")
    except MoesimError as error:
        _complain(str(error))
    except OSError as error:  # no permission for a file or folder on the way, a full disk
        if error.errno == errno.EPIPE:
            raise
        named = f"{error.filename}: " if error.filename else ""
        _complain(f"{named}{error.strerror or error}")
    except MemoryError:
        _complain("out of memory; ask for fewer requests, devices or tokens")
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None


def _complain(message: str) -> NoReturn:
    click.echo("error: " + " ".join(message.splitlines()), err=True)
    raise click.exceptions.Exit(MISTAKE)


@click.group("moesim", cls=Door, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="moesim", message="%(prog)s %(version)s")
def main() -> None:
    """Simulate Mixture-of-Experts models on hardware that may not exist yet.

    \b
    First steps:
      moesim run quickstart       simulate a serving run: numbers, figures, a timeline
      moesim list                 what the library holds
      moesim show dgx-h100        one descriptor, with the source of every number
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our characters shows question marks


for command in (
    run_command,
    whatif_command,
    explain_command,
    compare_command,
    sweep_command,
    search_command,
    configure_command,
    plot_command,
    report_command,
    list_command,
    show_command,
    import_group,
    routing_group,
    fabric_command,
    calibrate_group,
    validate_command,
    reproduce_command,
):
    main.add_command(command)
for command in (*MEASURING, *FITTING):
    calibrate_group.add_command(command)
