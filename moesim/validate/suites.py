"""Suites of cases from files: the library's own, and a user's."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from moesim.spec.complaints import validate
from moesim.spec.errors import MoesimError, Where
from moesim.spec.library import builtin_root, did_you_mean, is_path
from moesim.spec.marked import Marked, read_yaml
from moesim.validate.cases import KINDS, Case, Kind, Known, Suite, known

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
    value: Known | None

    @property
    def unit(self) -> str:
        return self.kind.unit if self.case.unit is None else self.case.unit

    def reference(self, found: float | None, simulated: float | None) -> float | None:
        """What `simulated` is compared with: the value, of a range the point nearest to it; `found` where the case
        says none."""
        if not isinstance(self.value, tuple):
            return found if self.value is None else self.value
        low, high = self.value
        return low if simulated is None else min(max(simulated, low), high)


def load_suite(reference: str) -> tuple[Suite, list[Ready]]:
    """The suite of a name, or of a path that ends in .yaml, every case ready to be computed.

    Raises:
        MoesimError: there is none, or it is not valid; one line with the file and line that said it.
    """
    tree = read_yaml(_path(reference))
    suite = validate(Suite, tree)
    return suite, ready_cases(suite.cases, tree.items["cases"])


def ready_cases(cases: Sequence[Case], node: Marked) -> list[Ready]:
    """Cases ready to be computed. node: the list that said them.

    Raises:
        MoesimError: a kind does not exist, its inputs or the value are not valid.
    """
    assert isinstance(node.value, list)
    return [_ready(each, said) for each, said in zip(cases, node.value, strict=True)]


def _path(reference: str) -> Path:
    if is_path(reference):
        return Path(reference).expanduser()
    known = suite_names()
    if reference not in known:
        fix = did_you_mean(reference, known) or f"those that exist are {', '.join(known)}"
        raise MoesimError(f"there is no suite {reference!r}", fix=fix)
    return folder() / "suites" / f"{reference}.yaml"


def question(name: str, inputs: Marked, where: Where | None) -> tuple[Kind, dict[str, object]]:
    """The kind of that name and its validated inputs.

    Raises:
        MoesimError: there is none (said at `where`), or the inputs are not its own.
    """
    existing = kinds()
    if name not in existing:
        fix = did_you_mean(name, existing) or f"those that exist are {', '.join(sorted(existing))}"
        raise MoesimError(f"there is no kind of case {name!r}", where=where, fix=fix)
    kind = existing[name]
    valid = validate(kind.inputs, inputs)
    return kind, {field: getattr(valid, field) for field in kind.inputs.model_fields}


def _ready(case: Case, node: Marked) -> Ready:
    given = node.child("inputs") or node.with_value({})
    kind, inputs = question(case.kind, given, node.items["kind"].where)
    if case.value is None:
        return Ready(case, kind, inputs, None)
    unit = kind.unit if case.unit is None else case.unit
    try:
        return Ready(case, kind, inputs, known(case.value, unit))
    except ValueError as error:
        raise MoesimError(f"value: {error}", where=node.items["value"].place) from None
