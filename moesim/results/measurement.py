"""A measured run, to compare with: requests one by one (CSV), or a summary (YAML or JSON)."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.results.metrics import distribution, numbers
from moesim.results.tables import ratio
from moesim.spec.errors import MoesimError, Where
from moesim.spec.marked import display
from moesim.spec.units import parse

Array = NDArray[np.float64]

#: What a measured request may say: seconds, or with one of the suffixes; and tokens.
TIMES = ("arrival", "queued", "ttft", "tpot", "e2e")
TOKENS = ("prompt_tokens", "output_tokens")
LATENCIES = ("ttft", "tpot", "e2e")

_SCALE = {"": 1.0, "_s": 1.0, "_ms": 1e-3, "_us": 1e-6}
#: `queued_s_measured` and `arrival_s_dataset` are columns of published runs.
_TIME = re.compile(rf"({'|'.join(TIMES)})(_s|_ms|_us|)(?:_measured|_dataset)?")
_STATISTIC = {"median": "p50", "avg": "mean", "average": "mean"}
#: A metric of a summary that is a time, with or without its unit.
_LATENCY_KEY = re.compile(r"(ttft|tpot|itl|e2e)(_s|_ms|_us|)")


def measured_requests(path: Path) -> dict[str, Array]:
    """Columns of a CSV of requests, in seconds and tokens: those of TIMES and TOKENS that it has.

    Raises:
        MoesimError: it is no CSV, has none of the latencies, or a cell that is no number.
    """
    where = display(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MoesimError(f"cannot be read as CSV: {error}", where=Where(where)) from None
    names = _columns(columns)
    if not rows or not any(name in names for name in LATENCIES):
        what = "holds no requests" if not rows else "has none of the columns ttft_ms, tpot_ms, e2e_ms"
        raise MoesimError(what, where=Where(where), fix="give a row per request with latencies in _s, _ms or _us")
    found = {
        name: scale * np.array([_cell(row.get(column), column, where, line) for line, row in enumerate(rows, 2)])
        for name, (column, scale) in names.items()
    }
    if "tpot" not in found and {"ttft", "e2e", "output_tokens"} <= set(found):
        found["tpot"] = ratio(found["e2e"] - found["ttft"], found["output_tokens"] - 1)
    return found


def _columns(columns: list[str]) -> dict[str, tuple[str, float]]:
    """Column and scale of each quantity; the engine's own clock (queued) goes before the sender's (arrival)."""
    names: dict[str, tuple[str, float]] = {name: (name, 1.0) for name in TOKENS if name in columns}
    for column in columns:
        match = _TIME.fullmatch(column.strip().lower())
        if match:
            names.setdefault(match[1], (column, _SCALE[match[2]]))
    return names


def _cell(text: str | None, column: str, where: str, line: int) -> float:
    if text is None or not text.strip():
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise MoesimError(f"{column} {text!r} is no number", where=Where(where, line), fix="correct the cell") from None


def request_metrics(requests: Mapping[str, Array]) -> dict[str, float]:
    """The metrics of measured requests by dotted name, as a run's summary has them."""
    found = numbers({name: distribution(requests[name]) for name in LATENCIES if name in requests})
    count = len(next(iter(requests.values())))
    found["requests.total"] = float(count)
    begin = requests.get("queued", requests.get("arrival"))
    if begin is not None and "e2e" in requests and np.isfinite(requests["e2e"]).any():
        found["duration"] = duration = float(np.nanmax(begin + requests["e2e"]))
        found["requests.finished"] = finished = float(np.isfinite(requests["e2e"]).sum())
        found["throughput.requests"] = finished / duration
        if "output_tokens" in requests:
            output = float(np.nansum(requests["output_tokens"]))
            found["throughput.output_tokens"] = output / duration
            if "prompt_tokens" in requests:
                found["throughput.total_tokens"] = (output + float(np.nansum(requests["prompt_tokens"]))) / duration
    return found


def measured_summary(document: Mapping[str, Any], where: str) -> dict[str, float]:
    """Metrics by dotted name of a summary such as {ttft_ms: {mean: 90, p90: 120}, throughput: {output_tokens: 1480}}.

    Keys are those of `summary.json`, nested or dotted; times may have a suffix (_ms) or a unit ("90 ms"). Where a key
    begins with "measured", its mapping is the summary. Other texts are taken for remarks.

    Raises:
        MoesimError: a latency is no number.
    """
    chosen = next((value for key, value in document.items() if _is_measured(key, value)), document)
    values = {_metric(name)[0]: _value(name, value, where) for name, value in _leaves(chosen, "")}
    return {name: value for name, value in values.items() if value is not None}


def _is_measured(key: object, value: object) -> bool:
    return str(key).startswith("measured") and isinstance(value, Mapping)


def _leaves(document: Mapping[str, Any], above: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in document.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            found += _leaves(value, f"{name}.")
        elif not isinstance(value, (list, bool)) and value is not None:
            found.append((name, value))
    return found


def _metric(name: str) -> tuple[str, float]:
    """The metric that a key means, and the scale of its number."""
    first, _, rest = name.partition(".")
    match = _LATENCY_KEY.fullmatch(first.lower())
    if match is None:
        return name, 1.0
    statistic = _STATISTIC.get(rest.lower(), rest.lower()) or "mean"
    # A number without a statistic is a mean.
    return f"{match[1]}.{statistic}", _SCALE[match[2]]


def _value(name: str, value: object, where: str) -> float | None:
    metric, scale = _metric(name)
    latency = _LATENCY_KEY.fullmatch(metric.partition(".")[0]) is not None
    try:
        if isinstance(value, str) and latency:
            return parse(value, "second")
        return float(value) * scale  # type: ignore[arg-type]
    except (TypeError, ValueError):
        if latency:
            fix = 'write it like "90 ms"'
            raise MoesimError(f"{name}: {value!r} is no time", where=Where(where), fix=fix) from None
        return None
