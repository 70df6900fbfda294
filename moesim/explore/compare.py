"""Which value of an axis is best, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moesim.explore.metrics import Constraint, Objective
from moesim.spec.errors import MoesimError
from moesim.spec.library import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

#: Percentiles between which 80 % of the repeats lie, as intervals have it everywhere (`moesim.uncertainty`).
ENDS = (10, 90)


@dataclass(frozen=True)
class Contender:
    """One value of the axis.

    point: the number of its best point in the run itself, None where no point meets the constraints. value: the metric
    there. low, high: ends of the interval of its best value over the repeats. ratio: its value over the winner's, with
    the interval of that ratio, repeat by repeat. wins: the share of the repeats in which it is best. Without repeats
    the intervals are empty (low = high) and the share is 0 or 1.
    """

    name: str
    point: int | None
    value: float
    low: float
    high: float
    ratio: float
    ratio_low: float
    ratio_high: float
    wins: float


def compare(
    table: pd.DataFrame, by: str, objective: Objective, constraints: Sequence[Constraint] = ()
) -> list[Contender]:  # fmt: skip
    """The values of the axis `by`, the best first.

    In each repeat, a value has the best of its points that meet all constraints in that repeat; drawn errors are
    common to all points of a repeat, so that the ratio of two values is taken under the same circumstances.

    Raises:
        MoesimError: the table has no such axis.
    """
    import numpy as np

    if by not in table.columns:
        near = did_you_mean(by, [name for name in table.columns if name != "point"])
        raise MoesimError(f"there is no axis {by!r} to compare", fix=near or "name one of the study's axes")
    best = _best(table if repeated(table) else _runs(table), by, objective, constraints)
    groups = list(best.columns)
    signed = best * objective.sign
    own, drawn = signed.loc[0], signed.drop(index=0) if len(signed) > 1 else signed
    known = drawn.dropna(how="all")
    winners = known.idxmin(axis=1) if len(known) else known.iloc[:, 0]
    order = sorted(groups, key=lambda name: (np.isnan(own[name]), own[name]))
    leader = order[0]
    samples = drawn.abs()
    return [
        Contender(
            str(name),
            _point(table, by, name, objective, constraints),
            float(best[name].loc[0]),
            *_interval(samples[name]),
            float(best[name].loc[0] / best[leader].loc[0]),
            *_interval(samples[name] / samples[leader]),
            float((winners == name).mean()) if len(winners) else 0.0,
        )
        for name in order
    ]


def repeated(table: pd.DataFrame) -> bool:
    """Whether every point that could run was repeated; else points compare by the runs themselves alone."""
    if "repeat" not in table.columns:
        return False
    return bool((table[table["status"] == "ok"].groupby("point").size() > 1).all())


def _runs(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["repeat"] == 0] if "repeat" in table.columns else table


def _meets(table: pd.DataFrame, objective: Objective, constraints: Sequence[Constraint]) -> pd.DataFrame:
    names = [objective.metric, *(each.metric for each in constraints)]
    missing = [name for name in names if name not in table.columns]
    kept = table[table["status"] == "ok"]
    if missing:
        return kept.iloc[:0]
    holds = kept["status"] == "ok"
    for each in constraints:
        holds &= np.array([each.holds({each.metric: value}) for value in kept[each.metric].tolist()], dtype=np.bool_)
    return kept[holds]


def _best(table: pd.DataFrame, by: str, objective: Objective, constraints: Sequence[Constraint]) -> pd.DataFrame:
    """[repeats, values of the axis] the best metric; NaN where no point meets the constraints."""
    whole = table if "repeat" in table.columns else table.assign(repeat=0)
    groups = list(dict.fromkeys(whole[by].dropna()))
    kept = _meets(whole, objective, constraints)
    if kept.empty:
        import pandas as pd

        return pd.DataFrame(float("nan"), index=[0], columns=groups)
    pick = kept.groupby(["repeat", by])[objective.metric].agg("min" if objective.sign > 0 else "max")
    repeats = range(int(whole["repeat"].max()) + 1)
    result: pd.DataFrame = pick.unstack().reindex(index=repeats, columns=groups)
    return result


def _point(
    table: pd.DataFrame, by: str, name: object, objective: Objective, constraints: Sequence[Constraint]
) -> int | None:
    import numpy as np

    own = _runs(table)
    kept = _meets(own[own[by] == name], objective, constraints)
    if kept.empty or kept[objective.metric].isna().all():
        return None
    signed = (kept[objective.metric] * objective.sign).to_numpy()
    return int(kept["point"].to_numpy()[np.nanargmin(signed)])


def _interval(values: pd.Series[float]) -> tuple[float, float]:
    import numpy as np

    known = values.dropna()
    if known.empty:
        return float("nan"), float("nan")
    low, high = np.percentile(known, ENDS)
    return float(low), float(high)
