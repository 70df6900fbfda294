"""The tables of the reference against what they describe: schemas, results, options."""

from __future__ import annotations

import json
import re
import typing
from importlib import import_module
from pathlib import Path
from typing import Any

import examples
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from moesim.results import Results
from moesim.running import run
from moesim.spec.base import Descriptor
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.families import FamilyDefaults
from moesim.spec.hardware import DeviceSpec, FabricSpec
from moesim.spec.loading import load_experiment

REFERENCE = examples.ROOT / "docs" / "reference"
_TABLE = re.compile(r"^<!-- (?P<what>\w+): (?P<name>[\w.]+) -->\n\n(?P<rows>(?:\|.*\n)+)", re.MULTILINE)

Rows = dict[str, list[str]]


def tables(what: str) -> dict[str, Rows]:
    """The tables of the reference that are marked with `what`, by name: each row's cells by its first cell."""
    found: dict[str, Rows] = {}
    for page in sorted(REFERENCE.glob("*.md")):
        for match in _TABLE.finditer(page.read_text(encoding="utf-8")):
            if match["what"] == what:
                found[match["name"]] = dict(map(_row, match["rows"].splitlines()[2:]))
    return found


def _row(line: str) -> tuple[str, list[str]]:
    first, *others = (cell.strip(" |") for cell in line.strip("| ").split(" | "))
    return first.strip("`"), others


SCHEMAS = tables("schema")


def schema(name: str) -> type[BaseModel]:
    module, _, cls = name.rpartition(".")
    found: type[BaseModel] = getattr(import_module(module), cls)
    return found


def described(cls: type[BaseModel]) -> set[str]:
    """The keys that a table of the schema has: its fields, less those that every descriptor has."""
    common = set(Descriptor.model_fields) if issubclass(cls, Descriptor) and cls is not Descriptor else set()
    return set(cls.model_fields) - common


def shown(field: FieldInfo) -> str | None:
    """What the table says of a default; None where words may say what happens without a value."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str) and value:
        return f"`{value}`"
    if isinstance(value, (int, float)):
        return f"`{value}`"
    return None


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_table_has_every_key_of_its_schema_and_no_other(name: str) -> None:
    assert set(SCHEMAS[name]) == described(schema(name))


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_table_has_the_defaults_of_its_schema(name: str) -> None:
    filled_by_the_loader = {"name", "memory"}
    for key in described(schema(name)) - filled_by_the_loader:
        said, wanted = SCHEMAS[name][key][0], shown(schema(name).model_fields[key])
        if wanted is not None:
            assert said in (wanted, wanted.replace(".0`", "`")), key
        else:
            assert said not in ("required", ""), key


def test_every_schema_that_a_user_writes_has_a_table() -> None:
    known = {schema(name) for name in SCHEMAS}
    assert {ExperimentSpec, DeviceSpec, FabricSpec, FamilyDefaults} <= known
    missing = {inner for cls in known for inner in _used(cls)} - known
    assert not missing


def _used(cls: type[BaseModel]) -> set[type[BaseModel]]:
    """The schemas in the annotations of another one."""
    found: set[type[BaseModel]] = set()
    pending: list[Any] = [field.annotation for field in cls.model_fields.values()]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.add(annotation)
        pending += typing.get_args(annotation)
    return found


@pytest.mark.parametrize("name", SCHEMAS)
def test_choices_are_listed(name: str) -> None:
    for key, field in schema(name).model_fields.items():
        if key not in described(schema(name)):
            continue
        row = " ".join(SCHEMAS[name][key])
        for choice in _choices(field.annotation):
            assert f"`{choice}`" in row, f"{key}: {choice}"


def _choices(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is dict:
        return []
    if typing.get_origin(annotation) is typing.Literal:
        choices = list(typing.get_args(annotation))
        return [] if "int4" in choices else choices  # dtypes are listed once, in the text
    return [choice for inner in typing.get_args(annotation) for choice in _choices(inner)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    experiment = load_experiment("quickstart", ["requests.count=5"])
    return run(experiment, tmp_path_factory.mktemp("run") / "results", figures=False)


@pytest.mark.parametrize("name", ["requests", "iterations", "devices", "operators", "links", "experts", "itl"])
def test_every_column_of_the_results_is_described(name: str, results: Results) -> None:
    assert list(tables("columns")[name]) == list(results.table(name).columns)


def test_every_number_of_the_summary_is_described(results: Results) -> None:
    assert results.path is not None
    summary = json.loads((Path(results.path) / "summary.json").read_text(encoding="utf-8"))
    devices = summary.pop("kernels")  # by names of devices
    keys = {f"{name}.{key}" for name, part in summary.items() if isinstance(part, dict) for key in part} | {"kernels"}
    keys |= {name for name, part in summary.items() if not isinstance(part, dict)}
    assert list(devices) == ["rtx-pro-6000"]
    statistics = {f"{name}.{key}" for name in ("ttft", "tpot", "itl", "e2e") for key in summary["ttft"]}
    rows = {key for name in tables("summary").values() for row in name for key in row.replace("`", "").split(", ")}
    assert rows == keys - statistics | {"ttft", "tpot", "itl", "e2e"}


def test_every_file_of_the_results_is_described(results: Results) -> None:
    assert results.path is not None
    page = (REFERENCE / "results.md").read_text(encoding="utf-8")
    assert not [path.name for path in Path(results.path).iterdir() if f"`{path.name}`" not in page]
