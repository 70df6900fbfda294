"""What pydantic found wrong, as one line with the file and line that said it."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from moesim.spec.errors import MoesimError, Where
from moesim.spec.library import did_you_mean
from moesim.spec.marked import OVERRIDE, Location, Marked

SpecT = TypeVar("SpecT", bound=BaseModel)

_EXPECTED = {
    "int_parsing": "a whole number", "int_type": "a whole number", "int_from_float": "a whole number",
    "float_parsing": "a number", "float_type": "a number", "finite_number": "a finite number",
    "bool_parsing": "true or false", "bool_type": "true or false", "string_type": "text",
    "model_type": "a mapping", "dict_type": "a mapping", "model_attributes_type": "a mapping",
    "tuple_type": "a list", "list_type": "a list",
}  # fmt: skip

#: What an experiment names, and the kinds to choose from.
_REFERENCES: dict[Location, str] = {("model",): "models", ("machine",): "systems", ("engine",): "engines"}

_BOUND = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


#: Sections of a document that have been validated: what was written, and what it became.
Sections = dict[str, tuple[Any, BaseModel]]


def validate(schema: type[SpecT], tree: Marked, sections: Sections | None = None) -> SpecT:
    """`tree` as an instance of `schema`.

    Args:
        sections: of a document much like this one: what has not changed is taken over. Renewed with those of this one.

    Raises:
        MoesimError: it does not fit; one line about the first cause, at the place that said it.
    """
    plain = tree.plain()
    known = {} if sections is None else {key: sections[key][1] for key in plain if _unchanged(key, plain, sections)}
    _refuse_booleans(tree.with_items(dict.fromkeys(known)) if known else tree, schema, ())
    try:
        spec = schema.model_validate({**plain, **known} if known else plain)
    except ValidationError as error:
        raise _complaint(schema, tree, error) from None
    if sections is not None:
        found = {key: getattr(spec, key) for key in plain}
        sections.update({key: (plain[key], each) for key, each in found.items() if isinstance(each, BaseModel)})
    return spec


def _unchanged(key: str, plain: dict[str, Any], sections: Sections) -> bool:
    return key in sections and bool(sections[key][0] == plain[key])


def dotted(location: Sequence[str | int]) -> str:
    return ".".join(str(step) for step in location)


def _complaint(schema: type[BaseModel], tree: Marked, error: ValidationError) -> MoesimError:
    details = error.errors(include_url=False)
    # A misspelt key is the cause, the missing one that it should have been only a consequence.
    details.sort(key=lambda detail: (detail["type"] != "extra_forbidden", detail["type"] == "missing"))
    first = details[0]
    full: Location = tuple(step for step in first["loc"] if step != "[key]")
    location = _as_written(tree, full)
    if first["type"] == "extra_forbidden":
        return _unknown_key(schema_at(schema, full[:-1]), tree, location)
    if first["type"] == "missing":
        outer, _ = tree.nearest(location[:-1])
        inside = f" in {dotted(location[:-1])}" if location[:-1] else ""
        what = f"the key {location[-1]!r} is missing{inside}"
        return MoesimError(what, where=outer.origin, fix=f"add {location[-1]}: ...")
    node, _ = tree.nearest(location)
    what, fix = _what(first, location)
    return MoesimError(what, where=_named_place(node, what), fix=fix)


def _as_written(tree: Marked, location: Location) -> Location:
    """`location` without the index where a schema reads a single mapping as a list of one."""
    written: list[str | int] = []
    for step in location:
        node, depth = tree.nearest(written)
        if not (isinstance(step, int) and depth == len(written) and isinstance(node.value, dict)):
            written.append(step)
    return tuple(written)


def _unknown_key(owner: type[BaseModel] | None, tree: Marked, location: Location) -> MoesimError:
    node, _ = tree.nearest(location)
    outer, _ = tree.nearest(location[:-1])
    fields = list(owner.model_fields) if owner is not None else []
    known = [name for name in fields if name not in outer.items]
    inside = f" in {dotted(location[:-1])}" if location[:-1] else ""
    key = str(location[-1])
    others = f"the keys not yet given are {', '.join(known)}" if known else "remove it"
    fix = did_you_mean(key, known) or did_you_mean(key, fields) or others
    return MoesimError(f"unknown key {key!r}{inside}", where=node.key, fix=fix)


def _what(detail: ErrorDetails, location: Location) -> tuple[str, str | None]:
    """What is wrong, and what would fix it where that is known."""
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    subject = f"{dotted(location)}: " if location else ""
    shown = "a mapping" if isinstance(given, Mapping) else "a list" if isinstance(given, list) else _short(repr(given))
    if kind == "value_error":
        return f"{subject}{context.get('error', detail['msg'])}", None
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", str(context["expected"])) or [str(context["expected"])]
        return f"{subject}{shown} is not one of {', '.join(choices)}", did_you_mean(str(given), choices) or None
    if kind in _EXPECTED:
        remedy = "put it in quotes" if kind == "string_type" and isinstance(given, (int, float)) else None
        expected = _EXPECTED[kind]
        if location in _REFERENCES:
            expected, remedy = "a name or a mapping", f"`moesim list {_REFERENCES[location]}` prints the names"
        return f"{subject}expected {expected}, got {'nothing' if given is None else shown}", remedy
    if kind in _BOUND:
        bound, words = _BOUND[kind]
        limit = f"{context[bound]:,}" if isinstance(context[bound], int) else f"{context[bound]:g}"
        return f"{subject}{shown} must be {words} {limit}", None
    if kind == "too_short":
        return f"{subject}needs at least {context['min_length']} entry", None
    return f"{subject}{detail['msg'][:1].lower()}{detail['msg'][1:]}, got {shown}", None


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _named_place(node: Marked, what: str) -> Where | None:
    """The place of `node`; where a rule about a whole mapping speaks of one of its keys, the place of that key.

    Of several keys the overridden one is cited: the file agreed with itself before.
    """
    named = [node.items[word].key for word in re.findall(r"\w+", what) if word in node.items]
    overridden = [place for place in named if place is not None and place.file.startswith(OVERRIDE)]
    return next(iter(overridden or named), node.origin)


def schema_at(schema: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The model class of the value at `location`; None where it is not a model."""
    annotation: Any = schema
    for step in location:
        annotation = _step(annotation, step)
    found = _bare(annotation)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _bare(annotation: Any) -> Any:
    """`annotation` without Annotated and without `| None`."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            annotation = next(each for each in typing.get_args(annotation) if each is not type(None))
        else:
            return annotation


def _step(annotation: Any, step: str | int) -> Any:
    annotation = _bare(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(step))
        return field.annotation if field is not None else None
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict:
        return arguments[1]
    return arguments[0] if arguments else None


def _refuse_booleans(node: Marked, annotation: Any, location: Location) -> None:
    """`tp: yes` is no 1: pydantic would read a boolean as a number, here it is an error."""
    if isinstance(node.value, bool) and _bare(annotation) in (int, float):
        raise MoesimError(f"{dotted(location)}: expected a number, got {str(node.value).lower()}", where=node.where)
    below: list[tuple[str | int, Marked]] = [*node.items.items()]
    if isinstance(node.value, list):
        below = [*enumerate(node.value)]
    for step, item in below:
        _refuse_booleans(item, _step(annotation, step), (*location, step))
