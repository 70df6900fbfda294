"""Suites of cases from files: the library's own, and a user's."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from moesim.spec.complaints import validate
from moesim.spec.errors import MoesimError
from moesim.spec.library import builtin_root, did_you_mean, is_path
from moesim.spec.marked import Marked, read_yaml
from moesim.validate.cases import KINDS, Case, Kind, Suite

#: The suites of the library in the order in which they are shown; others follow alphabetically.
_ORDER = ("exact", "fabric", "kernels", "serving", "silicon")


def folder() -> Path:
    """Where the library keeps its suites (`suites/`) and what was recorded of them (`recorded/`)."""
    return builtin_root() / "experiments" / "validation"


def suite_names() -> list[str]:
    """The suites of the library."""
    names = [path.stem for path in sorted((folder() / "suites").glob("*.yaml"))]
    return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


@lru_cache(maxsize=1)
def kinds() -> dict[str, Kind]:
    """Every kind of case; each file of moesim.validate.kinds brings some."""
    package = importlib.import_module("moesim.validate.kinds")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return KINDS


@dataclass(frozen=True)
class Ready:
    """A case whose kind exists and whose inputs are valid; `value` in SI, None where the kind finds it."""

    case: Case
    kind: Kind
    inputs: dict[str, object]
    value: float | None


def load_suite(reference: str) -> tuple[Suite, list[Ready]]:
    """The suite of a name, or of a path that ends in .yaml, every case ready to be computed.

    Raises:
        MoesimError: there is none, or it is not valid; one line with the file and line that said it.
    """
    tree = read_yaml(_path(reference))
    suite = validate(Suite, tree)
    listed = tree.items["cases"].value
    assert isinstance(listed, list)
    return suite, [_ready(each, node) for each, node in zip(suite.cases, listed, strict=True)]


def _path(reference: str) -> Path:
    if is_path(reference):
        return Path(reference).expanduser()
    known = suite_names()
    if reference not in known:
        fix = did_you_mean(reference, known) or f"those that exist are {', '.join(known)}"
        raise MoesimError(f"there is no suite {reference!r}", fix=fix)
    return folder() / "suites" / f"{reference}.yaml"


def _ready(case: Case, node: Marked) -> Ready:
    known = kinds()
    if case.kind not in known:
        fix = did_you_mean(case.kind, known) or f"those that exist are {', '.join(sorted(known))}"
        raise MoesimError(f"there is no kind of case {case.kind!r}", where=node.items["kind"].where, fix=fix)
    kind = known[case.kind]
    given = node.child("inputs") or node.with_value({})
    inputs = validate(kind.inputs, given)
    values = {name: getattr(inputs, name) for name in kind.inputs.model_fields}
    if case.value is None:
        return Ready(case, kind, values, None)
    try:
        return Ready(case, kind, values, kind.value(case.value))
    except ValueError as error:
        raise MoesimError(f"value: {error}", where=node.items["value"].where) from None
