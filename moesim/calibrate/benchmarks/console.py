"""The console of measurements: bars while they go on, and whole steps beside sums of kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from moesim.calibrate.whole_steps import StepReport


@contextmanager
def measuring(screen: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each table; what it gives is told (table, cases that are through, all of them)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

    bars: dict[str, TaskID] = {}
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=screen) as progress:

        def tell(table: str, done: int, total: int) -> None:
            if table not in bars:
                bars[table] = progress.add_task(table, total=total)
            progress.update(bars[table], completed=done, total=total)

        yield tell


def print_steps(screen: Console, report: StepReport) -> None:
    """The fits of the kernels, every layer and step, and the errors of them together."""
    from rich.table import Table

    from moesim.calibrate.whole_steps import error_percentiles

    title = f"{report.device}: kernels, error on shapes that were kept apart"
    fits = Table(box=None, title=title, title_justify="left")
    for heading in ("kernel", "fitted", "scored", "median", "P90"):
        fits.add_column(heading, justify="left" if heading == "kernel" else "right")
    for name, fit in report.fits.items():
        fits.add_row(name, str(fit.fitted), str(fit.scored), *(f"{each:.1f} %" for each in fit.errors))
    screen.print(fits)
    steps = Table(box=None, title="layers and steps, predicted from these kernels", title_justify="left")
    for heading in ("model", "part", "layers", "batch", "new", "keys", "measured", "predicted", "error"):
        steps.add_column(heading, justify="left" if heading in ("model", "part") else "right")
    for each in sorted(report.steps, key=lambda found: found.step):
        step = each.step
        sizes = (str(size) for size in (step.layers, step.batch, step.new, step.keys))
        times = (f"{seconds * 1e3:.2f} ms" for seconds in (each.measured, each.predicted))
        steps.add_row(step.model, step.part, *sizes, *times, f"{each.error:+.1%}")
    screen.print(steps)
    for name, group in report.groups().items():
        median, high = error_percentiles(group)
        screen.print(f"{name}: {len(group)} cases, median error {median:.1f} %, P90 {high:.1f} %")
