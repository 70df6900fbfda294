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
    "training.step_time": ("step time", "s"),
    "training.tokens_per_second": ("training throughput", "tokens/s"),
    "training.bubble": ("pipeline bubble", "share"),
    "throughput.requests": ("throughput", "requests/s"),
    "throughput.output_tokens": ("output throughput", "tokens/s"),
    "throughput.total_tokens": ("total throughput", "tokens/s"),
    "goodput.requests": ("goodput", "requests/s"),
    "goodput.share": ("requests within SLO", "share"),
    "utilisation.mfu": ("MFU", "share"),
    "utilisation.hfu": ("HFU", "share"),
    "utilisation.mbu": ("MBU", "share"),
    "utilisation.s_mfu": ("S-MFU", "share"),
    "utilisation.s_mbu": ("S-MBU", "share"),
    "utilisation.busy": ("busy", "share"),
    "energy.total": ("energy", "J"),
    "energy.per_output_token": ("energy per output token", "J"),
    "energy.per_token": ("energy per token", "J"),
    "energy.average_power": ("average power", "W"),
    "cost.total": ("cost", "$"),
    "cost.per_million_output_tokens": ("cost per million output tokens", "$"),
    "cost.per_million_tokens": ("cost per million tokens", "$"),
    "memory.share": ("memory in use", "share"),
    "memory.kv_peak": ("KV cache, peak", "share"),
    "network.exposed_share": ("exposed communication", "share"),
    "experts.imbalance": ("expert imbalance", "×"),
    "experts.rank_imbalance": ("rank imbalance", "×"),
}

#: More of these metrics, and of those whose names begin so, is better; of everything else, less.
_MORE = frozenset((
    "throughput", "goodput", "utilisation", "requests.finished", "requests.prefix_hit_tokens",
    "requests.prefix_hit_rate", "experts.hit_rate", "experts.fetched_ahead", "network.hidden",
    "training.tokens_per_second",
))  # fmt: skip


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
    if metric in ("network.exposed", "network.hidden", "network.sharing", "network.least"):
        return "s"
    share = metric.endswith("share") or ".attainment." in metric or ".shares." in metric or metric == "memory.kv_mean"
    return "share" if share else {"energy": "J", "cost": "$"}.get(first, "")


def more_is_better(metric: str) -> bool:
    """Which way a metric of a summary, or of the machine, gets better, where nobody says it."""
    return metric in _MORE or metric.partition(".")[0] in _MORE or metric.endswith(".busy")


def shown(metric: str, value: float | None) -> str:
    """'21.3 ms', '7.3 %', '1,250 tokens/s'; a dash for no value."""
    if value is None or not np.isfinite(value):
        return "–"
    kind = unit(metric)
    if kind == "share":
        return percent(value)
    return ("-" if value < 0 else "") + _sized(kind, abs(value))


def shown_change(metric: str, value: float) -> str:
    """'+21.3 ms', '-7.3 pp' (percentage points), '+1,250': a difference, with its unit where that has prefixes."""
    if not np.isfinite(value):
        return "–"
    kind = unit(metric)
    size = f"{significant(100 * abs(value))} pp" if kind == "share" else _sized(kind, abs(value))
    return ("-" if value < 0 else "+") + size.removesuffix(f" {kind}" if "/" in kind or kind == "×" else "\0")


def _sized(kind: str, value: float) -> str:
    if kind == "s":
        return short_time(value)
    if kind in ("J", "W"):
        return short_quantity(value, kind)
    text = significant(value, 4)
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
