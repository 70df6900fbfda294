"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

#: Exit codes: the user's mistake, Ctrl-C (128 + SIGINT, as shells have it).
MISTAKE, INTERRUPTED = 2, 130

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def set_option(command: CommandT) -> CommandT:
    """`--set a.b.c=value`, any number of times, as the argument `overrides`."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="A.B.C=VALUE",
        help="Override a value of the file; VALUE is YAML, null removes the key. May be repeated.",
    )(command)
