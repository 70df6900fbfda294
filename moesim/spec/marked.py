"""YAML with a memory: every key and value keeps the file and line that said it, through merging and overriding."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from moesim.spec.errors import MoesimError, Where

try:
    from yaml import CSafeLoader as _BaseLoader
except ImportError:  # PyYAML without libyaml: slower, the same tree
    from yaml import SafeLoader as _BaseLoader  # type: ignore[assignment]

Scalar: TypeAlias = str | int | float | bool | None
Location: TypeAlias = tuple[str | int, ...]

#: What a place starts with where an override said the value.
OVERRIDE = "--set "

_PREFIX = "tag:yaml.org,2002:"


class _Loader(_BaseLoader):
    """Dates stay text: nothing in a descriptor is a calendar type."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_PREFIX + "timestamp", _PREFIX + "value")]
    for first, resolvers in _BaseLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, slots=True)
class Marked:
    """A value and where it was said.

    Attributes:
        value: a scalar, a list of `Marked`, or a dict of `Marked` by text key.
        where: the place of the value; None where it was not read from text.
        key: the place of the key that leads to it; for list items and whole documents that of the value.
        folder: what relative paths in the value start from.
    """

    value: dict[str, Marked] | list[Marked] | Scalar
    where: Where | None
    key: Where | None
    folder: Path

    @property
    def items(self) -> dict[str, Marked]:
        """The entries of a mapping; empty for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def text(self) -> str | None:
        return self.value if isinstance(self.value, str) else None

    @property
    def place(self) -> Where | None:
        """What to cite: the line of a scalar, the line of the key that opens a mapping or list."""
        return self.key if isinstance(self.value, (dict, list)) else self.where

    @property
    def origin(self) -> Where | None:
        """As `place`, but of what was read from another file than its key (`model: NAME`) the place in that file."""
        elsewhere = self.where is not None and self.key is not None and self.where.file != self.key.file
        return self.where if elsewhere else self.place

    def with_value(self, value: dict[str, Marked] | list[Marked] | Scalar) -> Marked:
        return replace(self, value=value)

    def with_items(self, items: Mapping[str, Marked | None]) -> Marked:
        """A mapping with `items` set; None takes a key away."""
        return self.with_value({key: item for key, item in {**self.items, **items}.items() if item is not None})

    def plain(self) -> Any:
        """The value as ordinary dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def child(self, step: str | int) -> Marked | None:
        if isinstance(self.value, dict):
            return self.value.get(str(step))
        if isinstance(self.value, list) and isinstance(step, int) and 0 <= step < len(self.value):
            return self.value[step]
        return None

    def nearest(self, location: Sequence[str | int]) -> tuple[Marked, int]:
        """The deepest existing value on the way to `location`, and how many steps of it exist."""
        node = self
        for depth, step in enumerate(location):
            below = node.child(step)
            if below is None:
                return node, depth
            node = below
        return node, len(location)


def mark(value: object, *, where: Where | None = None, folder: Path | None = None) -> Marked:
    """Ordinary dicts, lists and scalars as a marked tree, all said at `where`.

    Raises:
        MoesimError: the value holds something that YAML has no word for.
    """
    start = folder or Path.cwd()

    def convert(item: object) -> Marked:
        if isinstance(item, Mapping):
            return Marked({str(key): convert(below) for key, below in item.items()}, where, where, start)
        if isinstance(item, (list, tuple)):
            return Marked([convert(below) for below in item], where, where, start)
        if isinstance(item, Path):
            return Marked(str(item), where, where, start)
        if item is None or isinstance(item, (str, int, float, bool)):
            return Marked(item, where, where, start)
        raise MoesimError(f"{item!r} is no text, number, list or mapping", where=where)

    return convert(value)


def display(path: Path) -> str:
    """`path` as a person writes it: relative where it lies below the working directory."""
    near = os.path.relpath(path.resolve(), Path.cwd().resolve())
    return str(path) if near.startswith("..") else near


def read_yaml(path: Path) -> Marked:
    """The mapping that a YAML file holds.

    Raises:
        MoesimError: the file cannot be read, is empty, is no YAML, holds a key twice, or is no mapping.
    """
    name = display(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise MoesimError(f"cannot read {name}: {error.strerror}") from None
    tree = parse_yaml(text, name, path.resolve().parent, numbered=True)
    if tree is None:
        raise MoesimError("the file is empty", where=Where(name), fix="an experiment or descriptor is a mapping")
    if not isinstance(tree.value, dict):
        fix = "write it as lines like seed: 1"
        raise MoesimError(f"expected a mapping, got {tree.plain()!r:.60}", where=tree.where, fix=fix)
    return tree


def parse_yaml(text: str | bytes, name: str, folder: Path, *, numbered: bool) -> Marked | None:
    """The document in `text`, its places called `name`, with line numbers where `numbered`; None if it holds none."""

    def place(start: Any) -> Where:
        return Where(name, start.line + 1 if numbered and start is not None else None)

    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            return None if root is None else _Builder(loader, place, folder).build(root, None)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        what = " ".join(part for part in (error.context, error.problem) if part)
        fix = "check brackets, colons and indentation (by spaces)"
        where = place(error.problem_mark or error.context_mark)
        raise MoesimError(f"not valid YAML: {what}", where=where, fix=fix) from None
    except (yaml.YAMLError, UnicodeError) as error:
        reason = str(error).splitlines()[0]
        raise MoesimError(f"no text in UTF-8: {reason}", where=Where(name), fix="save it as plain text") from None
    except RecursionError:
        raise MoesimError("nested too deeply", where=Where(name)) from None


def _meaningless(node: yaml.Node, where: Where) -> MoesimError:
    return MoesimError(f"the tag {node.tag.removeprefix(_PREFIX)!r} has no meaning here", where=where, fix="remove it")


class _Builder:
    """Turns the parser's nodes into marked values."""

    def __init__(self, loader: Any, place: Any, folder: Path) -> None:
        self._loader, self._place, self._folder = loader, place, folder

    def build(self, node: yaml.Node, key: Where | None) -> Marked:
        where = self._place(node.start_mark)
        value: dict[str, Marked] | list[Marked] | Scalar
        if isinstance(node, yaml.MappingNode) and node.tag == _PREFIX + "map":
            value = self._mapping(node)
        elif isinstance(node, yaml.SequenceNode) and node.tag == _PREFIX + "seq":
            value = [self.build(item, None) for item in node.value]
        elif isinstance(node, yaml.ScalarNode):
            value = self._scalar(node, where)
        else:
            raise _meaningless(node, where)
        return Marked(value, where, key or where, self._folder)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Marked]:
        entries: dict[str, Marked] = {}
        for key_node, value_node in node.value:
            where = self._place(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                raise MoesimError("a key must be text", where=where)
            if key_node.tag == _PREFIX + "merge":
                raise MoesimError("the merge key << is not supported", where=where, fix="write extends: NAME")
            # The text itself, so that the keys on, no or 2024 are not turned into booleans or numbers.
            key = str(key_node.value)
            if key in entries:
                first = entries[key].key
                line = f" (first in line {first.line})" if first is not None and first.line is not None else ""
                raise MoesimError(f"the key {key!r} appears twice{line}", where=where, fix="keep one of them")
            entries[key] = self.build(value_node, where)
        return entries

    def _scalar(self, node: yaml.ScalarNode, where: Where) -> Scalar:
        try:
            value = self._loader.construct_object(node, deep=True)
        except ValueError:
            raise MoesimError(f"{node.value!r} does not fit its tag", where=where) from None
        except yaml.constructor.ConstructorError:
            raise _meaningless(node, where) from None
        if value is None or isinstance(value, (str, int, float, bool)):
            return value
        raise MoesimError(f"{node.value!r} is no text, number, list or mapping", where=where)
