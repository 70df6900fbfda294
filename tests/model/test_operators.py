"""The operators of a layer: shapes of published checkpoints, and sums that must hold for every model."""

from __future__ import annotations

import pytest

from moesim.model.operators import (
    LayerType,
    Operator,
    attention_operators,
    epilogue_operators,
    feed_forward_operators,
    layer_types,
    prologue_operators,
)
from moesim.model.parameters import parameters, weight_elements
from moesim.spec.library import list_descriptors
from moesim.spec.loading import load_descriptor
from moesim.spec.model import ModelSpec

NAMES = list(list_descriptors("models"))


def operators(model: ModelSpec, layer: int) -> dict[str, Operator]:
    kind = layer_types(model)[layer]
    both = attention_operators(model, kind) + feed_forward_operators(model, kind)
    named = {operator.name: operator for operator in both}
    assert len(named) == len(both), "names are unique in a layer"
    return named


def test_qwen3_30b_a3b_has_the_shapes_of_its_checkpoint() -> None:
    layer = operators(load_descriptor("models", "qwen3-30b-a3b"), 0)
    assert list(layer) == [
        "attention_norm", "qkv", "qk_norm", "rope", "attention", "output", "mlp_norm", "router", "experts",
    ]  # fmt: skip
    # q_proj 4096x2048, k_proj and v_proj 512x2048, o_proj 2048x4096, gate 128x2048, 128 x 3 x (768x2048)
    assert (layer["qkv"].inputs, layer["qkv"].outputs, layer["qkv"].weights) == (2048, 5120, 5120 * 2048)
    assert layer["output"].weights == 2048 * 4096
    assert layer["router"].weights == 128 * 2048
    assert layer["experts"].weights == 128 * 3 * 768 * 2048
    assert layer["experts"].flops_per_token == 2 * 3 * 768 * 2048
    assert layer["qk_norm"].weights == 2 * 128


def test_deepseek_v3_has_the_shapes_of_its_checkpoint() -> None:
    model = load_descriptor("models", "deepseek-v3")
    first, last = operators(model, 0), operators(model, 60)
    projections = ("down", "q_up", "kv_up", "output")
    shapes = {name: (first[name].inputs, first[name].outputs) for name in projections}
    # q_a_proj and kv_a_proj_with_mqa, q_b_proj, kv_b_proj, o_proj
    assert shapes == {
        "down": (7168, 1536 + 576),
        "q_up": (1536, 24576),
        "kv_up": (512, 32768),
        "output": (16384, 7168),
    }
    assert first["mlp_up"].weights == 2 * 7168 * 18432
    assert "experts" not in first
    assert last["experts"].weights == 256 * 3 * 7168 * 2048
    assert last["shared_expert_up"].weights + last["shared_expert_down"].weights == 3 * 7168 * 2048
    assert last["router"].weights == 256 * 7168 + 256  # with e_score_correction_bias
    # Absorbing W_uk and W_uv costs what expanding the latent costs: 2 x 128 heads x 512 x (128 + 128).
    assert last["kv_up"].flops_per_token == 33_554_432


def test_gpt_oss_biases_and_sinks_are_held() -> None:
    layer = operators(load_descriptor("models", "gpt-oss-20b"), 0)
    assert layer["qkv"].weights == 2880 * 5120 + 5120
    assert layer["output"].weights == 4096 * 2880 + 2880
    assert layer["attention"].weights == 64
    assert layer["experts"].weights == 32 * (3 * 2880 * 2880 + 2 * 2880 + 2880)


@pytest.mark.parametrize(
    ("name", "moe", "local"),
    [
        ("deepseek-v3", range(3, 61), ()),
        ("llama-4-maverick", range(1, 48, 2), [layer for layer in range(48) if layer % 4 != 3]),
        ("llama-4-scout", range(48), [layer for layer in range(48) if layer % 4 != 3]),
        ("gpt-oss-120b", range(36), range(0, 36, 2)),
        ("qwen3-32b", (), ()),
    ],
)
def test_layers_are_what_the_configurations_say(name: str, moe: range, local: range) -> None:
    kinds = layer_types(load_descriptor("models", name))
    assert [layer for layer, kind in enumerate(kinds) if kind.feed_forward == "moe"] == list(moe)
    assert [layer for layer, kind in enumerate(kinds) if kind.attention == "local"] == list(local)


@pytest.mark.parametrize("name", NAMES)
def test_matrix_products_cost_two_flop_per_weight_a_token_visits(name: str) -> None:
    """2 FLOP for every active weight that is a matrix: all but embedding, norms, biases and sinks."""
    model = load_descriptor("models", name)
    products = [operator for operator in epilogue_operators(model) if operator.kind == "gemm"]
    for kind in layer_types(model):
        both = attention_operators(model, kind) + feed_forward_operators(model, kind)
        products += [operator for operator in both if operator.kind in ("gemm", "router", "experts")]
    top_k = model.moe.top_k if model.moe else 0
    flops = sum(operator.flops_per_token * (top_k if operator.kind == "experts" else 1) for operator in products)
    looked_up = 0 if model.tied_embeddings else model.vocabulary * model.hidden
    matrices = parameters(model).active - looked_up - weight_elements(model)["norm"]
    # Biases and sinks are below 0.1 % in every model.
    assert 0.999 <= flops / (2 * matrices) <= 1.0


@pytest.mark.parametrize("name", NAMES)
def test_row_parallel_outputs_are_reduced(name: str) -> None:
    model = load_descriptor("models", name)
    for kind in set(layer_types(model)):
        for operator in attention_operators(model, kind) + feed_forward_operators(model, kind):
            assert operator.reduces == (operator.shard in ("row", "experts"))


def test_four_norms_and_a_residual_branch() -> None:
    grok = operators(load_descriptor("models", "grok-1"), 0)
    arctic = operators(load_descriptor("models", "snowflake-arctic"), 0)
    assert [name for name in grok if name.endswith("norm")] == [
        "attention_norm", "post_attention_norm", "mlp_norm", "post_mlp_norm",
    ]  # fmt: skip
    assert arctic["residual_up"].weights == 2 * 7168 * 7168


def test_only_head_and_sampling_run_per_sequence() -> None:
    model = load_descriptor("models", "qwen3-8b")
    both = prologue_operators(model) + epilogue_operators(model)
    assert [operator.name for operator in both if operator.per_sequence] == ["lm_head", "sampling"]


def test_a_layer_type_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no experts"):
        feed_forward_operators(load_descriptor("models", "qwen3-8b"), LayerType("full", "moe"))
    with pytest.raises(ValueError, match="no dense layers"):
        feed_forward_operators(load_descriptor("models", "mixtral-8x7b"), LayerType("full", "dense"))
