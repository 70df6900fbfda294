"""Reports, comparisons and figures of training steps, alone and beside a serving run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from moesim.cli import main
from moesim.results import load
from training.test_runs import run


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training steps, `kept` and `recomputed`, and a run of requests, `serving`."""
    folder = tmp_path_factory.mktemp("runs")
    for name, how in (("kept", "none"), ("recomputed", "full")):
        words = ("--output", str(folder / name), "--set", f"training.recompute={how}")
        assert run(folder, *words, name=name).exit_code == 0
    words = ("--set", "requests.count=20", "--no-figures", "--output", folder / "serving")
    assert cli("run", "quickstart", *words).exit_code == 0
    return folder


def cli(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize("other", ["recomputed", "serving"])
def test_a_report_shows_what_applies(folders: Path, tmp_path: Path, other: str) -> None:
    done = cli("report", folders / "kept", folders / other, "--output", tmp_path / "r.html")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r.html").read_text()
    for shown in ("A training step, every operator", "training throughput", "Expert load: kept"):
        assert shown in text
    for section in ("latency", "time"):
        assert (f'<section id="{section}">' in text) == (other == "serving")


def test_steps_are_compared_by_what_both_have(folders: Path, tmp_path: Path) -> None:
    done = cli("compare", folders / "kept", folders / "recomputed", "--csv", tmp_path / "t.csv")
    assert done.exit_code == 0, done.output
    assert "--uncertainty" not in done.output  # a step is not repeated
    found = pd.read_csv(tmp_path / "t.csv").set_index("metric")
    seconds = [load(folders / name).summary["training"]["step_time"] for name in ("kept", "recomputed")]
    assert found.loc["training.step_time", "difference"] == pytest.approx(seconds[1] - seconds[0])
    assert cli("compare", folders / "kept", folders / "serving").exit_code == 0


def test_figures_of_steps(folders: Path, tmp_path: Path) -> None:
    done = cli("plot", folders / "kept", folders / "recomputed", "--output", tmp_path, "--format", "png")
    assert done.exit_code == 0, done.output
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn == {"speedup", "breakdown", "utilisation", "expert-load", "topology", "gantt"}
    table = pd.read_csv(tmp_path / "speedup.csv").set_index("run")
    seconds = [load(folders / name).summary["duration"] for name in ("kept", "recomputed")]
    assert table.loc["recomputed", "ratio"] == pytest.approx(seconds[0] / seconds[1])


@pytest.mark.parametrize("figure", ["latency-cdf", "roofline", "cap-radar"])
def test_figures_of_requests(folders: Path, tmp_path: Path, figure: str) -> None:
    words = ("--figure", figure, "--output", tmp_path / "f", "--format", "png")
    refused = cli("plot", folders / "kept", *words)
    assert refused.exit_code == 2
    assert "needs a run that serves requests, not a training step" in refused.output
    assert len(refused.output.strip().splitlines()) == 1
    assert cli("plot", folders / "kept", folders / "serving", *words).exit_code == 0
    assert set(pd.read_csv(tmp_path / "f" / f"{figure}.csv")["run"]) == {"quickstart"}
