"""`moesim validate`: tables, exit codes, what is recorded."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from moesim.cli import main
from moesim.validate import suites

CASE = {
    "name": "DeepSeek-V3's KV cache",
    "kind": "kv_bytes_per_token",
    "source": "a page",
    "basis": "published",
    "inputs": {"model": "deepseek-v3"},
    "value": "70.272 kB",
    "tolerance": 0,
}


def write(folder: Path, *changes: dict[str, object]) -> str:
    cases = [CASE | {"name": f"case {index}"} | change for index, change in enumerate(changes)]
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({"name": "own", "description": "mine", "cases": cases}))
    return str(path)


@pytest.fixture
def moesim(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.delenv("MOESIM_DATA", raising=False)
    return CliRunner()


def test_predictions_that_hold(moesim: CliRunner, tmp_path: Path) -> None:
    done = moesim.invoke(main, ["validate", "--suite", write(tmp_path, {}), "--sources"])
    assert done.exit_code == 0
    assert "own: 1 of 1 predictions meet their tolerance" in done.stdout
    assert "a page" in done.stdout


def test_a_prediction_that_misses_fails(moesim: CliRunner, tmp_path: Path) -> None:
    done = moesim.invoke(main, ["validate", "--suite", write(tmp_path, {}, {"value": "80 kB"})])
    assert done.exit_code == 1
    assert "MISSED" in done.stdout
    assert "own: 1 of 2 predictions" in done.stdout


def test_what_was_fitted_or_is_only_reported_does_not_fail(moesim: CliRunner, tmp_path: Path) -> None:
    path = write(tmp_path, {"value": "80 kB", "status": "fitted"}, {"value": "80 kB", "tolerance": None})
    done = moesim.invoke(main, ["validate", "--suite", path])
    assert done.exit_code == 0
    assert "1 fitted and not counted · 1 reported only" in done.stdout


@pytest.mark.parametrize("options", [["--suite", "nonesuch"], ["--data", "nowhere"], ["--suite", "nowhere.yaml"]])
def test_mistakes_are_one_line_and_exit_2(moesim: CliRunner, options: list[str]) -> None:
    done = moesim.invoke(main, ["validate", *options])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")


def test_recording_writes_the_table_and_the_page(
    moesim: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    for folder in ("experiments/validation/suites", "docs/reference", "data"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(suites, "builtin_root", lambda: tmp_path)
    measured = {"data": ["numbers.csv"], "value": "70 kB", "tolerance": 0.01}
    write(tmp_path / "experiments/validation/suites", {}, measured)
    assert moesim.invoke(main, ["validate", "--record"]).exit_code == 2  # not without the data
    assert not (tmp_path / "experiments/validation/recorded").exists()
    (tmp_path / "data" / "numbers.csv").write_text("1\n")
    done = moesim.invoke(main, ["validate", "--record", "--data", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "docs/reference/accuracy.md").read_text()
    assert "| case 1 | 70.0 kB | 70.3 kB | +0.39 % | 1 % | predicted, recorded | met |" in page
    later = moesim.invoke(main, ["validate"])
    assert later.exit_code == 0
    assert "predicted, recorded" in later.stdout
