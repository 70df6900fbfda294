"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

#: Exit codes: the user's mistake, Ctrl-C (128 + SIGINT, as shells have it).
MISTAKE, INTERRUPTED = 2, 130

class KindName(click.Choice[str]):
    """A kind of descriptor, in the plural or the singular."""

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__(kinds)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        plural = f"{value}s"
        return super().convert(plural if plural in self.choices else value, param, ctx)


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
