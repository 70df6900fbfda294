"""Whose word a number is: what a descriptor says of its base's numbers stops holding where it gives its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from moesim.spec.marked import OVERRIDE, Location, Marked

#: Lists of fields about which a descriptor has doubts, and all keys that speak about its numbers.
_DOUBTS = ("unverified", "estimated")
_ABOUT = ("sources", *_DOUBTS)
_NO_NUMBERS = (*_ABOUT, "name", "description", "extends")


def derive(own: Marked, base: Marked) -> tuple[Marked, Marked]:
    """A descriptor and what it extends, ready to be merged: the base's sources and marks are kept for what is the
    base's, the descriptor's marks join them."""
    restated = own.child("sources")
    base = disown(base, dict(_leaves(own, ())), restated.items if restated is not None else ())
    for word in _DOUBTS:
        upper, lower = own.child(word), base.child(word)
        if upper is not None and lower is not None and isinstance(upper.value, list) and isinstance(lower.value, list):
            said = {item.text for item in upper.value}
            kept = [item for item in lower.value if item.text not in said]
            own = own.with_items({word: upper.with_value([*upper.value, *kept])})
    return own, base


def disown(base: Marked, given: Mapping[Location, Marked], restated: Iterable[str] = ()) -> Marked:
    """`base` without its sources and marks of what a layer above it gives.

    Args:
        base: a descriptor; anything without sources or marks is returned as it is.
        given: what the layer above gives, by location.
        restated: fields of which the layer above gives the source itself.
    """
    named = {str(name) for name in restated}
    for location, value in given.items():
        if location[0] in _NO_NUMBERS:
            continue
        path = _named(base, location)
        sources = base.child("sources")
        if sources is not None and sources.items:
            base = base.with_items({"sources": _sources(sources, path, value, named)})
        for word in _DOUBTS:
            doubts = base.child(word)
            if doubts is not None and isinstance(doubts.value, list):
                kept = [left for item in doubts.value for left in _remaining(base, item, path)]
                base = base.with_items({word: doubts.with_value(kept)})
    return base


def _leaves(node: Marked, above: Location) -> Iterator[tuple[Location, Marked]]:
    for key, item in node.items.items():
        if item.items:
            yield from _leaves(item, (*above, key))
        else:
            yield (*above, key), item


def _parts(node: Marked) -> dict[str, Marked]:
    """What is in a mapping or list, as sources call it: memory tiers by their names."""
    if not isinstance(node.value, list):
        return node.items
    tiers = [item.child("tier") for item in node.value]
    names = [str(place if tier is None else tier.value) for place, tier in enumerate(tiers)]
    return dict(zip(names, node.value, strict=True))


def _named(base: Marked, location: Location) -> str:
    """`location` as sources call it."""
    steps: list[str] = []
    node: Marked | None = base
    for step in map(str, location):
        parts = _parts(node) if node is not None else {}
        listed = node is not None and isinstance(node.value, list) and step.isdecimal() and int(step) < len(parts)
        steps.append(list(parts)[int(step)] if listed else step)
        node = parts.get(steps[-1])
    return ".".join(steps)


def _within(name: str, outer: str) -> bool:
    return name == outer or name.startswith(outer + ".")


def _sources(sources: Marked, path: str, value: Marked, restated: Iterable[str]) -> Marked:
    kept = {name: item for name, item in sources.items.items() if not _within(name, path)}
    above = any(_within(path, name) for name in kept)
    if value.value is None or any(_within(path, name) for name in restated):
        return sources.with_value(kept)
    if above or len(kept) < len(sources.items):
        kept[path] = value.with_value(_giver(value))
    return sources.with_value(kept)


def _giver(value: Marked) -> str:
    if value.where is None:
        return "given"
    return "given by --set" if value.where.file.startswith(OVERRIDE) else f"given in {Path(value.where.file).name}"


def _remaining(base: Marked, mark: Marked, path: str) -> Iterator[Marked]:
    """What a mark still holds for: not `path`; where it was on something around it, on everything else there."""
    name = str(mark.value)
    if _within(name, path):
        return
    if not _within(path, name):
        yield mark
        return
    inside: Marked | None = base
    for step in name.split("."):
        inside = _parts(inside).get(step) if inside is not None else None
    names = [key for key in _parts(inside) if key != "tier"] if inside is not None else []
    for key in names:
        yield from _remaining(base, mark.with_value(f"{name}.{key}"), path)
