"""What a search says on the console."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.explore.search import Goals, Searched
from moesim.explore.table import frame, shown
from moesim.spec.study import Study

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

#: Points of the front, and reasons, that are printed; the table holds all.
_POINTS, _REASONS = 12, 5


def print_search(study: Study, searched: Searched, wanted: Goals, points: pa.Table, folder: Path) -> None:
    """Trials by what became of them, the Pareto front, the importance of the axes, and where the table is."""
    from rich.console import Console

    console = Console(highlight=False)
    trials = [each for each in searched.trials.values() if each.outcome is not None]
    states = Counter("stopped early" if t.stopped else t.outcome.status for t in trials if t.outcome is not None)
    parts = ", ".join(f"{count} {name}" for name, count in states.most_common())
    console.print(f"{study.spec.name}: {len(trials)} trials ({parts})", markup=False)
    reasons = Counter(trial.outcome.reason for trial in trials if trial.outcome is not None and trial.outcome.reason)
    for text, count in reasons.most_common(_REASONS):
        console.print(f"  {count} x {text}", markup=False, soft_wrap=True)
    table = frame(points)
    best = table[table["front"]]
    if best.empty:
        console.print("no trial meets all constraints" if wanted.constraints else "no trial can run")
    else:
        _print_front(console, best, wanted, searched)
    for metric, shares in searched.importance.items():
        listed = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
        console.print(f"{metric} depends on {listed}", markup=False, soft_wrap=True)
    if searched.interrupted:
        console.print("interrupted; the same command goes on from here")
    console.print(f"table: {folder / 'points.parquet'}", markup=False, soft_wrap=True)


def _print_front(console: object, best: pd.DataFrame, wanted: Goals, searched: Searched) -> None:
    from rich.console import Console
    from rich.table import Table

    assert isinstance(console, Console)
    metrics = [each.metric for each in wanted.objectives]
    best = best.sort_values(metrics[0]).drop_duplicates(metrics)
    title = f"Pareto front, {len(best)} points"
    printed = Table(title=title, title_justify="left", box=None)
    axes = list(dict.fromkeys(path for number in best["point"] for path in searched.trials[number].point))
    for name in (*metrics, *axes):
        printed.add_column(name, justify="right" if name in metrics else "left", overflow="fold")
    for row in best.head(_POINTS).to_dict("records"):
        point = searched.trials[row["point"]].point
        values = [f"{row[name]:.4g}" for name in metrics]
        printed.add_row(*values, *(shown(point[path]) if path in point else "" for path in axes))
    console.print(printed)
