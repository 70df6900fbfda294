"""Mistakes in a study that no point can make good: keys that do not exist, names that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moesim.explore.space import Dimension, Point
from moesim.spec.complaints import schema_at
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.layers import assignment, parse_override
from moesim.spec.library import Kind, did_you_mean, find
from moesim.spec.loading import Template
from moesim.spec.marked import Location

#: Keys whose text is the name of a descriptor.
_REFERENCES: dict[Location, Kind] = {
    ("model",): "models", ("machine",): "systems", ("engine",): "engines", ("requests", "mix"): "requests",
    ("routing", "profile"): "routing",
}  # fmt: skip


def check_axes(found: Sequence[Dimension]) -> None:
    """Raises MoesimError where an axis varies a key that no experiment has, or names no descriptor that exists."""
    for dimension in found:
        for path, axis in zip(dimension.paths, dimension.axes, strict=True):
            location, _ = parse_override(f"{path}=1")
            _check_key(path, location)
            for value in axis.values or ():
                _check_name(location, value)


def _check_key(path: str, location: Location) -> None:
    """Follows the schema as far as it says which keys there are."""
    for depth, step in enumerate(location):
        owner = schema_at(ExperimentSpec, location[:depth])
        if owner is None:
            continue
        if step not in owner.model_fields and step != "extends":
            inside = f" in {'.'.join(map(str, location[:depth]))}" if depth else ""
            known = list(owner.model_fields)
            fix = did_you_mean(str(step), known) or f"the keys are {', '.join(known)}"
            raise MoesimError(f"the axis {path} varies an unknown key {step!r}{inside}", fix=fix)


def _check_name(location: Location, value: Any) -> None:
    kind = _REFERENCES.get(location)
    if kind is not None and isinstance(value, str):
        find(kind, value, folder=Path.cwd())


def check_experiment(base: Template, point: Point) -> None:
    """Raises MoesimError where an experiment is wrong whatever the axes say: without them as at a point."""
    try:
        base.load([assignment(path, value) for path, value in point.items()])
    except MoesimError as error:
        try:
            base.load()
        except MoesimError as other:
            if other.what == error.what:
                raise
