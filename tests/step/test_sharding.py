"""What the ranks hold and compute adds up to the model, replicated parts apart."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import ruler
import stepping
from hypothesis import given, settings
from hypothesis import strategies as st
from stepping import document

from moesim.model.operators import attention_work, kv_elements_per_token
from moesim.model.parameters import all_operators
from moesim.spec.base import DTYPE_BYTES
from moesim.spec.experiment import DtypeSpec
from moesim.spec.loading import load_descriptor
from moesim.step.attention import AttentionSums, chunk_work
from moesim.step.sharding import AttentionShare, ExpertShare, kv_share, operator_calls, weight_elements

MODELS = ("llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-20b", "llama-4-maverick", "deepseek-v2-lite", "snowflake-arctic")
BF16 = DtypeSpec()
#: Tensor parallelism keeps these whole on every rank, beside norms and the choice of a token.
WHOLE = {"router", "down", "shared_gate"}


@cache
def model_of(name):
    return load_descriptor("models", name)


@given(name=st.sampled_from(MODELS), power=st.integers(0, 5))
def test_the_ranks_of_a_tp_group_hold_the_model_once(name, power):
    model = model_of(name)
    heads, kv_heads = model.attention.heads, model.attention.kv_heads
    tp = min(2**power, heads & -heads)
    for operator in all_operators(model):
        held = weight_elements(operator, model, tp, tp) * tp
        if operator.name in WHOLE or operator.kind in ("norm", "elementwise"):
            assert held == operator.weights * tp
        elif operator.name == "qkv" and tp > kv_heads:
            assert held == pytest.approx(operator.weights * (heads + 2 * tp) / (heads + 2 * kv_heads))
        else:
            assert held == pytest.approx(operator.weights)


@settings(max_examples=40)
@given(name=st.sampled_from(MODELS), power=st.integers(0, 3), rows=st.integers(1, 3000))
def test_the_ranks_of_a_tp_group_do_the_work_once(name, power, rows):
    model = model_of(name)
    tp = min(2**power, model.attention.kv_heads & -model.attention.kv_heads)
    for operator in all_operators(model):
        if operator.kind in ("experts", "attention"):
            continue
        flops = float(operator_calls(operator, rows, model, tp, BF16).flops) * tp
        whole = rows * operator.flops_per_token
        replicated = operator.shard == "replicated"
        assert flops == pytest.approx(whole * (tp if replicated else 1))


@given(
    copies=st.integers(0, 5000), touched=st.integers(0, 64), shards=st.sampled_from([1, 2, 4, 8]),
    weights=st.sampled_from(["bf16", "fp8", "int4"]),
)  # fmt: skip
def test_shards_of_experts_do_the_work_once(copies, touched, shards, weights):
    """Six FLOP per pair and element of one expert's matrices of 1024 x 2048; each touched expert is read once."""
    model = model_of("olmoe-1b-7b")
    experts = next(op for op in all_operators(model) if op.kind == "experts")
    dtype = DtypeSpec(weights=weights)
    pairs = np.array([copies])
    calls = ExpertShare(experts, model, 64, shards, dtype).calls(pairs, np.array([touched]), pairs)
    assert float(calls.flops[0]) * shards == pytest.approx(6 * 1024 * 2048 * copies)
    assert float(calls.weight_bytes[0]) * shards == pytest.approx(3 * 1024 * 2048 * touched * DTYPE_BYTES[weights])


@given(tp=st.sampled_from([1, 2, 4, 8, 16, 32]), new=st.integers(1, 400), cached=st.integers(0, 3000))
def test_heads_divide_attention(tp, new, cached):
    """GQA with 4 KV heads: scores are divided by tp, keys and values at most by 4."""
    model = model_of("qwen3-30b-a3b")
    work = attention_work(model, "full", new, cached)
    elements = work.kv_read + work.kv_written
    calls = AttentionShare(model, tp, BF16).calls(AttentionSums(*chunk_work(model, "full", new, cached)), "full")
    assert float(calls.flops) * tp == pytest.approx(float(work.flops))
    assert kv_share(model, tp) == 1 / min(tp, 4)
    keys_and_values = 2 * float(elements) / min(tp, 4)
    assert float(calls.data_bytes) == pytest.approx(keys_and_values + 2 * float(work.query_elements) / tp)


def test_a_latent_cache_is_whole_on_every_rank():
    model = model_of("deepseek-v2-lite")
    assert kv_elements_per_token(model) == 512 + 64
    assert kv_share(model, 8) == 1.0


def test_bytes_of_weights_on_a_machine():
    """Llama-3.1-8B, 8.03e9 parameters, on TP 1 to 8: only norms (65 of 4096) are on every rank."""
    tree = document("llama-3.1-8b", {"h100-sxm": 8}, "nvlink4-switch")
    for tp in (1, 2, 4, 8):
        held = _weight_bytes(tree, f"parallelism.tp={tp}")
        assert held == pytest.approx(2 * (8_030_261_248 + (tp - 1) * 65 * 4096), rel=1e-12)


def test_bytes_of_experts_on_a_machine():
    """Qwen3-30B-A3B: 48 x 128 experts of 3 x 2048 x 768 are held once by an expert-parallel group, the rest (1.54e9)
    by every DP rank; its 128 KV-head elements and routers too by every TP rank."""
    experts = 48 * 128 * 3 * 2048 * 768
    rest = 30_532_122_624 - experts
    tree = document("qwen3-30b-a3b", {"h200-sxm": 8}, "nvlink4-switch")
    for dp in (2, 4, 8):
        assert _weight_bytes(tree, f"parallelism.dp={dp}", f"parallelism.ep={dp}") == 2 * (experts + dp * rest)
    # Norms (2 x 48 + 1 of 2048, 2 x 48 of 128) and routers (48 x 2048 x 128) on both ranks of each TP group.
    twice = (2 * 48 + 1) * 2048 + 2 * 48 * 128 + 48 * 2048 * 128
    held = _weight_bytes(tree, "parallelism.tp=2", "parallelism.dp=2", "parallelism.ep=4")
    assert held == pytest.approx(2 * (experts + 2 * (rest + twice)), rel=1e-12)


def test_stages_hold_the_model_once():
    tree = document("qwen3-30b-a3b", {"h200-sxm": 4}, "nvlink4-switch")
    whole = _weight_bytes(tree)
    for pp in (2, 3, 4):
        assert _weight_bytes(tree, f"parallelism.pp={pp}") == pytest.approx(whole, rel=1e-12)


def _weight_bytes(tree, *overrides):
    from moesim.serving.footprint import lane_weight_bytes

    pricer = stepping.pricer(tree, *overrides)
    lanes = pricer.layout.stage_lanes
    return lanes * sum(lane_weight_bytes(pricer.context, pricer.layout, program) for program in pricer.programs)


def test_work_of_a_run_does_not_depend_on_its_layout(on_ruler):
    """The FLOPs of all devices together: TP repeats the norms (5 FLOP per feature and token, with the residual) and the
    choice of a token (2 per logit), and nothing else. 3 layers, hidden 8, vocabulary 16; 29 tokens in, 5 computed after
    the first, 9 tokens out."""
    rows = [(0, 20, 4), (0.5, 9, 5)]
    tokens, sampled = 20 + 9 + 3 + 4, 4 + 5
    library = {"devices": {"unit": ruler.device()}, "fabrics": {"net": ruler.FABRIC}}

    def flops(devices, **parallelism):
        machine = {"devices": {"unit": devices}, "fabric": "net"}
        record = on_ruler(rows, machine=machine, parallelism=parallelism, library=library)
        return float(record.devices["flops"].sum())

    alone = flops(1)
    for tp in (2, 4):
        repeated = (2 * 3 + 1) * 5 * 8 * tokens + 2 * 16 * sampled
        assert flops(tp, tp=tp) == pytest.approx(alone + (tp - 1) * repeated, rel=1e-12)
    assert flops(3, pp=3) == pytest.approx(alone, rel=1e-12)
    assert flops(2, replicas=2) == pytest.approx(alone, rel=1e-12)


def test_work_of_experts_does_not_depend_on_their_place(on_ruler):
    """MoE, 3 layers, 2 of 4 experts of 3 x 8 x 16: the routed experts compute 2 x 2 x 3 x 8 x 16 FLOP per layer and
    token, dummy tokens of an idle rank included (rank 1 has no work in the last step)."""
    rows = [(0, 20, 4), (0, 9, 3)]
    real = 20 + 9 + 3 + 2
    library = {"devices": {"unit": ruler.device()}, "fabrics": {"net": ruler.FABRIC}}

    def experts(**changes):
        machine = {"devices": {"unit": 4}, "fabric": "net"}
        record = on_ruler(rows, model=ruler.MOE, machine=machine, library=library, **changes)
        return record.expert_tokens.sum(), float(record.devices["flops"].sum())

    copies, alone = experts()
    assert copies == pytest.approx(real * 2 * 3)
    copies, spread = experts(parallelism={"dp": 2, "ep": 2})
    assert copies == pytest.approx((real + 1) * 2 * 3)
    # The dummy token passes the whole model: experts, projections (8 x 24, 8 x 8), router (8 x 4), norms, rope
    # (3 FLOP on 16 features), the head and the choice (16 logits), and attends to itself (4 x 8 FLOP).
    layer = 2 * (2 * 3 * 8 * 16) + 2 * (8 * 24 + 8 * 8 + 8 * 4) + 2 * 5 * 8 + 3 * 16 + 4 * 8
    dummy = 3 * layer + 5 * 8 + 2 * 8 * 16 + 2 * 16
    assert spread == pytest.approx(alone + dummy, rel=1e-12)
