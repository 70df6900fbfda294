"""The page that comparisons are printed on: 80 columns, plain tables."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 80


def console() -> Console:
    """Standard output; text is printed as it is, without markup."""
    from rich.console import Console

    screen = Console(markup=False, highlight=False, emoji=False)
    screen.width = min(screen.width, WIDTH) if screen.is_terminal else WIDTH
    return screen


def table_of(columns: Sequence[str], first: int, title_width: int = WIDTH) -> Table:
    """An empty table.

    Args:
        columns: their titles; all but the first hold numbers.
        first: characters that the first one gets at least.
        title_width: where titles are broken into lines.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, header_style="bold")
    table.add_column(columns[0], overflow="fold", min_width=first)
    for name in columns[1:]:
        table.add_column("\n".join(wrap(name, title_width)), justify="right", no_wrap=True)
    return table
