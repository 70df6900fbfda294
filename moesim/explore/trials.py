"""The table of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.explore.front import covered, front
from moesim.explore.points import Outcome
from moesim.explore.search import Goals, Searched
from moesim.explore.table import table

if TYPE_CHECKING:
    import pyarrow as pa


def trials_table(searched: Searched, wanted: Goals) -> pa.Table:
    """A row per trial, in the order of their numbers: as a sweep's, and behind `reason` the `fidelity` that the trial
    reached (1: all requests), whether it is on the Pareto `front` of the trials with all requests that meet the
    constraints, and the `hypervolume` up to it, as a share of the box between the best and the worst."""
    import pyarrow as pa

    numbers = sorted(searched.trials)
    trials = [searched.trials[number] for number in numbers]
    outcomes: dict[int, Outcome] = {n: t.outcome for n, t in zip(numbers, trials, strict=True) if t.outcome is not None}
    found = table({n: t.point for n, t in zip(numbers, trials, strict=True)}, outcomes, repeats=False)
    values = np.full((len(trials), len(wanted.objectives)), np.nan)
    for k, trial in enumerate(trials):
        row = trial.outcome.rows[0] if trial.outcome is not None and trial.outcome.rows else None
        if row is not None and trial.fidelity == 1 and all(each.holds(row) for each in wanted.constraints):
            values[k] = [row.get(each.metric, np.nan) * each.sign for each in wanted.objectives]
    at = found.column_names.index("reason") + 1
    extra = {
        "fidelity": pa.array([trial.fidelity for trial in trials], pa.float64()),
        "front": pa.array(front(values).tolist(), pa.bool_()),
        "hypervolume": pa.array(covered(values), pa.float64()),
    }
    for name, column in reversed(extra.items()):
        found = found.add_column(at, name, column)
    return found
