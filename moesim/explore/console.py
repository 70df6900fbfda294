"""What a sweep says on the console."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.explore.compare import Contender, compare, repeated
from moesim.explore.metrics import constraint, objective
from moesim.explore.sweep import Swept
from moesim.explore.table import frame, shown
from moesim.spec.study import Study, StudySpec

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

#: Reasons that are printed; the table holds all.
_REASONS = 5


def print_sweep(study: Study, swept: Swept, points: pa.Table, folder: Path) -> None:
    """Points by status, why some could not run, what the study asks of them, and where the table is."""
    from rich.console import Console

    console = Console(highlight=False)
    states = Counter(outcome.status for outcome in swept.outcomes.values())
    parts = [f"{states[name]} {name}" for name in ("infeasible", "failed") if states[name]]
    parts += [f"{swept.reused} from the cache"] if swept.reused else []
    tail = f" ({', '.join(parts)})" if parts else ""
    console.print(f"{study.spec.name}: {len(swept.outcomes)} of {len(swept.points)} points{tail}", markup=False)
    reasons = Counter(outcome.reason for outcome in swept.outcomes.values() if outcome.reason)
    for text, count in reasons.most_common(_REASONS):
        console.print(f"  {count} x {text}", markup=False, soft_wrap=True)
    if study.spec.repeats and any(len(each.rows) == 1 for each in swept.outcomes.values()):
        console.print("training steps are not repeated")
    if states["ok"]:
        _print_best(console, study.spec, points, swept)
    elif swept.outcomes:
        console.print("no point can run")
    if swept.interrupted:
        console.print("interrupted; the same command goes on from here")
    console.print(f"table: {folder / 'points.parquet'}", markup=False, soft_wrap=True)


def _print_best(console: Console, spec: StudySpec, points: pa.Table, swept: Swept) -> None:
    if spec.compare is None:
        return
    wanted = objective(spec.compare.metric)
    limits = [constraint(text) for text in spec.constraints]
    rows = frame(points)
    found = compare(rows, spec.compare.by, wanted, limits)
    console.print(f"{wanted.goal} {wanted.metric} by {spec.compare.by}", markup=False)
    if limits:
        console.print(f"where {' and '.join(each.text for each in limits)}", markup=False)
    intervals = repeated(rows)
    for each in found:
        console.print(f"  {line(each, intervals)}", markup=False, soft_wrap=True)
        if each.point is not None:
            others = {k: v for k, v in swept.points[each.point].items() if k != spec.compare.by}
            if others:
                console.print("    " + ", ".join(f"{k}={shown(v)}" for k, v in others.items()), markup=False)


def line(each: Contender, intervals: bool) -> str:
    """A contender in words."""
    if each.point is None:
        return f"{each.name}: no point meets the constraints"
    if not intervals:
        return f"{each.name}: {each.value:.4g}, {each.ratio:.3g} times the best"
    return (
        f"{each.name}: {each.value:.4g} [{each.low:.4g}, {each.high:.4g}], "
        f"{each.ratio:.3g} [{each.ratio_low:.3g}, {each.ratio_high:.3g}] times the best, "
        f"best in {100 * each.wins:.0f} % of the repeats"
    )
