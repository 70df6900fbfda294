"""Measured serving points: what is simulated for them, and how they are scored."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from moesim.calibrate.serving.silicon import (
    Point,
    PointScore,
    Simulated,
    fitted_models,
    measured_points,
    point_experiment,
    rank_correlation,
    replay_points,
    scored,
)
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_experiment

TOGETHER = {
    "is_moe": "1", "backend": "vllm", "model_path": "openai/gpt-oss-120b", "system": "h200_sxm", "precision": "fp4",
    "mode": "agg", "isl": "64", "osl": "16", "concurrency": "4", "tp_size": "2", "attention_dp_size": "1",
    "moe_tp_size": "2", "moe_ep_size": "1",
}  # fmt: skip
APART = {
    "is_moe": "1", "backend": "trtllm", "model_path": "deepseek-ai/DeepSeek-R1", "system": "b200_sxm",
    "precision": "fp8", "mode": "disagg", "isl": "1024", "osl": "1024", "concurrency": "90",
    "prefill_num_workers": "1", "prefill_batch_size": "1", "prefill_tp_size": "1", "prefill_attention_dp_size": "4",
    "prefill_moe_tp_size": "4", "prefill_moe_ep_size": "1", "decode_num_workers": "5", "decode_batch_size": "18",
    "decode_tp_size": "8", "decode_attention_dp_size": "1", "decode_moe_tp_size": "1", "decode_moe_ep_size": "8",
}  # fmt: skip


def point(inputs, row=0, ttft=0.1, tpot=0.01, **changes):
    return Point(row, {**inputs, **changes}, ttft, tpot)


def test_a_deployment_as_it_was_measured():
    spec = load_experiment(point_experiment(point(TOGETHER))).spec
    assert (spec.parallelism.tp, spec.parallelism.dp, spec.parallelism.ep) == (2, 1, 1)
    assert spec.machine.nodes == 1
    assert (spec.storage.weights, spec.storage.experts, spec.storage.kv) == ("bf16", "fp4", "bf16")
    assert (spec.requests.concurrency, spec.requests.count) == (4, 12)
    mix = spec.library.mixes["measured"]
    assert (mix.input.mean - mix.input.deviation, mix.input.mean + mix.input.deviation) == pytest.approx((51.2, 64))


def test_settings_of_the_scripts():
    """gptoss_fp4_h200.sh (Marlin's experts, a cache of 16 bits), gptoss_fp4_b200.sh (eight bits, all-reduces that
    normalise), dsr1_fp4_b200_trt.sh; NVFP4 checkpoints of DeepSeek-R1 keep attention in 16 bits."""
    hopper, blackwell = (
        load_experiment(point_experiment(point(TOGETHER, system=system))).spec for system in ("h200_sxm", "b200_sxm")
    )
    assert (hopper.engine.expert_kernels, hopper.storage.kv, hopper.engine.fused) == (
        "marlin", "bf16", ("shared_experts",)
    )  # fmt: skip
    assert (blackwell.engine.expert_kernels, blackwell.storage.kv) == (None, "fp8")
    assert blackwell.engine.fused == ("norms", "shared_experts")
    four = load_experiment(point_experiment(point(APART, precision="fp4"))).spec
    assert (four.storage.weights, four.storage.attention, four.storage.kv) == ("fp4", "bf16", "fp8")


def test_pools_as_they_were_measured():
    """One worker of 4 devices and five of 8 on six nodes; experts divided by TP over ranks of attention count as EP."""
    spec = load_experiment(point_experiment(point(APART))).spec
    prefill, decode = spec.pool("prefill"), spec.pool("decode")
    assert (prefill.parallelism.tp, prefill.parallelism.dp, prefill.parallelism.ep) == (1, 4, 4)
    assert (decode.parallelism.tp, decode.parallelism.ep, decode.parallelism.replicas) == (8, 8, 5)
    assert (prefill.engine.max_sequences, decode.engine.max_sequences) == (1, 18)
    assert spec.machine.nodes == 6


def test_points_of_a_deployment_are_what_they_are_alone():
    points = [point(TOGETHER, row, concurrency=str(size)) for row, size in enumerate((4, 2, 8))]
    together = replay_points(points)
    assert together == [replay_points([each])[0] for each in points]
    assert all(isinstance(each, Simulated) and each.tpot < each.ttft for each in together)


def test_what_cannot_run_is_said():
    (found,) = replay_points([point(TOGETHER, model_path="deepseek-ai/DeepSeek-R1", precision="fp8", tp_size="1")])
    assert isinstance(found, str)
    assert "does not fit" in found


def test_errors_have_signs():
    (score,) = scored([point(TOGETHER)], [Simulated(0.2, 0.009, {})])
    assert score.errors == {"ttft": pytest.approx(1.0), "tpot": pytest.approx(-0.1)}
    assert score.name == "gpt-oss-120b h200_sxm vllm fp4 agg"
    assert scored([point(TOGETHER)], ["no room"]) == [PointScore(point(TOGETHER), None, "no room")]


def test_rank_correlation():
    """Spearman: 1 - 6 sum d^2 / (n (n^2 - 1)); one exchange of neighbours among four is 0.8."""
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(values, values**3) == pytest.approx(1)
    assert rank_correlation(values, -values) == pytest.approx(-1)
    assert rank_correlation(values, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)


def test_half_of_the_models_is_fitted():
    assert fitted_models() == {"gpt-oss-120b", "llama-3.1-8b", "minimax-m2.5"}


def test_a_folder_without_points():
    with pytest.raises(MoesimError, match=r"there is no serving/silicon_points\.csv\.gz"):
        measured_points(Path("/nowhere"))


@pytest.mark.skipif("MOESIM_DATA" not in os.environ, reason="needs the measured data (MOESIM_DATA)")
def test_every_measured_point_makes_an_experiment():
    points = measured_points(Path(os.environ["MOESIM_DATA"]))
    assert len(points) == 1737
    groups = {repr({**point_experiment(each), "name": "", "library": "", "requests": ""}): each for each in points}
    for each in groups.values():
        load_experiment(point_experiment(each))
