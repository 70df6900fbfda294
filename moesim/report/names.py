"""Metrics as figures and tables call them: a label, the unit in which they read well, which way is better."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moesim.report.text import percent, short_quantity, short_time, significant

_LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E latency"}
_STATISTICS = {"mean": "mean", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}

#: Label, unit in SI (share: a part of one), by dotted name of the summary.
_KNOWN = {
    "duration": ("duration", "s"),
    "throughput.requests": ("throughput", "requests/s"),
    "throughput.output_tokens": ("output throughput", "tokens/s"),
    "throughput.total_tokens": ("total throughput", "tokens/s"),
    "goodput.requests": ("goodput", "requests/s"),
    "goodput.share": ("requests within SLO", "share"),
    "utilisation.mfu": ("MFU", "share"),
    "utilisation.mbu": ("MBU", "share"),
    "utilisation.s_mfu": ("S-MFU", "share"),
    "utilisation.s_mbu": ("S-MBU", "share"),
    "utilisation.busy": ("busy", "share"),
    "energy.total": ("energy", "J"),
    "energy.per_output_token": ("energy per output token", "J"),
    "energy.average_power": ("average power", "W"),
    "cost.total": ("cost", "$"),
    "cost.per_million_output_tokens": ("cost per million output tokens", "$"),
    "memory.share": ("memory in use", "share"),
    "memory.kv_peak": ("KV cache, peak", "share"),
    "network.exposed_share": ("exposed communication", "share"),
    "experts.imbalance": ("expert imbalance", "×"),
    "experts.rank_imbalance": ("rank imbalance", "×"),
}

#: More of these is better; of everything else, less.
_MORE = ("throughput", "goodput", "utilisation")


def label(metric: str) -> str:
    """'TTFT, p90' for 'ttft.p90'; the dotted name in words where nothing better is known."""
    first, _, rest = metric.partition(".")
    if first in _LATENCIES and rest in _STATISTICS:
        return f"{_LATENCIES[first]}, {_STATISTICS[rest]}"
    return _KNOWN[metric][0] if metric in _KNOWN else metric.replace("_", " ").replace(".", ", ")


def unit(metric: str) -> str:
    """'s', 'tokens/s', 'share', ...; empty where it is a plain number or not known."""
    first, _, rest = metric.partition(".")
    if first in _LATENCIES and rest in _STATISTICS:
        return "s"
    if metric in _KNOWN:
        return _KNOWN[metric][1]
    parts = {"energy": "J", "cost": "$"}
    return "share" if metric.endswith(("share", "attainment")) or ".attainment." in metric else parts.get(first, "")


def more_is_better(metric: str) -> bool:
    return metric.partition(".")[0] in _MORE


def shown(metric: str, value: float | None) -> str:
    """'21.3 ms', '7.3 %', '1,250 tokens/s'; a dash for no value."""
    if value is None or not np.isfinite(value):
        return "–"
    kind = unit(metric)
    if kind == "s":
        return short_time(value) if value >= 0 else f"-{short_time(-value)}"
    if kind == "share":
        return percent(value)
    if kind in ("J", "W"):
        return short_quantity(value, kind)
    text = significant(abs(value), 4)
    text = f"-{text}" if value < 0 else text
    return f"${text}" if kind == "$" else f"{text} {kind}".rstrip()


def scaled(metric: str, values: ArrayLike) -> tuple[NDArray[np.float64], str]:
    """Values in the unit in which they read well on an axis, and the axis' label with that unit."""
    numbers = np.asarray(values, dtype=float)
    kind, known = unit(metric), numbers[np.isfinite(numbers)]
    largest = float(np.abs(known).max()) if len(known) else 1.0
    factor, prefix = 1.0, kind
    if kind == "s" and largest < 2:
        factor, prefix = (1e3, "ms") if largest >= 2e-3 else (1e6, "µs")
    elif kind == "share":
        factor, prefix = 100.0, "%"
    elif kind == "tokens/s" and largest >= 2e4:
        factor, prefix = 1e-3, "thousand tokens/s"
    elif kind in ("J", "W"):
        factor, prefix = next(
            (pair for pair in ((1e-6, f"M{kind}"), (1e-3, f"k{kind}"), (1.0, kind)) if largest * pair[0] >= 2),
            (1e3, f"m{kind}"),
        )
    return numbers * factor, f"{label(metric)} ({prefix})" if prefix else label(metric)
