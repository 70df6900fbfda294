"""What `moesim calibrate fit` prints: the held-out error of each group, and of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from moesim.calibrate.kernels.library import Calibrated
from moesim.calibrate.kernels.scores import CLASSES
from moesim.report.text import count

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_HEADINGS = ("kernel", "format", "fitted", "rejected", "scored", "median", "P90", "rank", "in 80 %")


def print_calibrated(screen: Console, done: Calibrated) -> None:
    """One device and stack: a row per group, what was left out, where the descriptor lies."""
    from rich.text import Text

    fitted = done.fitted
    table = _table(f"{fitted.device}, {fitted.stack}", _HEADINGS)
    for group, fit in fitted.kernels:
        counts = (f"{fit.fitted:,}", f"{fit.rejected:,}", f"{fit.scored:,}")
        error = (f"{fit.errors[0]:.1f} %", f"{fit.errors[1]:.1f} %", f"{fit.rank:.3f}", f"{100 * fit.covered:.0f} %")
        name = " ".join(filter(None, (group.kernel, group.implementation)))
        table.add_row(Text(name), Text(group.format), *counts, *error)
    screen.print(table)
    for each in done.left_out:
        screen.print(Text(f"left out: {each.reason}", style="yellow"))
    screen.print(Text(f"wrote {done.path}"))


def print_classes(screen: Console, calibrated: Sequence[Calibrated]) -> None:
    """The medians over the groups of each class."""
    pairs = [pair for done in calibrated for pair in done.fitted.kernels]
    table = _table("held-out error, medians over groups", ("class", "groups", "scored", "median", "P90", "rank"))
    for name, belongs in CLASSES.items():
        fits = [fit for group, fit in pairs if belongs(group) and not group.excluded]
        if fits:
            median, p90, rank = np.median([(*fit.errors, fit.rank) for fit in fits], axis=0)
            scored = sum(fit.scored for fit in fits)
            table.add_row(name, str(len(fits)), f"{scored:,}", f"{median:.1f} %", f"{p90:.1f} %", f"{rank:.3f}")
    screen.print(table)
    left_out = sum(len(done.left_out) for done in calibrated)
    screen.print(f"{count(len(pairs), 'kernel')} fitted, {left_out} left out")


def _table(title: str, headings: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
    )
    for heading in headings:
        text = heading in ("kernel", "format", "class")
        table.add_column(heading, justify="left" if text else "right", overflow="fold")
    return table
