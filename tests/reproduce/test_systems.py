"""Claims from files: the library's are valid and complete; what is wrong is one line with its place."""

from pathlib import Path

import pytest
import yaml

from moesim.reproduce import load_claims, system_names
from moesim.reproduce.command import shelf
from moesim.reproduce.page import renew_page
from moesim.reproduce.systems import papers
from moesim.spec.errors import MoesimError
from moesim.spec.loading import list_descriptors, load_experiment
from moesim.validate.page import page_path

CLAIMS = """\
name: own
title: a system
paper: a paper
claims:
  - name: layers
    kind: parameters
    inputs: {model: llama-3.1-8b}
    source: table 1
    basis: published
    value: 8030261248
    tolerance: 0
    status: predicted
figures:
  - name: sizes
    title: Sizes
    x: model
    y: parameters
    form: bars
    series:
      - label: all
        kind: parameters
        inputs: {}
        along: {key: model, values: [llama-3.1-8b, mixtral-8x7b]}
        published: [8.0e9, null]
"""


def write(folder: Path, text: str = CLAIMS) -> str:
    (folder / "own").mkdir(exist_ok=True)
    (folder / "own" / "claims.yaml").write_text(text)
    return f"{folder}/own"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: own", "name: owm", "1: name: 'owm' is not that of the folder"),
        ("kind: parameters\n    inputs", "kind: parameter\n    inputs", "6: there is no kind of case 'parameter'"),
        ("kind: parameters\n        inputs", "kind: parameter\n        inputs", "21: there is no kind"),
        ("key: model,", "key: modl,", "unknown key 'modl'; did you mean 'model'?"),
        ("[8.0e9, null]", "[8.0e9]", "published gives 1 points, along.values 2"),
        ("values: [llama-3.1-8b, mixtral-8x7b]", "values: []", "published gives 2 points"),
        ("title: a system\n", "", "the key 'title' is missing"),
        ("name: sizes", "name: a/b", "figures.0.name"),
        ("    status: predicted\n", "", "the key 'status' is missing"),
    ],
)
def test_a_mistake_is_cited(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert CLAIMS.count(old) == 1
    with pytest.raises(MoesimError) as caught:
        load_claims(write(tmp_path, CLAIMS.replace(old, new)))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", system_names())
def test_systems_of_the_library_are_complete(name: str) -> None:
    system = load_claims(name)
    readme = (system.folder / "README.md").read_text(encoding="utf-8")
    assert all(ready.case.source for ready in system.cases)
    assert any(ready.case.status == "predicted" for ready in system.cases)
    assert readme.startswith("# ")
    for path in system.folder.glob("*.yaml"):
        if path.name != "claims.yaml":
            assert f"papers/{name}/{path.stem}" in list_descriptors("experiments")
            load_experiment(path)


@pytest.mark.parametrize("name", system_names())
def test_every_claim_is_recorded(name: str) -> None:
    recorded = yaml.safe_load((papers() / "recorded" / f"{name}.yaml").read_text(encoding="utf-8"))
    claims = {ready.case.name for ready in load_claims(name).cases}
    assert set(recorded["values"]) == claims, f"run moesim reproduce {name} --record"


def test_the_page_is_made_from_what_was_recorded(tmp_path: Path) -> None:
    committed = page_path("reproduced").read_text(encoding="utf-8")
    copy = tmp_path / "reproduced.md"
    copy.write_text(committed, encoding="utf-8")
    renew_page(shelf(), copy)
    assert copy.read_text(encoding="utf-8") == committed, "run python docs/refresh.py"
