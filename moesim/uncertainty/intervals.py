"""What repeated runs say: an interval of every metric, and which source it owes its width to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.results.metrics import clean
from moesim.results.tables import Columns
from moesim.uncertainty.repeats import Repeats

FloatArray = NDArray[np.float64]

#: Share of the repeats within an interval, and the percentiles at its ends.
LEVEL, ENDS = 0.8, (10, 90)
#: Squared normal score of a test at 5 %: (n - 1) r^2 of a rank correlation r exceeds it by chance in one of 20.
_CHANCE = 3.84
#: What arrivals, routing and everything that no correlation explains is called.
REST = "arrivals, routing and the rest"


def intervals(repeats: Repeats) -> dict[str, Any]:
    """The `intervals` of a summary, as JSON types.

    `metrics`: (low, high) by dotted name, the 10th and 90th percentile of the repeats (numpy's default definition);
    null where no repeat defines the metric. `contributions`: by metric, the squared rank correlation (Spearman) of each
    source's factors with it, where that is more than chance gives, and what is left for arrivals, routing and effects
    that no correlation shows; scaled to add up to 1. `sources`: by name, the 10th and 90th percentile of its factor.
    """
    names = [source.label for source in repeats.sources]
    ends = {source.label: (source.spread.quantiles[0], source.spread.quantiles[-1]) for source in repeats.sources}
    found = {
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
            if np.isfinite(values).all() and np.ptp(values) > 0
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
    shares = np.array([_rank_correlation(column, values) ** 2 for column in factors.T])
    shares[shares * (len(values) - 1) < _CHANCE] = 0.0
    shares /= max(1.0, shares.sum())
    found = {name: float(share) for name, share in zip(names, shares, strict=True) if share > 0}
    found = dict(sorted(found.items(), key=lambda item: -item[1]))
    return {**found, REST: max(0.0, 1.0 - sum(found.values()))}


def _rank_correlation(one: FloatArray, other: FloatArray) -> float:
    """Spearman's rho; 0 where either does not vary."""
    a, b = _ranks(one), _ranks(other)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 0.0


def _ranks(values: FloatArray) -> FloatArray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle: FloatArray = np.cumsum(counts) - (counts + 1) / 2
    return middle[group]
