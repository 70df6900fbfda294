"""The order in which resources bind: the one whose relief helps most is relieved, then the next, and so on.

To relieve a resource is to have twice of it: twice the rates or the capacity, half of the times. Unlike an elasticity,
which holds for small changes, a rung shows what remains when its resource is out of the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moesim.explore.knobs import Knob
from moesim.explore.pool import Job, Metrics, all_measured
from moesim.report.names import more_is_better

if TYPE_CHECKING:
    import pandas as pd

#: Resources that can be relieved: groups of numbers, less those that are no amount of it.
RESOURCES = (
    "compute", "memory bandwidth", "memory capacity", "network bandwidth", "network latency", "launches", "host",
    "batching",
)  # fmt: skip
_NO_AMOUNT = ("units", "clock", "latency", "block_size", "memory_utilization", "efficiency")
#: How far a resource is relieved, and the least gain that is worth a rung.
RELIEF, LEAST = 2.0, 0.01
#: Rungs at most.
MOST = 6


def ladder(
    setting: Job, known: Sequence[Knob], base: Metrics, metric: str, *, workers: int = 1
) -> pd.DataFrame:  # fmt: skip
    """What binds a metric: a row per rung with `rung`, `resource`, `before`, `after` (of the metric), `gain` (relative
    change) and `so_far` (since the beginning); the last rung is the last whose relief gains 1 %."""
    import pandas as pd

    left = [name for name in RESOURCES if any(_relieves(knob, name) for knob in known)]
    job, start = setting, base.get(metric, math.nan)
    rows: list[tuple[int, str, float, float, float, float]] = []
    before = start
    while left and len(rows) < MOST and math.isfinite(before) and before:
        jobs = [relieved(job, known, name) for name in left]
        found = all_measured(jobs, workers=workers)
        values = [(each or {}).get(metric, math.nan) for each in found]
        best = min(range(len(left)), key=lambda i: _cost(metric, values[i]))
        after = values[best]
        gain = after / before - 1.0
        if not (gain > LEAST if more_is_better(metric) else gain < -LEAST):
            break
        rows.append((len(rows) + 1, left.pop(best), before, after, gain, after / start - 1.0))
        job, before = jobs[best], after
    return pd.DataFrame(rows, columns=["rung", "resource", "before", "after", "gain", "so_far"])


def _cost(metric: str, value: float) -> float:
    if math.isnan(value):
        return math.inf
    return -value if more_is_better(metric) else value


def _relieves(knob: Knob, resource: str) -> bool:
    amount = knob.group == "network latency" or knob.name.rpartition(".")[2] not in _NO_AMOUNT
    return knob.group == resource and amount


def relieved(job: Job, known: Sequence[Knob], resource: str) -> Job:
    """With twice of a resource."""
    for knob in known:
        if _relieves(knob, resource):
            spec, scales, _ = knob.apply(job.spec, job.scales, 1 / RELIEF if knob.less else RELIEF)
            job = Job(spec, scales)
    return job
