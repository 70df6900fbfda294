"""Which of the shipped fits speaks for which operator, and what they say of mixtures."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from moesim.hardware.device import make_device
from moesim.kernels.calibrated import CalibratedKernels
from moesim.kernels.selection import select
from moesim.model.parameters import all_operators
from moesim.spec.experiment import DtypeSpec
from moesim.spec.kernels import version_order
from moesim.spec.loading import load_descriptor
from moesim.step.attention import AttentionSums, chunk_work
from moesim.step.sharding import AttentionShare, ExpertShare, operator_calls

VLLM = ("vllm-0.19", "vllm", "vidur")


@cache
def device_of(name):
    return make_device(load_descriptor("devices", name), index=0, name=name, node=0)


BF16 = DtypeSpec()


def chosen(device, model, operator, dtype=BF16, stacks=VLLM):
    spec = load_descriptor("models", model)
    wanted = next(each for each in all_operators(spec) if each.name == operator)
    calls = operator_calls(wanted, 64, spec, 1, dtype)
    kernel = "gemm" if wanted.kind in ("gemm", "router") else wanted.kind
    found = select(device_of(device).spec, stacks, (kernel,), calls)
    return found and (found.device, found.stack, found.fits[0].format, found.fits[0].implementation)


@pytest.mark.parametrize(("device", "operator", "implementation"), [
    ("rtx4090", "rope", "rotary_emb"), ("rtx4090", "activation", "act_fn"), ("h100-sxm", "rope", "attn_rope"),
    ("h100-sxm", "activation", "mlp_act"), ("rtx-pro-6000", "attention_norm", "layernorm"),
    ("rtx-pro-6000", "qk_norm", "qk_norm"), ("h100-sxm", "attention_norm", "input_layernorm"),
])  # fmt: skip
def test_streams_are_priced_by_the_kernel_of_their_name(device, operator, implementation):
    assert chosen(device, "qwen3-8b", operator)[3] == implementation


@pytest.mark.parametrize(("weights", "activations", "expected"), [
    ("bf16", "bf16", "bf16"), ("fp8", "fp8", "fp8"), ("fp8", "bf16", "bf16"), ("int4", "bf16", "bf16"),
    ("fp4", "fp4", "nvfp4"),
])  # fmt: skip
def test_products_are_priced_in_their_number_format(weights, activations, expected):
    dtype = DtypeSpec(weights=weights, activations=activations)
    assert chosen("b200-sxm", "llama-3.1-8b", "qkv", dtype)[2] == expected


def test_a_device_without_measurements_takes_those_of_its_family():
    assert chosen("h100-pcie", "llama-3.1-8b", "qkv")[:2] in (("h100-sxm", "vllm-0.24.0"), ("h200-sxm", "vllm-0.24.0"))
    assert chosen("tpu-v5p", "llama-3.1-8b", "qkv") is None
    assert chosen("h100-sxm", "llama-3.1-8b", "qkv", stacks=()) is None


def test_a_stack_that_was_measured_near_a_size_goes_before_one_that_was_not():
    """vLLM 0.19 was measured on the projections of three models, the narrowest 2,048 wide; a router has 128 columns."""
    assert chosen("rtx-pro-6000", "qwen3-30b-a3b", "qkv")[1] == "vllm-0.19.0"
    assert chosen("rtx-pro-6000", "qwen3-30b-a3b", "router")[1] == "vllm-0.24.0"


def experts(device, model, tp, dtype, stacks, variant=""):
    spec = load_descriptor("models", model)
    operator = next(each for each in all_operators(spec) if each.kind == "experts")
    share = ExpertShare(operator, spec, spec.moe.experts, tp, dtype, variant)
    calls = share.calls(*(np.array([each]) for each in (8.0, 8.0, 8.0)))
    found = select(device_of(device).spec, stacks, ("experts",), calls)
    return found.stack, found.fits[0].format, found.fits[0].implementation


MXFP4 = DtypeSpec(weights="bf16", experts="fp4", activations="bf16")


def test_the_format_of_the_weights_goes_before_nearness():
    """TensorRT-LLM's MXFP4 experts were measured 2,880 wide; a shard of 360 is still one of four-bit weights."""
    found = experts("h200-sxm", "gpt-oss-120b", 8, MXFP4, ("trtllm", "vidur"))
    assert found == ("trtllm-1.3.0rc20", "mxfp4-bf16", "moe_torch_flow")


def test_an_engine_says_which_experts_it_runs():
    plain = experts("h200-sxm", "gpt-oss-120b", 1, MXFP4, ("vllm",))
    assert plain[2] == "vllm_gptossmxfp4moe_triton_oaitritonmxfp4experts"
    marlin = experts("h200-sxm", "gpt-oss-120b", 1, MXFP4, ("vllm",), "marlin")
    assert marlin[1:] == ("int4-bf16", "vllm_compressedtensorswna16marlinmoe_marlin_marl")
    fp8 = DtypeSpec(weights="fp8", activations="fp8")
    triton = experts("h100-sxm", "minimax-m2.5", 1, fp8, ("vllm",), "triton")
    assert triton[2] == "vllm_fp8moe_triton_tritonexperts"


def test_releases_come_after_their_candidates():
    names = ["vllm-0.9.0", "vllm-0.14.0", "trtllm-1.3.0rc9", "trtllm-1.3.0rc20", "trtllm-1.3.0"]
    assert sorted(names[:2], key=version_order) == names[:2]
    assert sorted(names[2:], key=version_order) == names[2:]


@pytest.mark.parametrize("stack", ["vllm-0.14.0", "trtllm-1.3.0rc20", "sglang-0.5.14"])
def test_latent_attention_of_chunks_and_decodes_are_two_kernels(stack):
    """Together as long as each by itself; and a cache is expanded: 2 x 512 x 16 heads x (128 + 128) FLOP for each of
    8,192 latents, at three quarters of 989 TFLOP/s."""
    kernels, device = CalibratedKernels((stack,)), device_of("h200-sxm")
    share = AttentionShare(load_descriptor("models", "deepseek-v3"), 8, DtypeSpec())

    def calls(*sums):
        return share.calls(AttentionSums(*(np.array([[each]]) for each in sum(sums))), "full")

    def seconds(of):
        return float(kernels.seconds(of, device)[0, 0])

    model = load_descriptor("models", "deepseek-v3")
    chunk, decodes = chunk_work(model, "full", 2048, 8192), 64 * chunk_work(model, "full", 1, 4096)
    assert seconds(calls(chunk, decodes)) == pytest.approx(seconds(calls(chunk)) + seconds(calls(decodes)), rel=1e-9)
    whole = calls(chunk)
    without = whole._replace(shape=whole.shape._replace(expansion=0.0))
    assert seconds(whole) - seconds(without) == pytest.approx(2 * 512 * 16 * 256 * 8192 / (0.75 * 989e12), rel=1e-9)
    fresh = calls(chunk_work(model, "full", 2048, 0))
    assert seconds(fresh) == seconds(fresh._replace(shape=fresh.shape._replace(expansion=0.0)))


def test_a_single_call_of_numbers_takes_as_long_as_a_column_of_one():
    """Training prices one prompt at a time, whose sums are numbers."""
    model = load_descriptor("models", "qwen3-30b-a3b")
    work = chunk_work(model, "full", 2048, 0) * 2
    share, kernels = AttentionShare(model, 1, BF16), CalibratedKernels(VLLM)
    alone = kernels.seconds(share.calls(AttentionSums(*work), "full"), device_of("h100-sxm"))
    column = kernels.seconds(share.calls(AttentionSums(*work[:, None]), "full"), device_of("h100-sxm"))
    assert float(alone) == pytest.approx(float(column[0]), rel=1e-12)
    assert float(alone) > 2 * 2048 * 2048 / 2 * 4 * 32 * 128 / 989e12  # at the peak
