"""The table of outcomes on the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moesim.validate.judge import Outcome, tally
from moesim.validate.wording import HEADINGS, row, summary

if TYPE_CHECKING:
    from rich.console import Console

_COLOUR = {"met": "green", "MISSED": "bold red", "reported": "dim", "not counted": "dim", "no answer": "yellow"}


def print_outcomes(
    screen: Console, outcomes: Sequence[tuple[str, Sequence[Outcome]]], *, sources: bool = False
) -> None:  # fmt: skip
    """One table over all suites, then a line about each, and where recorded answers come from.

    Args:
        outcomes: suite by suite. sources: also print where each known answer is from, and what was found.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in HEADINGS:
        right = heading in ("known", "simulated", "error", "tolerance")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for index, (name, found) in enumerate(outcomes):
        if index:
            table.add_section()
        table.add_row(Text(name, style="bold"))
        for each in found:
            cells = row(each)
            verdict = Text(cells[-1], style=_COLOUR.get(cells[-1], ""))
            about = [each.case.source, each.detail] if sources else []
            first = Text(f"  {cells[0]}")
            for line in filter(None, about):
                first.append(f"\n    {line}", style="dim")
            table.add_row(first, *cells[1:-1], verdict)
    screen.print(table)
    for name, found in outcomes:
        screen.print(summary(name, tally(found)))
    dates = sorted({each.recorded for _, found in outcomes for each in found if each.recorded})
    if dates:
        screen.print(f"recorded on {', '.join(dates)} from measured data that is not part of moesim; --data recomputes")
