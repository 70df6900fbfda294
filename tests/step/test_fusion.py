"""What engines do inside other kernels takes what its FLOPs or bytes take, and no launch."""

from __future__ import annotations

import numpy as np
import pytest
import stepping
from stepping import document

from moesim.model.operators import LayerType, attention_operators, feed_forward_operators
from moesim.model.parameters import all_operators

#: H100: bytes per second, and the share of it that the datasheet's roofline takes (families.yaml).
BANDWIDTH = 3.35e12 * 0.80


def seconds(tree, name, *overrides):
    """[tokens] seconds of an operator, and what its rank reads and writes for a token, in bytes."""
    stage = stepping.pricer(tree, *overrides).stages[0]
    operator = next(each for each in all_operators(stage.context.model) if each.name == name)
    entry = stage.tables[0][operator]
    return entry.duration * 1e-12, entry.calls


def llama(tp, engine="vllm-0.15"):
    tree = document("llama-3.1-8b", {"h100-sxm": tp}, "nvlink4-switch", parallelism={"tp": tp}, engine=engine)
    return tree if tp > 1 else document("llama-3.1-8b", {"h100-sxm": 1}, engine=engine)


def test_a_norm_in_an_all_reduce_takes_its_bytes():
    """Input and residual are read, sum and norm written: 4 x 4,096 features of 2 bytes for a token, and the weights."""
    took, calls = seconds(llama(2), "mlp_norm", "engine.fused=[norms]")
    for tokens in (1, 64, 2048):
        moved = 4 * 4096 * 2 * tokens + 4096 * 2
        assert float(calls.data_bytes[tokens] + calls.weight_bytes[tokens]) == moved
        assert took[tokens] == pytest.approx(moved / BANDWIDTH, rel=1e-3, abs=1e-12)


def test_without_an_all_reduce_norms_are_kernels():
    alone, _ = seconds(llama(1), "mlp_norm", "engine.fused=[norms]")
    plain, _ = seconds(llama(1), "mlp_norm", "engine.fused=[]")
    assert (alone == plain).all()
    assert plain[1] > 1e-6


def test_shared_experts_add_no_launches():
    tree = document("qwen1.5-moe-a2.7b", {"h100-sxm": 1}, engine="vllm-0.15")
    for name in ("shared_expert_up", "shared_activation", "shared_expert_down"):
        fused, calls = seconds(tree, name, "engine.fused=[shared_experts]")
        plain, _ = seconds(tree, name, "engine.fused=[]")
        assert plain[1] - fused[1] > 5e-7  # a launch
        moved = float(calls.data_bytes[1] + calls.weight_bytes[1])
        assert fused[1] == pytest.approx(moved / BANDWIDTH, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize(("dtype", "quantised"), [("fp8", True), ("bf16", False)])
def test_activations_that_come_quantised_save_the_pass(dtype, quantised):
    """TensorRT-LLM's products of fp8 were measured with the search for the activations' scale: 12.29 us of an empty
    call, where one in 16 bits takes 2.733 us (hardware/calibrations/kernels/h200-sxm)."""
    tree = document("llama-3.1-8b", {"h200-sxm": 1}, engine="trtllm-1", dtype=dtype)
    before, _ = seconds(tree, "qkv", "engine.fused=[quantisation]")
    plain, _ = seconds(tree, "qkv", "engine.fused=[]")
    saved = plain[1] - before[1]
    assert saved == (pytest.approx(12.29e-6 - 2.733e-6, rel=0.01) if quantised else 0.0)


def test_blocks_of_128_values_are_quantised_by_a_kernel():
    """DeepSeek-V3 (arXiv 2412.19437, section 3.3.2)."""
    tree = document("deepseek-v3", {"h200-sxm": 8}, "nvlink4-switch", parallelism={"tp": 8}, engine="trtllm-1")
    before, _ = seconds(tree, "q_up", "engine.fused=[quantisation]")
    plain, _ = seconds(tree, "q_up", "engine.fused=[]")
    assert (before == plain).all()


def test_names_of_what_is_fused_are_those_of_operators():
    from moesim.spec.loading import load_descriptor
    from moesim.step.fusion import _AFTER_REDUCTIONS

    model = load_descriptor("models", "deepseek-v3")
    kind = LayerType("full", "moe")
    names = {each.name for each in (*attention_operators(model, kind), *feed_forward_operators(model, kind))}
    assert _AFTER_REDUCTIONS - {"final_norm"} <= names


def test_vllm_0_15_runs_experts_of_eight_bits_on_triton():
    """Whatever the scales: 16 experts of Llama 4 Scout hold 3 x 5,120 x 2,048 bytes each on one of four H100. Triton
    reads them at 0.89 of 3.35 TB/s (calibration of vLLM 0.24), FlashInfer's, which later versions prefer, at 0.19."""
    tree = document(
        "llama-4-scout", {"h100-sxm": 4}, "nvlink4-switch", parallelism={"tp": 4},
        dtype={"weights": "fp8", "activations": "fp8"}, engine="vllm-0.15",
    )  # fmt: skip
    replica = stepping.replicas(tree, "model.layers=4")[0]
    held = 16 * 3 * 5120 * 2048 / 3.35e12
    every = np.array([16.0])
    calls = replica.pricer.experts.calls(np.array([64.0]), every, np.array([64.0]))
    took = replica.pricer.context.kernels.seconds(calls, replica.pricer.context.machine.devices[0])
    assert held < float(took[0]) < 2 * held
