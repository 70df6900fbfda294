"""Interval data over time: exact averages in bins, however many steps there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def time_edges(duration: float, intervals: int, *, most: int = 240) -> Array:
    """Equal bins over [0, duration], wide enough to hold a few of the intervals each."""
    bins = int(np.clip(intervals // 4, 1, most))
    return np.linspace(0.0, max(duration, 1e-12), bins + 1)


def rate(start: Array, end: Array, amount: Array, edges: Array) -> Array:
    """Mean rate in each bin of what is spread evenly over its interval: `amount[i]` over [start[i], end[i]].

    With amount = 1 * (end - start) this is the share of time covered, with value * (end - start) the time-average of a
    value that is zero between the intervals. Intervals may overlap. Shapes: [n], [n], [n], [b + 1] -> [b].
    """
    length = np.maximum(end - start, 1e-15)
    slope = amount / length
    total = _ramp(np.asarray(start, float), slope, edges) - _ramp(start + length, slope, edges)
    return np.asarray(np.diff(total) / np.diff(edges))


def _ramp(origin: Array, slope: Array, times: Array) -> Array:
    """Sum over i of slope[i] * max(0, t - origin[i]) at each t."""
    order = np.argsort(origin, kind="stable")
    sorted_origin, sorted_slope = origin[order], slope[order]
    slopes = np.concatenate([[0.0], np.cumsum(sorted_slope)])
    offsets = np.concatenate([[0.0], np.cumsum(sorted_slope * sorted_origin)])
    count = np.searchsorted(sorted_origin, times, side="right")
    return np.asarray(slopes[count] * times - offsets[count])


def thin(values: Array, most: int) -> NDArray[np.int64]:
    """Indices of at most `most` elements of a sorted column, evenly spaced, both ends kept."""
    if len(values) <= most:
        return np.arange(len(values))
    return np.unique(np.rint(np.linspace(0, len(values) - 1, most)).astype(np.int64))
