"""In which order cases are measured, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from moesim.calibrate.benchmarks.cases import Case

#: Told before each case: its table, cases of it that are through, and all of them.
Progress = Callable[[str, int, int], None]


def work_off(
    plan: Mapping[str, Sequence[Case]],
    measure: Callable[[Case], None],
    budget: float | None,
    progress: Progress = lambda table, done, total: None,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Measures case by case, next always one of the table that has had the least time, until none is left or `budget`
    seconds are over. The plan's order within a table stays."""
    spent, place = dict.fromkeys(plan, 0.0), dict.fromkeys(plan, 0)
    begin = now()
    while left := [table for table in plan if place[table] < len(plan[table])]:
        moment = now()
        if budget is not None and moment - begin >= budget:
            break
        table = min(left, key=lambda name: spent[name])
        progress(table, place[table], len(plan[table]))
        measure(plan[table][place[table]])
        place[table] += 1
        spent[table] += now() - moment
    for table in plan:
        progress(table, place[table], len(plan[table]))
