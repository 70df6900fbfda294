"""Sweeps, searches and the configurator on the command line: what is written, and every mistake in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from moesim.cli import main
from moesim.explore.folder import read_points


@pytest.fixture(autouse=True)
def place(run: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder in which `run` has put trial.yaml; points are remembered there too."""
    monkeypatch.setenv("MOESIM_CACHE", str(tmp_path / "cache"))


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def complaint(*words: str) -> str:
    before = sorted(path for path in Path().rglob("*") if "cache" not in path.parts)
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert sorted(path for path in Path().rglob("*") if "cache" not in path.parts) == before
    return result.stderr.removeprefix("error: ").strip()


def test_a_sweep_writes_its_table_and_says_what_could_not_run() -> None:
    words = ("sweep", "trial.yaml", "--axis", "parallelism.ep=1,2,3", "--axis", "seed=1,2", "--workers", "1")
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert "6 of 6 points (2 infeasible)" in result.stdout
    table = read_points("results/trial")
    assert table["status"].tolist() == ["ok"] * 4 + ["infeasible"] * 2
    before = Path("results/trial/points.parquet").read_bytes()
    again = call(*words)
    assert "4 from the cache" in again.stdout
    assert Path("results/trial/points.parquet").read_bytes() == before
    # What it wrote can be swept again.
    assert call("sweep", "results/trial/study.yaml", "--output", "copy", "--workers", "1").exit_code == 0
    assert Path("copy/points.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--axis", "paralelism.ep=1"), "unknown key 'paralelism'; did you mean 'parallelism'?"),
        (("--axis", "parallelism.eq=1"), "unknown key 'eq' in parallelism"),
        (("--axis", "machine=dgx-h10"), "there is no system 'dgx-h10'; did you mean 'dgx-h100'?"),
        (("--axis", "seed="), "the axis has no values"),
        (("--axis", "seed"), "there is no key and = in it"),
        ((), "has no axes"),
        (("--axis", "seed=1", "--axis", "seed=2"), "two axes vary seed"),
        (("--axis", "seed=1", "--backend", "dsk"), "there is no backend 'dsk'; did you mean 'dask'?"),
        (("--axis", "seed=1", "--workers", "0"), "0 workers compute nothing"),
        (("--axis", "seed=1", "--sample", "many"), "no method and number of points"),
        (("--axis", "seed=1", "--address", "tcp://127.0.0.1:1"), "give --backend dask or ray"),
        (("--axis", "seed=1", "--backend", "dask", "--address", "tcp://127.0.0.1:1"), "at tcp://127.0.0.1:1"),
        (("--axis", "seed=1", "--backend", "ray", "--address", "127.0.0.1:1"), "at 127.0.0.1:1"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], what: str) -> None:
    assert what in complaint("sweep", "trial.yaml", *words)


def test_folders_of_others_are_left_alone() -> None:
    Path("taken").mkdir()
    Path("taken/thesis.tex").write_text("x")
    words = ("sweep", "trial.yaml", "--axis", "seed=1", "--workers", "1", "--output")
    assert "holds no study" in complaint(*words, "taken")
    assert call(*words, "mine").exit_code == 0
    assert "is of another study" in complaint("sweep", "trial.yaml", "--axis", "seed=2", "--output", "mine")
    manifest = json.loads(Path("mine/manifest.json").read_text())
    Path("mine/manifest.json").write_text(json.dumps(manifest | {"format": "moesim-study-0"}))
    assert "is of another version ('moesim-study-0', not 'moesim-study-1')" in complaint(*words, "mine")


def test_a_study_asks_about_axes_that_it_has() -> None:
    Path("study.yaml").write_text(
        "name: s\nexperiment: trial.yaml\naxes: {seed: [1]}\ncompare: {by: sed, metric: throughput}\n"
    )
    assert "the study has no axis 'sed'; did you mean 'seed'?" in complaint("sweep", "study.yaml")
    Path("study.yaml").write_text("name: s\nexperiment: trial.yaml\naxis: {seed: [1]}\n")
    assert complaint("sweep", "study.yaml").startswith("study.yaml:3: unknown key 'axis'; did you mean 'axes'?")


def test_an_experiment_that_is_wrong_anyway_is_no_infeasible_point() -> None:
    Path("wrong.yaml").write_text(Path("trial.yaml").read_text().replace("tiny.yaml", "tinny.yaml"))
    assert "there is no model 'tinny.yaml'; did you mean 'tiny.yaml'?" in complaint(
        "sweep", "wrong.yaml", "--axis", "seed=1,2"
    )


def test_a_search_writes_the_front() -> None:
    pytest.importorskip("optuna", reason="needs Optuna: pip install 'moesim[explore]'")
    words = ("search", "trial.yaml", "--axis", "parallelism.ep=1,2", "--axis", "seed=1,2,3", "--trials", "6")
    result = call(*words, "--objective", "latency", "--objective", "throughput", "--workers", "1")
    assert result.exit_code == 0, result.output
    table = read_points("results/trial")
    assert len(table) == 6
    assert table["front"].any()
    assert "did you mean 'latency'" in complaint(*words, "--objective", "latncy", "--output", "other")
    assert "cannot open the storage" in complaint(
        *words, "--objective", "latency", "--storage", "nowhere", "--output", "other"
    )


def test_every_layout_is_written() -> None:
    result = call("configure", "mixtral-8x7b", "dgx-h100", "--devices", "2", "--output", "layouts.csv")
    assert result.exit_code == 0, result.output
    assert Path("layouts.csv").read_text().startswith("tp,pp,dp,ep,replicas,status,reason,throughput")
    assert "did you mean 'throughput'" in complaint("configure", "mixtral-8x7b", "dgx-h100", "--metric", "thruput")


def test_a_search_without_a_single_runnable_trial_says_so() -> None:
    pytest.importorskip("optuna", reason="needs Optuna: pip install 'moesim[explore]'")
    words = ("search", "trial.yaml", "--axis", "parallelism.ep=3,5", "--objective", "latency", "--trials", "2")
    result = call(*words, "--workers", "1")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "trial: 2 trials (2 infeasible)"
    assert "no trial can run" in lines
