"""Axes as the command line writes them: `parallelism.ep=1,2,4`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moesim.spec.errors import MoesimError, Where
from moesim.spec.marked import parse_yaml

_FORM = "write it like --axis parallelism.ep=1,2,4"
_RANGE = {"low", "high", "count", "scale", "integer", "unit"}


def axis_changes(axes: Sequence[str], zipped: Sequence[str], sample: str | None, seed: int) -> dict[str, Any]:
    """The keys of a study that the command line's `--axis`, `--zip` and `--sample` stand for.

    Args:
        axes: "key=values", with " if other=value" behind it where the axis is conditional. `values` are YAML, between
            commas; {low: 1, high: 10, count: 5} is a range.
        zipped: "key=values" that are varied together.
        sample: "sobol:64", "halton:64" or "random:64".

    Raises:
        MoesimError: one is malformed.
    """
    changes: dict[str, Any] = {}
    conditional = []
    for text in axes:
        body, given, condition = text.partition(" if ")
        path, values = _axis("--axis", body)
        if given:
            other, allowed = _axis("--axis", condition)
            conditional.append({"when": {other: allowed}, "axes": {path: values}})
        else:
            _once(changes.setdefault("axes", {}), path, values)
    if conditional:
        changes["conditional"] = conditional
    group: dict[str, Any] = {}
    for text in zipped:
        _once(group, *_axis("--zip", text))
    if group:
        changes["zip"] = [group]
    if sample is not None:
        changes["sample"] = _sample(sample, seed)
    return changes


def _once(group: dict[str, Any], path: str, values: Any) -> None:
    if path in group:
        raise MoesimError(f"two axes vary {path}", fix="put their values into one")
    group[path] = values


def _axis(option: str, text: str) -> tuple[str, Any]:
    where = Where(f"{option} {text}")
    path, equals, values = text.partition("=")
    if not equals or not path.strip():
        raise MoesimError("there is no key and = in it", where=where, fix=_FORM)
    if not values.strip():
        raise MoesimError("the axis has no values", where=where, fix=_FORM)
    node = parse_yaml(f"[{values}]", str(where), Path.cwd(), numbered=False)
    found: list[Any] = node.plain() if node is not None else []
    if len(found) == 1 and isinstance(found[0], list):
        found = found[0]
    if not found:
        raise MoesimError("the axis has no values", where=where, fix=_FORM)
    is_range = len(found) == 1 and isinstance(found[0], dict) and {"low", "high"} <= found[0].keys() <= _RANGE
    return path.strip(), found[0] if is_range else found


def _sample(text: str, seed: int) -> dict[str, Any]:
    method, colon, points = text.partition(":")
    if not colon or not points.isdecimal():
        fix = "write it like --sample sobol:64 (or halton, random)"
        raise MoesimError(f"{text!r} is no method and number of points", where=Where("--sample"), fix=fix)
    return {"method": method, "points": int(points), "seed": seed}
