"""From Python: what `import moesim` gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import moesim
from moesim.explore.api import as_overrides
from moesim.spec.errors import MoesimError

SMALL = ["requests.count=4", "model.layers=2"]


def test_importing_it_imports_nothing_heavy():
    heavy = "{'numpy', 'pandas', 'pydantic', 'simpy', 'matplotlib', 'yaml'}"
    script = f"import sys, moesim; dir(moesim); print(sorted({heavy} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_its_functions_stay_what_they_are_whatever_is_imported():
    import moesim.explore.sweep
    import moesim.explore.whatif
    import moesim.running

    assert all(callable(getattr(moesim, name)) for name in moesim.__all__)
    assert set(moesim.__all__) <= set(dir(moesim))
    with pytest.raises(AttributeError, match="nothing"):
        _ = moesim.nothing


def test_a_file_a_name_a_document_and_a_results_folder_are_the_same_experiment(tmp_path: Path):
    one = moesim.load("quickstart", set=SMALL)
    results = one.run(tmp_path / "results")
    for other in (moesim.load(one.loaded.document), moesim.load(tmp_path / "results")):
        assert other.spec == one.spec
        assert other.run().summary == results.summary


def test_changes_are_texts_or_a_mapping():
    assert as_overrides({"parallelism.ep": 4, "machine.fabric": None, "slo": {"ttft": "1 s"}}) == (
        "parallelism.ep=4", "machine.fabric=null", 'slo={"ttft": "1 s"}',
    )  # fmt: skip
    assert as_overrides("seed=1") == as_overrides(["seed=1"]) == ("seed=1",)


def test_a_changed_experiment_leaves_the_first_as_it_is():
    one = moesim.load("quickstart", set=SMALL)
    other = one.set({"seed": 7})
    assert (one.spec.seed, other.spec.seed) == (1, 7)
    assert other.spec.model.layers == 2
    assert other.name == "quickstart"


def test_functions_do_what_the_methods_do(tmp_path: Path):
    one = moesim.load("quickstart", set=SMALL)
    assert moesim.run("quickstart", set=SMALL).summary == moesim.run(one).summary == one.run().summary
    changed = moesim.run(one, set=["seed=2"], output=tmp_path / "results")
    assert changed.path == (tmp_path / "results").resolve()
    assert moesim.whatif(one, ["seed=2"], repeats=0).change.summary == changed.summary


def test_a_run_in_memory_has_all_its_tables_and_may_have_intervals():
    results = moesim.load("quickstart", set=SMALL).run(repeats=2)
    assert results.path is None
    assert len(results.requests) == 4
    assert len(results.uncertainty) == 2
    assert results.summary["intervals"]["repeats"] == 2


def test_a_mistake_is_one_line():
    with pytest.raises(MoesimError, match="unknown key 'cuont' in requests; did you mean 'count'"):
        moesim.load("quickstart", set=["requests.cuont=3"])
