import pandas as pd
import pytest
from click.testing import CliRunner

from moesim.cli import main


def moesim(*words):
    return CliRunner().invoke(main, list(map(str, words)))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for rate in (5, 50):
        small = ["--set", "requests.count=12", "--set", "model.layers=4", "--set", f"requests.rate={rate}/s"]
        done = moesim("run", "quickstart", *small, "--output", folder / f"rate-{rate}")
        assert done.exit_code == 0
    return folder


def test_a_folder_of_results_feeds_nearly_everything(results, tmp_path):
    done = moesim("plot", results, "--output", tmp_path, "--format", "svg", "--width", "double")
    assert done.exit_code == 0, done.output
    drawn = {path.stem for path in tmp_path.glob("*.svg")}
    assert drawn == {path.stem for path in tmp_path.glob("*.csv")}
    assert {"topology", "gantt", "speedup", "throughput-latency", "expert-load"} < drawn
    assert "not drawn: co-activation: needs the experts of every token" in done.output
    assert set(pd.read_csv(tmp_path / "latency-cdf.csv")["run"]) == {"rate-5", "rate-50"}


def test_the_report_of_a_folder_of_results(results, tmp_path):
    done = moesim("report", results, "--output", tmp_path / "report.html")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "report.html").read_text()
    assert "rate-5: experiment as resolved" in text
    assert "rate-50: experiment as resolved" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--figure", "rooflines"), "did you mean 'roofline'"),
        (("--figure", "tornado"), "needs a table of what parameters change"),
        (("--format", "jpeg"), "no format 'jpeg'"),
        (("--figure", "pareto", "--metric", "tpot.p50"), "needs two metrics, not 1"),
        (("--width", "triple"), "triple"),
    ],
)
def test_mistakes_are_one_line(results, tmp_path, words, message):
    done = moesim("plot", results, *words, "--output", tmp_path / "out")
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["plot", "report"])
def test_what_holds_no_results_is_one_line(tmp_path, command):
    for path in (tmp_path / "nowhere", tmp_path):
        done = moesim(command, path)
        assert done.exit_code == 2
        assert len(done.output.strip().splitlines()) == 1
