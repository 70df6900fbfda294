"""Answers of experiments: a metric of a run, the ratio of two, and how either goes along an axis."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from moesim.spec.base import Schema
from moesim.spec.errors import MoesimError
from moesim.spec.library import did_you_mean
from moesim.spec.marked import mark
from moesim.validate.cases import Found, Setting, case

#: The values of an override, by dotted key: {requests.count: 20}.
Overrides = dict[str, Any]


class Run(Schema):
    """An experiment (a file beside the cases, or a name of the library), what is set in it, and the metric that is
    read from its summary, by dotted name (docs/reference/metrics.md), or from its table of operators
    ("operators.dispatch.seconds", docs/reference/results.md); of several metrics their sum."""

    experiment: str
    metric: str | tuple[str, ...]
    set: Overrides = {}


class Along(Schema):
    """A key of a kind's inputs, dotted below `set` or another mapping ("set.requests.count"), and the values that it
    takes one after the other."""

    key: str
    values: tuple[Any, ...]


@case("metric")
def metric(
    setting: Setting, *, experiment: str, metric: str | tuple[str, ...], set: Overrides = {}  # noqa: A002, B006
) -> Found:
    """A metric of a run. Give the case its `unit`."""
    return Found(value_of(setting, Run(experiment=experiment, metric=metric, set=set)))


@case("ratio")
def ratio(setting: Setting, *, of: Run, to: Run, set: Overrides = {}) -> Found:  # noqa: A002, B006
    """The metric of one run over that of another; set: in both."""
    above, below = (value_of(setting, each.model_copy(update={"set": {**each.set, **set}})) for each in (of, to))
    return Found(above / below if below else math.nan)


def _steps(values: list[float]) -> list[float]:
    return [after / before for before, after in pairwise(values)]


#: What a series of answers is reduced to. `rise` and `fall` are the smallest and largest ratio of one answer to the one
#: before: rise above 1 means that each is larger than the last; fall below 1, smaller (`compare: above`, `below`).
STATISTICS: dict[str, Callable[[list[float]], float]] = {
    "smallest": min,
    "largest": max,
    "mean": lambda values: math.fsum(values) / len(values),
    "spread": lambda values: max(values) / min(values),
    "rise": lambda values: min(_steps(values)),
    "fall": lambda values: max(_steps(values)),
}


@case("along")
def along(
    setting: Setting,
    *,
    kind: str,
    inputs: dict[str, Any],
    along: Along,
    statistic: Literal["smallest", "largest", "mean", "spread", "rise", "fall"],
) -> Found:
    """A statistic of another kind's answers along an axis. Give the case its `unit` where it is none of ratios."""
    values = series(setting, kind, inputs, along)
    shown = ", ".join(f"{value:.4g}" for value in values)
    # min and max drop a NaN unless it comes first: a point without an answer would go unnoticed.
    missing = any(math.isnan(value) for value in values)
    return Found(math.nan if missing else STATISTICS[statistic](values), detail=f"{statistic} of {shown}")


@case("quotient")
def quotient(setting: Setting, *, kind: str, of: dict[str, Any], to: dict[str, Any]) -> Found:
    """Another kind's answer to some inputs over its answer to others: a ratio over a ratio, "gains less than"."""
    above, below = (answer(setting, kind, inputs) for inputs in (of, to))
    return Found(above / below if below else math.nan, detail=f"{above:.4g} over {below:.4g}")


def series(setting: Setting, kind: str, inputs: dict[str, Any], along: Along) -> list[float]:
    """The answers of a kind while one of its inputs takes the values of an axis.

    Raises:
        MoesimError: there is no such kind or input, or an answer cannot be computed.
    """
    head, _, rest = along.key.partition(".")
    answers = []
    for each in along.values:
        inner = {**inputs.get(head, {}), rest: each} if rest else each
        answers.append(answer(setting, kind, {**inputs, head: inner}))
    return answers


def answer(setting: Setting, kind: str, inputs: dict[str, Any]) -> float:
    """A kind's answer to its inputs; NaN where it has none. Raises MoesimError as `series` does."""
    from moesim.validate.suites import question

    found, valid = question(kind, mark(inputs), None)
    simulated = found.compute(setting, **valid).simulated
    return math.nan if simulated is None else simulated


def value_of(setting: Setting, run: Run) -> float:
    """The metric of a run.

    Raises:
        MoesimError: the experiment cannot run, or its summary has no such metric.
    """
    from moesim.results.metrics import numbers
    from moesim.spec.library import find

    texts = tuple(f"{key}={json.dumps(value)}" for key, value in run.set.items())
    found = numbers(summary_of(find("experiments", run.experiment, folder=setting.folder), texts))
    names = (run.metric,) if isinstance(run.metric, str) else run.metric
    for name in names:
        if name not in found:
            fix = did_you_mean(name, found) or "its summary.json shows them all"
            raise MoesimError(f"{run.experiment} has no metric {name!r}", fix=fix)
    return math.fsum(found[name] for name in names)


@lru_cache(maxsize=256)
def summary_of(experiment: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """The summary of a run, and its table of operators, simulated once for all its cases."""
    from moesim.results.metrics import summarise
    from moesim.results.training import training_summary
    from moesim.serving.simulate import simulate
    from moesim.spec.loading import load_experiment
    from moesim.training.outcome import simulate_training

    loaded = load_experiment(experiment, overrides)
    with loaded.placing():
        if loaded.spec.training is not None:
            return training_summary(simulate_training(loaded.spec))
        record = simulate(loaded.spec)
    columns = {key: column for key, column in record.operators.items() if column.dtype.kind == "f"}
    operators = {
        str(name): {key: float(column[row]) for key, column in columns.items()}
        for row, name in enumerate(record.operators["name"])
    }
    return {**summarise(record, loaded.spec.slo), "operators": operators}
