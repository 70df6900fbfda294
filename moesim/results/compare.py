"""Two runs, or a run and a measurement: what differs, and whether by more than is known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.results.folder import MANIFEST, Results, load
from moesim.results.measurement import LATENCIES, measured_requests, measured_summary, request_metrics
from moesim.results.metrics import numbers, weighted_percentiles
from moesim.spec.errors import MoesimError, Where
from moesim.spec.marked import display

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

#: Share of what might as well be that an interval holds, and its ends in percent.
LEVEL, ENDS = 0.8, (10.0, 90.0)
#: Files of measured values.
_MEASURED = (".csv", ".yaml", ".yml", ".json")
#: Normal score of the upper end.
_SCORE = 1.2815515655446004

#: What an interval of a difference rests on.
PAIRED = "repeats of both runs, pair by pair"
REPEATED = "repeats"
MIXED = "repeats, and sampling error of the other"
SAMPLED = "sampling error"


@dataclass(frozen=True)
class Side:
    """What is compared: metrics by dotted name; latencies of its requests, in seconds; where a run was repeated, the
    table of its repeats."""

    label: str
    metrics: Mapping[str, float]
    samples: Mapping[str, Array] = field(default_factory=dict)
    repeats: pd.DataFrame | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Difference:
    """second - first of a metric, its 80 % interval (NaN where none is known), and what that rests on."""

    metric: str
    first: float
    second: float
    low: float = math.nan
    high: float = math.nan
    basis: str = ""

    @property
    def change(self) -> float:
        return self.second - self.first

    @property
    def equal(self) -> bool:
        """But for the last digits of floating-point numbers."""
        return math.isclose(self.first, self.second, rel_tol=1e-9)

    @property
    def relative(self) -> float:
        return self.change / abs(self.first) if self.first else math.nan

    @property
    def exceeds(self) -> bool | None:
        """Whether the difference exceeds its interval: no difference lies outside it. None where that is not known."""
        if math.isnan(self.low) or math.isnan(self.high):
            return None
        return self.low > 0 or self.high < 0


def open_sides(first: Path, second: Path) -> tuple[Side, Side]:
    """Both sides, with labels that tell them apart. Raises as `open_side`."""
    sides = open_side(first), open_side(second)
    for labels in ((first.resolve().name, second.resolve().name), (f"{first}", f"{second}"), ("A", "B")):
        if sides[0].label != sides[1].label:
            break
        sides = replace(sides[0], label=labels[0]), replace(sides[1], label=labels[1])
    return sides


def open_side(path: Path) -> Side:
    """A results folder, a CSV of measured requests (or a folder with one), or a YAML or JSON of measured values.

    Raises:
        MoesimError: it is none of these, or cannot be read.
    """
    if path.is_dir() and not (path / MANIFEST).is_file() and (path / "requests.csv").is_file():
        return Side(path.name, *_measured(path / "requests.csv"))
    if path.suffix.lower() in _MEASURED and not path.exists():
        raise MoesimError(f"there is no file {display(path)}", fix="give a results folder or measured values")
    if path.is_dir() or not path.exists():
        return of_results(load(path))
    if path.suffix.lower() == ".csv":
        return Side(path.stem, *_measured(path))
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        return Side(path.stem, _summary(path))
    what = f"{display(path)} is no results folder and no measurement"
    raise MoesimError(what, fix="give a results folder, a CSV of requests, or a YAML or JSON of values")


def of_results(results: Results) -> Side:
    if results.trains:
        return Side(results.name, numbers(results.summary), seed=results.manifest.get("seed"))
    requests = results.requests
    if "stage" in requests:
        requests = requests[requests["stage"] >= 0]
    samples = {name: _known(requests[name].to_numpy(dtype=float)) for name in LATENCIES}
    repeats = results.uncertainty if "intervals" in results.summary else None
    return Side(results.name, numbers(results.summary), samples, repeats, results.manifest.get("seed"))


def _measured(path: Path) -> tuple[dict[str, float], dict[str, Array]]:
    requests = measured_requests(path)
    return request_metrics(requests), {name: _known(requests[name]) for name in LATENCIES if name in requests}


def _summary(path: Path) -> dict[str, float]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        document: Any = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise MoesimError(f"cannot be read: {str(error).splitlines()[0]}", where=Where(display(path))) from None
    found = measured_summary(document, display(path)) if isinstance(document, Mapping) else {}
    if not found:
        fix = "write values like `ttft: {mean: 90 ms}`"
        raise MoesimError("holds no values", where=Where(display(path)), fix=fix)
    return found


def _known(values: Array) -> Array:
    return values[np.isfinite(values)]


def compare(first: Side, second: Side) -> list[Difference]:
    """Every metric that both define, in the order of the first.

    Intervals of 80 %, the best that there is: where both were repeated with one seed, of the differences repeat by
    repeat (repeats draw common random numbers, `moesim.uncertainty`); where at least one was, of its repeats against
    the other's, or its sampling error; else sampling errors of latencies alone, as if requests were independent, which
    takes those of a loaded server for better known than they are.
    """
    found = []
    for name, a in first.metrics.items():
        b = second.metrics.get(name, math.nan)
        if math.isfinite(a) and math.isfinite(b):
            low, high, basis = _interval(first, second, name, b - a)
            found.append(Difference(name, a, b, low, high, basis))
    if not found:
        what = f"{first.label} and {second.label} have no metric in common"
        raise MoesimError(what, fix="metrics are named as in summary.json")
    return found


def _interval(first: Side, second: Side, name: str, change: float) -> tuple[float, float, str]:
    a, b = _repeats(first, name), _repeats(second, name)
    if a is not None and b is not None:
        paired = len(a) == len(b) and first.seed is not None and first.seed == second.seed
        differences = b - a if paired else (b[None, :] - a[:, None]).ravel()
        low, high = np.percentile(differences, ENDS)
        return float(low), float(high), PAIRED if paired else REPEATED
    errors = [_error(side, name, repeats) for side, repeats in ((first, a), (second, b))]
    if all(error is None for error in errors):
        return math.nan, math.nan, ""
    # Either may be off by itself: their errors add up in quadrature.
    (a_low, a_high), (b_low, b_high) = (error or (0.0, 0.0) for error in errors)
    low, high = change - math.hypot(b_low, a_high), change + math.hypot(b_high, a_low)
    if a is None and b is None:
        return low, high, SAMPLED
    return low, high, REPEATED if None in errors else MIXED


def _repeats(side: Side, name: str) -> Array | None:
    """A metric in every repeat; None where it is not defined in all of them."""
    if side.repeats is None or name not in side.repeats:
        return None
    values = side.repeats[name].to_numpy(dtype=float)
    return values if np.isfinite(values).all() and len(values) > 1 else None


def _error(side: Side, name: str, repeats: Array | None) -> tuple[float, float] | None:
    """How far below and above its value a metric may lie."""
    value = side.metrics[name]
    if repeats is not None:
        low, high = np.percentile(repeats, ENDS)
        return max(value - float(low), 0.0), max(float(high) - value, 0.0)
    latency, _, statistic = name.partition(".")
    sample = side.samples.get(latency)
    if sample is None or len(sample) < 2:
        return None
    if statistic == "mean":
        error = _SCORE * float(sample.std(ddof=1)) / math.sqrt(len(sample))
        return error, error
    low, high = percentile_interval(sample, float(statistic[1:]) / 100)
    return max(value - low, 0.0), max(high - value, 0.0)


def percentile_interval(sample: Array, level: float) -> tuple[float, float]:
    """80 % interval of a quantile by order statistics: the number of values below it is binomial, whatever they are
    distributed like (Conover, Practical Nonparametric Statistics, 3.2)."""
    spread = _SCORE * math.sqrt(len(sample) * level * (1 - level))
    ranks = 100 * np.clip((len(sample) * level + np.array([-spread, spread])) / len(sample), 0, 1)
    low, high = weighted_percentiles(sample, np.ones(len(sample), np.int64), ranks.tolist())
    return float(low), float(high)
