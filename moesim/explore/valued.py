"""Metrics that no point of a study has a value of, because of what its machines or its requests do not say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from moesim.explore.metrics import SHORT, machine_metrics
from moesim.explore.space import Dimension, Point, within_all
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.layers import assignment
from moesim.spec.loading import Template

#: What metrics need, by the first part of their name or the whole of it: a metric of the machine, and how to give it.
_PRICE = ("machine.price", "no price of the machine is known", "set machine.price, like '5 $/h'")
_AREA = ("machine.area", "the silicon of a device is not known", "give the devices an area")
_MACHINE = {"cost": _PRICE, "machine.price": _PRICE, "machine.area": _AREA}
#: Keys on which it may depend whether there is a value.
_DECIDES = ("machine", "library", "pools", "slo")


def check_valued(base: Template, found: Sequence[Dimension], metrics: Iterable[str]) -> None:
    """Raises MoesimError where a metric that a study asks for is not defined at any of its points."""
    asked = [SHORT.get(name, name) for name in metrics]
    asked = [name for name in asked if _need(name) or name.startswith("goodput.")]
    if not asked:
        return
    reasons: dict[str, tuple[str, str]] = {}
    for point in _settings(found):
        try:
            spec = base.load([assignment(path, value) for path, value in point.items()]).spec
            lacking = {name: why for name in asked if (why := _lacking(spec, name))}
        except MoesimError:
            return  # what is wrong with a point is said where it is computed
        reasons = {name: why for name, why in lacking.items() if not reasons or name in reasons}
        if not reasons:
            return
    for name, (reason, fix) in reasons.items():
        raise MoesimError(f"{name} has no value: {reason}", fix=f"{fix}, or ask for another metric")


def _need(name: str) -> tuple[str, str, str] | None:
    return _MACHINE.get(name) or _MACHINE.get(name.partition(".")[0])


def _lacking(spec: ExperimentSpec, name: str) -> tuple[str, str] | None:
    """Why a metric has no value, and what would give it one."""
    if (need := _need(name)) is not None:
        known, why, fix = need
        return (why, fix) if math.isnan(machine_metrics(spec)[known]) else None
    limits = spec.slo.limits or any(each.limits for each in spec.slo.classes.values())
    return None if limits else ("the experiment has no slo", "give one, like slo.ttft=1 s")


def _settings(found: Sequence[Dimension]) -> Iterator[Point]:
    """Some point of the study, and those beside it that differ in what may decide."""
    some = within_all(found)
    yield some
    for dimension in found:
        if not dimension.continuous and any(path.partition(".")[0] in _DECIDES for path in dimension.paths):
            for values in dimension.values():
                yield {**some, **dict(zip(dimension.paths, values, strict=True))}
