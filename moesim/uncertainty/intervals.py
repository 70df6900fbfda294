"""What repeated runs say: an interval of every metric, and which source it owes its width to."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.results.metrics import clean
from moesim.results.tables import Columns
from moesim.uncertainty.repeats import Repeats

FloatArray = NDArray[np.float64]

#: Share of the repeats within an interval, and the percentiles at its ends.
LEVEL, ENDS = 0.8, (10, 90)
#: How likely chance may make any source look as if it contributed.
_CHANCE = 0.05
#: What arrivals, routing and everything that no correlation explains is called.
REST = "arrivals, routing and the rest"


def intervals(repeats: Repeats) -> dict[str, Any]:
    """The `intervals` of a summary, as JSON types.

    `metrics`: (low, high) by dotted name, the 10th and 90th percentile of the repeats (numpy's default definition);
    null where no repeat defines the metric. `contributions`: by metric, the share of its variance over the repeats (in
    ranks) that each source explains, and what arrivals, routing and whatever these repeats cannot tell are left with.
    `sources`: by name, the 10th and 90th percentile of its factor, and where that comes from.
    """
    names = [source.label for source in repeats.sources]
    ends = {source.label: (source.spread.quantiles[0], source.spread.quantiles[-1]) for source in repeats.sources}
    found: dict[str, Any] = {
        "repeats": len(repeats.number),
        "asked": repeats.asked,
        "level": LEVEL,
        "sources": {
            source.label: {"low": ends[source.label][0], "high": ends[source.label][1], "origin": source.origin}
            for source in repeats.sources
        },
        "metrics": {name: _ends(values) for name, values in repeats.metrics.items()},
        "contributions": {
            name: _contributions(names, repeats.factors, values)
            for name, values in repeats.metrics.items()
            if len(values) and np.isfinite(values).all() and np.ptp(values) > 0
        },
    }
    cleaned: dict[str, Any] = clean(found)
    return cleaned


def repeat_columns(repeats: Repeats) -> Columns:
    """The table `uncertainty`: a row per repeat, with its seed, its factors and its metrics."""
    drawn = {f"factor.{source.label}": repeats.factors[:, i] for i, source in enumerate(repeats.sources)}
    return {"repeat": repeats.number, "seed": repeats.seed, **drawn, **repeats.metrics}


def _ends(values: FloatArray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, ENDS) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def _contributions(names: list[str], factors: FloatArray, values: FloatArray) -> dict[str, float]:
    """Forward selection: the source that correlates best with what is left of the ranks is taken out, again and again,
    as long as chance would hardly correlate as well (r^2 of unrelated ranks is about 1 / (n - 1); Bonferroni)."""
    left = _standard(_ranks(values))
    columns = zip(names, factors.T, strict=True)
    drawn = {name: _standard(_ranks(column)) for name, column in columns if np.ptp(column) > 0}
    least = NormalDist().inv_cdf(1 - _CHANCE / 2 / max(1, len(drawn))) ** 2 / (len(values) - 1)
    found: dict[str, float] = {}
    while drawn:
        correlations = {name: float(column @ left) for name, column in drawn.items()}
        best = max(correlations, key=lambda name: abs(correlations[name]))
        explained, remaining = correlations[best] ** 2, float(left @ left)
        if explained < least * remaining or remaining < 1e-9:
            break
        found[best] = explained
        left = left - correlations[best] * drawn.pop(best)
    return {**dict(sorted(found.items(), key=lambda item: -item[1])), REST: max(0.0, 1.0 - sum(found.values()))}


def _standard(values: FloatArray) -> FloatArray:
    """Centred, of length 1."""
    centred = values - values.mean()
    unit: FloatArray = centred / np.sqrt(centred @ centred)
    return unit


def _ranks(values: FloatArray) -> FloatArray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle: FloatArray = np.cumsum(counts) - (counts + 1) / 2
    return middle[group]
