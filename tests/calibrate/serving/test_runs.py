"""Measured serving runs: what is read of them, what is sent again, and how errors and fits come about."""

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from moesim.calibrate.serving.fit import CLASSES, Observation, Parameters, improved
from moesim.calibrate.serving.measured import RUNS, Run, measured_runs
from moesim.calibrate.serving.replay import Latencies, experiment, overrides, replay, steady
from moesim.calibrate.serving.scores import median_error, predictions, scores
from moesim.spec.errors import MoesimError


def entry(run: str, flags: tuple[str, ...] = (), tpot: float = 20.0) -> dict[str, object]:
    """A run as it is published, in milliseconds."""
    measured = {
        "ttft_ms": {"mean": 50.0, "p90": 60.0},
        "e2e_ms": {"mean": 50.0 + 9 * tpot, "p90": 300.0},
        "tpot_mean_ms_server": tpot,
    }
    inputs = {
        "model": "meta-llama/Llama-3.1-8B-Instruct", "is_moe": False, "hardware": "H100", "tp": 1,
        "max_num_batched_tokens": 1024, "max_num_seqs": 128, "block_size": 16, "gpu_memory_utilization": 0.9,
        "prompt_groups": 10, "distinct_prompts": 100, "system_prompt_len": 100, "max_tokens": 10,
        "prompt_len_mean_measured": "~574 (from the same workload with another tokenizer)",
    }  # fmt: skip
    stages = [{"stage": 0, "rate_rps": 8, "duration_s": 5, "flags": list(flags), "measured": measured}]
    return {"id": run, "inputs": inputs, "flags": [], "stages": [*stages, {"stage": "summary"}]}


def read(folder: Path, *entries: dict[str, object]) -> tuple[Run, ...]:
    (folder / "serving").mkdir(exist_ok=True)
    with gzip.open(folder / RUNS, "wt") as file:
        json.dump({"experiments": entries}, file)
    return measured_runs(folder)


def simulated(run: Run, times: float) -> list[Latencies]:
    """So many times what was measured."""
    stage = run.stages[0]
    at = {"ttft": stage.ttft["mean"], "tpot": stage.tpot, "e2e": stage.e2e["mean"]}
    tails = {"ttft_p90": stage.ttft["p90"], "e2e_p90": stage.e2e["p90"]}
    return [Latencies(run.id, 0, **{name: value * times for name, value in {**at, **tails}.items()}, shares={})]


def test_a_run_is_read_as_published(tmp_path: Path) -> None:
    (run,) = read(tmp_path, entry("1"))
    assert (run.model, run.system, run.token_budget, run.prompt) == ("llama-3.1-8b", "dgx-h100", 1024, 574)
    assert run.stages[0].tpot == pytest.approx(0.020)
    assert run.scored


def test_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(MoesimError, match="there is no serving/vllm"):
        measured_runs(tmp_path)


def test_overloaded_stages_are_not_scored(tmp_path: Path) -> None:
    assert not read(tmp_path, entry("1", ("overloaded",)))[0].scored


def test_equal_workloads_count_once(tmp_path: Path) -> None:
    """Run 28 repeats run 9: errors of 10 and 30 % are one of 20 %; with one of 2 % the median is 11 %."""
    runs = read(tmp_path, entry("9"), entry("28"), entry("1"))
    found = scores(runs, [simulated(run, times) for run, times in zip(runs, (1.1, 0.7, 1.02), strict=True)])
    assert [each.workload for each in found] == ["9", "1"]
    assert found[0].absolute["tpot"] == pytest.approx(0.2)
    assert found[0].signed["tpot"] == pytest.approx(-0.1)
    assert median_error(found, "tpot") == pytest.approx(0.11)


def test_cold_stages_are_compared_at_the_tail(tmp_path: Path) -> None:
    (run,) = read(tmp_path, entry("1", ("warmup_tail",)))
    (found,) = simulated(run, 1.0)
    (score,) = scores([run], [[replace(found, ttft=9.0, ttft_p90=0.066)]])
    assert score.signed["ttft"] == pytest.approx(0.1)


def test_predictions_are_in_milliseconds(tmp_path: Path) -> None:
    (run,) = read(tmp_path, entry("1"))
    (row,) = predictions([simulated(run, 1.0)])
    assert (row["id"], row["stage"], row["ttft_ms"]) == ("1", 0, pytest.approx(50.0))


def test_a_run_is_sent_again(tmp_path: Path) -> None:
    """Forty requests of ten tokens, their TPOT from the means as it was measured."""
    (run,) = read(tmp_path, entry("1"))
    (found,) = replay(run)
    assert found.tpot == pytest.approx((found.e2e - found.ttft) / 9)
    assert 0.004 < found.tpot < 0.02  # weights of 16 GB over 3.35 TB/s, twice to be generous
    assert "engine.token_budget=1024" in overrides(run)
    assert experiment(run)["requests"]["stages"][0]["arrival"] == "conditioned"


def test_steady_states_begin_when_prompts_are_cached(tmp_path: Path) -> None:
    (run,) = read(tmp_path, entry("1"))
    (alone,) = steady(run, seconds=40.0)
    assert alone.stages[0].duration == pytest.approx(100 / 8 + 40)


def test_a_fit_finds_what_explains(tmp_path: Path) -> None:
    """Steps of GEMM alone that are a tenth too short in many models, and a front end of 5 ms: the factor of GEMM and
    the time between steps make up for it together, nothing else moves."""
    (run,) = read(tmp_path, entry("1"))
    stage = run.stages[0]
    seen = Latencies("1", 0, 0.045 / 1.1, 0.020 / 1.1, 0.0, 0.0, 0.0, {"gemm": 1.0})
    found = improved(Parameters(), [Observation(str(model), stage, seen) for model in range(100)])
    made_up = math.log(found.scales["gemm"]) + found.gap / seen.tpot
    assert made_up == pytest.approx(math.log(1.1), rel=0.02)  # the priors hold little of it back
    assert found.scales["gemm"] > 1.02
    assert found.gap > 0.2e-3
    assert [found.scales[name] for name in CLASSES if name != "gemm"] == pytest.approx([1.0] * 4)
    assert found.frontend == pytest.approx(0.005)
