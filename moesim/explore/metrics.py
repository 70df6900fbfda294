"""Metrics by name: which there are, which way they get better, and conditions on them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

from moesim.hardware.machine import assemble
from moesim.report.names import more_is_better
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.library import did_you_mean
from moesim.spec.units import parse

Goal = Literal["minimise", "maximise"]

#: What the five objectives of a design mean where nobody says more.
SHORT = {
    "latency": "e2e.p50",
    "throughput": "throughput.output_tokens",
    "goodput": "goodput.requests",
    "cost": "cost.per_million_output_tokens",
    "energy": "energy.per_output_token",
    "power": "machine.power",
    "area": "machine.area",
}
_DEPENDS_ON_THE_LOAD = re.compile(r"goodput\.(attainment\.(ttft|tpot|e2e)|classes\..+)")
_UNITS = ("second", "watt", "byte", "joule", "dollar", "1/second", "meter**2")
_OPERATORS = {"<=": float.__le__, ">=": float.__ge__, "<": float.__lt__, ">": float.__gt__}


class Objective(NamedTuple):
    metric: str
    goal: Goal

    @property
    def sign(self) -> float:
        """What its values are multiplied with so that less is better."""
        return 1.0 if self.goal == "minimise" else -1.0


class Constraint(NamedTuple):
    """`metric` on the side of `limit` that `operator` says."""

    text: str
    metric: str
    operator: str
    limit: float

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """False where the metric is not defined."""
        return bool(_OPERATORS[self.operator](float(metrics.get(self.metric, math.nan)), self.limit))

    def violation(self, metrics: Mapping[str, float]) -> float:
        """By how much it is missed, as a share of the limit; 0 or less where it holds, 1e9 where it is not defined."""
        value = float(metrics.get(self.metric, math.nan))
        if math.isnan(value):
            return 1e9
        excess = value - self.limit if self.operator in ("<=", "<") else self.limit - value
        return excess / (abs(self.limit) or 1.0)


def machine_metrics(spec: ExperimentSpec) -> dict[str, float]:
    """Of the machine, or of both where each pool has its own, whatever it runs: devices, the sum of their power limits
    (watts), their silicon (square metres), their price (dollars per second). NaN where a descriptor does not give the
    number."""
    systems = [spec.machine]
    if spec.pools is not None and not spec.pools.shares_machine:
        systems = [spec.pool("prefill").machine, spec.pool("decode").machine]
    machines = [assemble(system, spec.library) for system in systems]
    return {
        "machine.devices": float(sum(len(each.devices) for each in machines)),
        "machine.power": sum(each.power for each in machines),
        "machine.area": sum(each.area for each in machines),
        "machine.price": sum(each.price for each in machines),
    }


@lru_cache(maxsize=1)
def known_metrics() -> tuple[str, ...]:
    """Names of the metrics of a run: those of a small one."""
    from moesim.results.metrics import numbers, summarise
    from moesim.serving.simulate import simulate
    from moesim.spec.loading import load_experiment

    spec = load_experiment("quickstart", ["requests.count=1"]).spec
    return (*numbers(summarise(simulate(spec), spec.slo)), *machine_metrics(spec))


def metric(name: str) -> str:
    """The full name of a metric.

    Raises:
        MoesimError: there is none; suggests the nearest.
    """
    name = SHORT.get(name, name)
    known = known_metrics()
    if name in known or _DEPENDS_ON_THE_LOAD.fullmatch(name):
        return name
    group = [each for each in known if each.startswith(f"{name}.")]
    near = did_you_mean(name, [*SHORT, *known])
    fix = f"say which: {', '.join(group)}" if group else near or f"choose {', '.join(SHORT)}, or a metric of a summary"
    raise MoesimError(f"there is no metric {name!r}", fix=fix)


def objective(text: str) -> Objective:
    """An objective from "ttft.p99" or "minimise ttft.p99".

    Raises:
        MoesimError: there is no such metric.
    """
    words = text.replace("maximize", "maximise").replace("minimize", "minimise").split()
    goals: tuple[Goal, Goal] = ("minimise", "maximise")
    goal = next((each for each in goals if words[:1] == [each]), None)
    name = metric(" ".join(words[1:] if goal else words))
    if goal is None:
        goal = "maximise" if more_is_better(name) else "minimise"
    return Objective(name, goal)


def constraint(text: str) -> Constraint:
    """A condition from "ttft.p99 <= 2 s".

    Raises:
        MoesimError: it is malformed, or there is no such metric.
    """
    found = re.fullmatch(r"\s*(\S+?)\s*(<=|>=|<|>)\s*(.+?)\s*", text)
    if found is None:
        raise MoesimError(f"the constraint {text!r} is no comparison", fix='write it like "ttft.p99 <= 2 s"')
    return Constraint(text, metric(found[1]), found[2], _quantity(text, found[3]))


def _quantity(constraint: str, text: str) -> float:
    for unit in ("", *_UNITS):
        try:
            return float(text) if not unit else parse(text, unit)
        except ValueError:
            continue
    raise MoesimError(f"the limit of the constraint {constraint!r} is no quantity", fix="write it like 2 s or 700 W")
