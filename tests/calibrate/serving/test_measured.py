"""Measured serving runs: what is read of them, and what is sent again."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from published_runs import LLAMA, MIXTRAL, entry, read, stage, write

from moesim.calibrate.serving.measured import RUNS, measured_runs
from moesim.calibrate.serving.replay import experiment, overrides, replay, steady
from moesim.serving.requests import make_requests
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_experiment

MIXTRAL_ON_A100 = {
    "model": MIXTRAL, "hardware": "A100-80GB", "tp": 4, "max_num_batched_tokens": 4096, "max_num_seqs": 64,
    "block_size": 32, "gpu_memory_utilization": 0.95, "prompt_groups": 5, "distinct_prompts": 50,
    "system_prompt_len": 120, "max_tokens": 248, "prompt_len_mean_measured": 600.4,
}  # fmt: skip


def test_a_run_is_read_as_published(tmp_path: Path) -> None:
    """Milliseconds become seconds; a sentence about the prompts' tokens holds their number; the summary is no stage."""
    (run,) = read(tmp_path, entry("1"))
    assert (run.model, run.system, run.token_budget, run.prompt, run.moe) == ("llama-3.1-8b", "dgx-h100", 1024, 574, 0)
    (only,) = run.stages
    assert (only.rate, only.duration, only.scored, only.tail) == (8, 5, True, False)
    assert only.tpot == pytest.approx(0.020)
    assert only.ttft == pytest.approx({"mean": 0.050, "p90": 0.060})
    assert only.e2e["mean"] == pytest.approx(0.230)


def test_its_experiment_is_what_was_run(tmp_path: Path) -> None:
    """As the simulator reads it: the stage that never drained is not sent, the others are, in their order."""
    stages = (stage(0, rate_rps=2, duration_s=600), stage(1, "overloaded"), stage(2, rate_rps=0.5, duration_s=30))
    (run,) = read(tmp_path, entry("7", *stages, **MIXTRAL_ON_A100))
    spec = load_experiment(experiment(run), overrides(run)).spec
    assert (spec.model.name, spec.parallelism.tp, spec.parallelism.devices) == ("mixtral-8x7b", 4, 4)
    assert spec.model.moe is not None
    assert set(spec.machine.devices) == {"a100-80-sxm"}
    assert (spec.dtype.weights, spec.dtype.kv, spec.engine.name) == ("bf16", "bf16", "vllm-0.15")
    engine = spec.engine
    assert (engine.token_budget, engine.max_sequences, engine.block_size, engine.memory_utilization) == (
        4096, 64, 32, 0.95,
    )  # fmt: skip
    assert [(each.rate, each.duration, each.arrival) for each in spec.requests.stages] == [
        (2, 600, "conditioned"),
        (0.5, 30, "conditioned"),
    ]
    mix = spec.library.mixes["measured"]
    assert (mix.pool, mix.output.mean, mix.input.mean) == (50, 248, 480)  # 600 tokens, 120 of them shared
    assert [(each.groups, each.tokens) for each in mix.prefix] == [(5, 120)]


def test_what_is_sent_repeats_the_prompts(tmp_path: Path) -> None:
    """8 and then 4 a second for 25 s each: 300 requests, every prompt of the hundred three times."""
    stages = stage(0, duration_s=25), stage(1, rate_rps=4, duration_s=25)
    (run,) = read(tmp_path, entry("1", *stages))
    spec = load_experiment(experiment(run), overrides(run)).spec
    sent = make_requests(spec.requests, spec.library.mixes, spec.model.context, 16, np.random.SeedSequence(1))
    assert len(sent) == 300
    assert sent.input_tokens[:100].tolist() == sent.input_tokens[100:200].tolist() == sent.input_tokens[200:].tolist()
    assert len(set(sent.input_tokens[:100].tolist())) > 10
    assert sent.input_tokens.mean() == pytest.approx(574, abs=3)
    assert set(sent.output_tokens.tolist()) == {10}


def test_a_run_is_sent_again(tmp_path: Path) -> None:
    """Forty requests of ten tokens, their TPOT from the means as it was measured; weights of 16 GB over 3.35 TB/s."""
    (run,) = read(tmp_path, entry("1"))
    (found,) = replay(run)
    assert found.tpot == pytest.approx((found.e2e - found.ttft) / 9)
    assert 0.0048 < found.tpot < 0.02
    assert sum(found.shares.values()) == pytest.approx(1.0)


def test_steady_states_begin_when_prompts_are_cached(tmp_path: Path) -> None:
    """Every prompt once, then 40 s or three times what a request takes."""
    (run,) = read(tmp_path, entry("1", stage(0), stage(1, "overloaded"), stage(2, tpot=2000.0)))
    first, last = steady(run, seconds=40.0)
    assert first.stages[0].duration == pytest.approx(100 / 8 + 40)
    assert last.stages[0].duration == pytest.approx(100 / 8 + 3 * 18.05)


def test_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(MoesimError, match="there is no serving/vllm"):
        measured_runs(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "acme/Llama-9"}, "measured run 1 is of model 'acme/Llama-9', .* known are .*Mixtral-8x7B"),
        ({"hardware": "H300"}, "measured run 1 is of hardware 'H300', .* known are H100, H200, B200, A100-80GB, L40S"),
        ({"prompt_len_mean_measured": "unknown"}, "is no file of measured serving runs"),
        ({"tp": "two"}, "is no file of measured serving runs: .*'two'"),
    ],
)
def test_unknown_names_are_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(MoesimError, match=message) as found:
        read(tmp_path, entry("1", **changes))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:30] + b"?" * 20 + data[50:],
        gzip.decompress,
        lambda _: b"",
        lambda _: gzip.compress(b"[]"),
        lambda _: gzip.compress(b"{}"),
        lambda _: gzip.compress(b'{"experiments": [3]}'),
        lambda data: gzip.compress(gzip.decompress(data)[:-9]),
        lambda data: gzip.compress(gzip.decompress(data).replace(b"rate_rps", b"rate")),
        lambda data: gzip.compress(gzip.decompress(data).replace(LLAMA.encode(), b"\xff")),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = write(tmp_path, entry("1"), entry("2")) / RUNS
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(MoesimError, match=r"is no file of measured serving runs: .*; fetch it again") as found:
        measured_runs(tmp_path)
    assert "\n" not in str(found.value)
