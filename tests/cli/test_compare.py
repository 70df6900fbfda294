import pandas as pd
import pytest
from click.testing import CliRunner

from moesim.cli import main


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for rate in (5, 50):
        words = ["run", "quickstart", "--set", "requests.count=20", "--set", f"requests.rate={rate}/s", "--no-figures"]
        assert CliRunner().invoke(main, [*words, "--output", str(folder / f"rate-{rate}")]).exit_code == 0
    return folder


def compare(*words):
    return CliRunner().invoke(main, ["compare", *map(str, words)])


def test_two_runs(results, tmp_path):
    table, figure = tmp_path / "t.csv", tmp_path / "f.svg"
    done = compare(results / "rate-5", results / "rate-50", "--csv", table, "--plot", figure)
    assert done.exit_code == 0
    assert "sampling error of percentiles and means" in done.output
    found = pd.read_csv(table).set_index("metric")
    tokens = found.loc["throughput.output_tokens"]
    assert tokens["difference"] == pytest.approx(tokens["rate-50"] - tokens["rate-5"])
    assert tokens["difference"] > 0
    assert found.loc["e2e.p50", "basis"] == "sampling error"
    assert pd.isna(tokens["beyond"])  # nothing is known of its spread
    assert b"<svg" in figure.read_bytes()


def test_a_run_and_a_measurement(results, tmp_path):
    measured = tmp_path / "measured.yaml"
    measured.write_text("ttft: {mean: 10 s, p90: 20 s}\n")
    done = compare(results / "rate-5", measured)
    assert done.exit_code == 0
    line = next(line for line in done.output.splitlines() if line.strip().startswith("ttft.mean"))
    assert "10.0 s" in line
    assert line.split()[-1] == "yes"


@pytest.mark.parametrize(
    ("other", "message"),
    [("nowhere", "no results folder"), ("a.txt", "no results folder and no measurement"), ("a.csv", "no requests")],
)
def test_mistakes_are_one_line(results, tmp_path, other, message):
    for name in ("a.txt", "a.csv"):
        (tmp_path / name).write_text("ttft_ms\n")
    done = compare(results / "rate-5", tmp_path / other)
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1
