"""Layers of one document: what it extends below, what `--set` says above."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from moesim.spec.errors import MoesimError, Where
from moesim.spec.marked import OVERRIDE, Location, Marked, parse_yaml
from moesim.spec.origins import disown

#: Turns a reference (`machine: dgx-h100`) at a location into the mapping that it stands for, so that a part of it can
#: be overridden; None where the location holds no reference. Arguments: location, what it holds, the override's value.
Expand: TypeAlias = Callable[[Location, Marked | None, Marked], Marked | None]

#: Keys of an open loop that draws its arrivals, and of a closed one.
_PACE = ("rate", "rates", "period", "duration", "arrival", "variation")
_CLOSED = ("concurrency", "warmup")

#: Within a section, a key that a layer gives, and the keys below that give way to it; either one perhaps only with a
#: certain value.
_RIVALS: dict[str, dict[str, tuple[str, ...]]] = {
    "requests": {
        "trace": ("mix", "count", *_PACE, *_CLOSED, "stages", "pause"),
        "arrival=burst": ("rate", "rates", "period", "duration", *_CLOSED),
        "mix": ("trace", "scale"),
        "rate": ("rates", "period", *_CLOSED),
        "rates": ("rate", *_CLOSED),
        "count": ("duration",),
        "duration": ("count", *_CLOSED),
        "concurrency": (*_PACE, "scale", "drain"),
        "stages": ("trace", "count", *_PACE, *_CLOSED, "scale", "drain"),
    },
    "routing": {
        "source=uniform": ("profile", "zipf", "correlation", "trace"),
        "source=profile": ("trace",),
        "source=trace": ("profile", "zipf", "correlation"),
        "trace": ("source", "profile", "zipf", "correlation"),
        "profile": ("source=uniform", "source=trace", "trace"),
        "zipf": ("source=uniform", "source=trace", "trace"),
        "correlation": ("source=uniform", "source=trace", "trace"),
    },
}

#: Mappings from name to count that are lists of parts: the upper layer's replaces the lower's whole.
_PARTS = {(*above, key) for above in ((), ("machine",)) for key in ("devices", "host", "storage")}

_FORM = "write it like --set parallelism.tp=2"


def merge(upper: Marked, lower: Marked, above: Location = ()) -> Marked:
    """`upper` over `lower`: mappings key by key, anything else replaced; a null in `upper` takes a key away.

    A machine's parts (devices, host, storage) are replaced whole: other devices do not join those of the base. So is
    what `upper` derives from a base of its own (`extends`): nothing of `lower` comes between the two.
    """
    if not (isinstance(upper.value, dict) and isinstance(lower.value, dict)) or above in _PARTS:
        return upper
    if "extends" in upper.value:
        return upper
    merged = dict(lower.value)
    for key, item in upper.value.items():
        if key not in merged:
            merged[key] = item
        elif item.value is None:
            del merged[key]
        else:
            merged[key] = merge(item, merged[key], (*above, key))
    return upper.with_value(merged)


def without_rivals(lower: Marked, upper: Mapping[Location, Marked]) -> Marked:
    """`lower` less the keys that give way to those given above it (a trace replaces a mix, its rate and its count).

    Args:
        lower: an experiment.
        upper: what the layer above says, by location.
    """
    for section in _RIVALS:
        below = lower.child(section)
        if below is None:
            continue
        given = {str(at[1]): node for at, node in upper.items() if len(at) == 2 and at[0] == section}
        kept = yielding(section, below, given)
        if len(kept.items) < len(below.items):
            lower = lower.with_items({section: kept})
    return lower


def yielding(section: str, below: Marked, given: Mapping[str, Marked]) -> Marked:
    """A section less the keys that give way to those `given` above it."""
    leaving: set[str] = set()
    for key, node in given.items():
        leaving.update(_RIVALS[section].get(key, ()), _RIVALS[section].get(f"{key}={node.value}", ()))
    leaving -= given.keys()
    kept = {
        key: item for key, item in below.items.items() if key not in leaving and f"{key}={item.value}" not in leaving
    }
    return below.with_value(kept) if len(kept) < len(below.items) else below


def sections(tree: Marked) -> dict[Location, Marked]:
    """The keys inside the sections of an experiment."""
    return {(key, inner): node for key, section in tree.items.items() for inner, node in section.items.items()}


def apply_overrides(tree: Marked, overrides: Sequence[str], expand: Expand) -> Marked:
    """`tree` with each "a.b.c=value" set in turn; the value is YAML and replaces what was there whole, null removes it.

    Relative paths in values start from the working directory.

    Raises:
        MoesimError: an override is malformed, or its path leads through something that is no mapping or list.
    """
    parsed = [parse_override(text) for text in overrides]
    tree = without_rivals(tree, dict(parsed))
    for location, value in parsed:
        tree = _set(tree, location, value, expand, ())
    return tree


def assignment(path: str, value: object) -> str:
    """The override that sets `path` to a value of ordinary dicts, lists and scalars."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump([value], Dumper=dumper, default_flow_style=True, width=10**9, sort_keys=False, allow_unicode=True)
    return f"{path}={text.strip()[1:-1]}"


def parse_override(text: str) -> tuple[Location, Marked]:
    """The location and the value of "a.b.c=value"; a key that holds a dot stands in double quotes.

    Raises:
        MoesimError: it is malformed.
    """
    where = Where(OVERRIDE + text)
    path, equals, value = text.partition("=")
    if not equals:
        raise MoesimError("there is no = in it", where=where, fix=_FORM)
    steps = re.findall(r'"([^"]*)"|([^."]+)|(.)', path.strip())
    location: list[str] = []
    expecting = True
    for quoted, bare, other in steps:
        step = quoted or bare.strip()
        if bool(step) != expecting or other not in ("", "."):
            raise MoesimError(f"{path!r} is no path of keys", where=where, fix=_FORM)
        if step:
            location.append(step)
        expecting = not expecting
    if expecting:
        raise MoesimError(f"{path!r} is no path of keys", where=where, fix=_FORM)
    node = parse_yaml(value, str(where), Path.cwd(), numbered=False) if value.strip() else None
    if node is None:
        raise MoesimError("it gives no value", where=where, fix="null removes a key")
    return tuple(location), node


def _set(node: Marked, rest: Location, value: Marked, expand: Expand, above: Location) -> Marked:
    step, further = str(rest[0]), rest[1:]
    here = (*above, step)
    if isinstance(node.value, list):
        index = _index(node.value, step, value, above)
        below = _set(node.value[index], further, value, expand, here) if further else value
        return node.with_value([*node.value[:index], below, *node.value[index + 1 :]])
    if not isinstance(node.value, dict):
        raise MoesimError(f"{'.'.join(map(str, above))} is no mapping, it has no key {step!r}", where=value.where)
    current = node.value.get(step)
    node = disown(node, {rest: value})
    if not further:
        removes = value.value is None and current is not None
        return node.with_items({step: None if removes else value})
    if further != ("extends",):
        current = expand(here, current, value) or current
    start = Marked({}, value.where, value.where, value.folder)
    if current is None or current.value is None:
        current = start
    return node.with_items({step: _set(current, further, value, expand, here)})


def _index(items: list[Marked], step: str, value: Marked, above: Location) -> int:
    name = ".".join(map(str, above))
    if not step.isdecimal() or int(step) >= len(items):
        known = f"0 to {len(items) - 1}" if items else "none: the list is empty"
        raise MoesimError(
            f"{name} is a list, {step!r} is no index of it", where=value.where, fix=f"indices are {known}"
        )
    return int(step)
