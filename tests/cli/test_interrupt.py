"""Ctrl-C: a readable partial result from the simulation, nothing half-written at any other time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from moesim.cli import main
from moesim.engine.clock import Clock
from moesim.results import folder, load
from moesim.serving import simulate
from moesim.spec.loading import load_experiment

TRIAL = """\
model:
  name: tiny
  layers: 2
  hidden: 256
  vocabulary: 1000
  context: 2048
  attention: {heads: 8, kv_heads: 4, head_dim: 32}
  moe: {experts: 8, top_k: 2, width: 128}
machine: {devices: {rtx4090: 2}, fabric: pcie4-host}
parallelism: {dp: 2, ep: 2}
engine: vllm-0.19
requests: {trace: trace.csv}
"""

#: Prints a line when a hundred requests have finished, then goes on as the command does.
TALKING = """
import sys
from contextlib import contextmanager
from moesim.cli import main, running

@contextmanager
def progress():
    yield lambda finished, total: print("finished", finished, file=sys.stderr, flush=True)

running.request_progress = progress
main(["run", "trial.yaml"])
"""


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs trial.yaml, the replay of 400 requests, in a folder of its own."""
    monkeypatch.delenv("MOESIM_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("trial.yaml").write_text(TRIAL)
    write_trace(400)
    return lambda *options: CliRunner().invoke(main, ["run", "trial.yaml", "--no-figures", *options])


def write_trace(count: int) -> None:
    rows = "\n".join(f"{index / 1000},100,20" for index in range(count))
    Path("trace.csv").write_text(f"arrival_s,input_tokens,output_tokens\n{rows}\n")


def interrupt(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def on_progress(monkeypatch: pytest.MonkeyPatch, report: Callable[[int, int], None]) -> None:
    @contextmanager
    def progress() -> Iterator[Callable[[int, int], None]]:
        yield report

    monkeypatch.setattr("moesim.cli.running.request_progress", progress)


def summary() -> dict[str, Any]:
    return dict(json.loads(Path("results/trial/summary.json").read_text()))


def test_a_long_replay_leaves_a_readable_partial_result(trial: Callable[..., Result]) -> None:
    write_trace(10_000)
    process = subprocess.Popen(
        [sys.executable, "-c", TALKING],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "finished 100\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "partial: interrupted" in output
    results = load("results/trial")
    assert results.summary["partial"] is True
    assert results.manifest["partial"] is True
    assert 100 <= results.summary["requests"]["finished"] < 10_000
    assert int(results.requests["finish"].notna().sum()) == results.summary["requests"]["finished"]
    assert {path.suffix for path in Path("results/trial/figures").iterdir()} == {".pdf", ".png"}
    assert os.listdir("results") == ["trial"]


def test_once_more_abandons_the_run(trial: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(finished: int, total: int) -> None:
        interrupt()
        interrupt()

    on_progress(monkeypatch, twice)
    result = trial()
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")
    assert not Path("results").exists()


@pytest.mark.parametrize("place", ["simulate.make_requests", "service.deploy"])
def test_before_the_simulation_old_results_survive(
    trial: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    assert trial().exit_code == 0
    before = summary()
    monkeypatch.setattr(f"moesim.serving.{place}", interrupt)
    result = trial("--overwrite")
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")
    assert summary() == before
    assert os.listdir("results") == ["trial"]


@pytest.mark.parametrize("old", [False, True])
def test_while_writing_nothing_is_left_half_written(
    trial: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    if old:
        assert trial().exit_code == 0
    monkeypatch.setattr(folder, "write_parquet", interrupt)
    assert trial("--overwrite").exit_code == 130
    assert Path("results/trial/summary.json").exists() == old
    assert not Path("results").exists() or os.listdir("results") == ["trial"]


def test_the_exchange_of_old_and_new_is_not_divided(
    trial: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trial().exit_code == 0
    Path("results/trial/old").touch()
    replace = folder._replace

    def interrupted_replace(draft: Path, target: Path) -> None:
        interrupt()
        replace(draft, target)

    monkeypatch.setattr(folder, "_replace", interrupted_replace)
    assert trial("--overwrite").exit_code == 130
    assert os.listdir("results") == ["trial"]
    assert not Path("results/trial/old").exists()
    assert summary()["requests"]["finished"] == 400


def test_an_interrupt_after_the_last_request_makes_no_partial_result(
    trial: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_progress(monkeypatch, lambda finished, total: interrupt() if finished == total else None)
    assert trial().exit_code == 0
    assert summary()["partial"] is False


LAYOUTS = ["{dp: 2, ep: 2}", "{pp: 2}", "{dp: 2}", "{tp: 2}"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seconds", [0.0, 1e-6, 0.0103, 0.1, 0.25, 0.399, 0.4])
def test_the_books_balance_whenever_a_run_stops(
    trial: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, seconds: float, layout: str
) -> None:
    class Stopping(Clock):
        def __init__(self) -> None:
            super().__init__()
            self.call_at(round(seconds * 1e12), self.stop)

    monkeypatch.setattr(simulate, "Clock", Stopping)
    record = simulate.simulate(load_experiment("trial.yaml", [f"parallelism={layout}"]).spec)  # checks itself
    assert record.partial
    assert record.end == pytest.approx(seconds)
    # Requests arrive every millisecond from 0 on; of those that arrive at the instant of the stop none may be there.
    assert len(record.requests["request"]) in (min(400, round(seconds * 1000)), min(400, int(seconds * 1000) + 1))
    assert (record.requests["finish"] > seconds).sum() == 0
