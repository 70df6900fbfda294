"""`moesim whatif` and `moesim explain`: what they print and write, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from moesim.cli import main


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text("extends: quickstart\nmodel: {extends: qwen3-30b-a3b, layers: 2}\n"
                                  "requests: {mix: chat, rate: 10/s, count: 4}\n")  # fmt: skip


def call(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def refused(*words: str) -> str:
    """One line, exit code 2, and nothing left behind."""
    before = sorted(Path().rglob("*"))
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert sorted(Path().rglob("*")) == before
    return line


def test_a_machine_is_changed_by_name():
    result = call("whatif", "small.yaml", "--set", "machine=dgx-h200", "--repeats", "2")
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert max(map(len, lines)) <= 80
    assert lines[0] == "small, what if machine=dgx-h200"
    for group in ("ttft", "tpot", "itl", "e2e", "throughput", "utilisation", "energy"):
        assert group in lines, group
    assert any(line.startswith("mean TPOT") for line in lines)
    assert "memory: gddr of rtx-pro-6000 → hbm of" in result.stdout
    assert "[" in next(line for line in lines if line.startswith(" p50"))


def test_several_changes_are_one():
    change = ["--set", "machine=dgx-h200", "--set", "parallelism={dp: 4, ep: 4}", "--set", "slo.ttft=1 s"]
    result = call("whatif", "small.yaml", *change, "--no-intervals", "--metric", "tpot")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].endswith("machine=dgx-h200, parallelism={dp: 4, ep: 4}, slo.ttft=1 s")
    assert "interval" not in result.stdout.replace("no intervals", "")
    assert "TTFT" not in result.stdout


def test_a_change_without_any_effect_says_so():
    result = call("whatif", "small.yaml", "--set", "parallelism.ep=2", "--no-intervals")
    assert "nothing changes" in result.stdout


def test_tables_are_written_and_a_results_folder_is_a_base():
    assert call("run", "small.yaml", "--no-figures", "--output", "base").exit_code == 0
    options = ("--set", "requests.rate=20/s", "--no-intervals", "--output", "out")
    result = call("whatif", "base", *options)
    assert result.exit_code == 0, result.output
    assert {path.name for path in Path("out").iterdir()} >= {"metrics.csv", "causes.parquet", "whatif.json", "base"}
    assert "exists" in refused("whatif", "base", *options)
    assert call("whatif", "base", *options, "--overwrite").exit_code == 0
    assert "is not overwritten" in refused("whatif", "base", *options[:-1], "base", "--overwrite")


def test_results_of_another_version_are_refused():
    assert call("run", "small.yaml", "--no-figures", "--output", "old").exit_code == 0
    manifest = Path("old") / "manifest.json"
    manifest.write_text(manifest.read_text().replace("moesim-results-1", "moesim-results-0"))
    for command in ("whatif", "explain"):
        assert "format 'moesim-results-0' is not 'moesim-results-1'" in refused(command, "old", "--set", "seed=2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing is changed; give --set"),
        (("--set", "machine=dgx-h20"), "there is no system 'dgx-h20'; did you mean 'dgx-h200'?"),
        (("--set", "parallelism.ep=16"), "ep 16 exceeds tp x dp = 2"),
        (("--set", "seed=2", "--metric", "tpto", "--no-intervals"), "there is no metric 'tpto'; did you mean 'tpot'?"),
        (("--set", "seed=2", "--repeats", "1"), "1 repeats give no interval"),
        (("--set", "seed=2", "--repeats", "0"), "0 repeats give no interval"),
        (("--set", "machine={devices: {rtx4090: 1}}", "--set", "parallelism={dp: 1}", "--set",
          "model=qwen3-30b-a3b"), "does not fit"),
    ],
)  # fmt: skip
def test_mistakes_in_a_what_if(words, message):
    assert message in refused("whatif", "small.yaml", *words)


def test_numbers_are_explained():
    alone = ["--set", "machine={devices: {rtx-pro-6000: 1}}", "--set", "parallelism={dp: 1}"]
    result = call("explain", "small.yaml", *alone, "--metric", "tpot.mean", "--output", "why")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "rtx-pro-6000 gddr bandwidth" in result.stdout
    assert "what binds TPOT, mean" in result.stdout
    assert "library.devices.rtx-pro-6000.compute.clock" in result.stdout
    assert {path.name for path in Path("why").iterdir()} >= {"elasticities.csv", "ladder.csv", "tornado-tpot-mean.pdf"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("small.yaml", "--metric", "latency.mean"), "there is no metric 'latency.mean'"),
        (("small.yaml", "--repeats", "1"), "1 repeats give no interval"),
        (("small",), "there is no experiment 'small'"),
        (("small.yaml", "--output", "small.yaml"), "results path small.yaml is a file"),
    ],
)
def test_mistakes_in_an_explanation(words, message):
    assert message in refused("explain", *words)
