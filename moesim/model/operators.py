"""The operators of one layer, unsharded, in order of execution: what they read, write, hold and compute.

Counts are elements and FLOP; dtypes, tensor parallelism and placement come later. Residual additions are fused into the
norm that follows them, as engines do, so norms read and write two vectors. Outputs marked `reduces` are partial sums
under tensor parallelism; those of one feed-forward block (routed, shared and residual experts) add up before one
reduction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moesim.model.attention import AttentionWork, attention_work, cached_span, kv_elements_per_token
from moesim.spec.model import AttentionSpec, ModelSpec, MoeSpec

__all__ = [
    "AttentionWork", "LayerType", "Operator", "attention_operators", "attention_work", "cached_span",
    "draft_operators", "epilogue_operators", "feed_forward_operators", "kv_elements_per_token", "layer_types",
    "prologue_operators",
]  # fmt: skip

Kind = Literal["embedding", "norm", "gemm", "elementwise", "attention", "router", "experts", "sampling"]
#: How tensor parallelism divides an operator.
Shard = Literal["replicated", "column", "row", "heads", "vocab", "experts"]
#: Which weight dtype applies.
Tensor = Literal["attention", "mlp", "experts", "shared", "router", "embedding", "norm", "none"]


@dataclass(frozen=True)
class Operator:
    """One kernel of a layer, for all heads and all experts.

    Attributes:
        name: unique in its layer.
        inputs, outputs: features read and written per token; of the routed experts, per (token, expert) pair.
        weights: elements held, biases included; of the routed experts, of all of them.
        flops_per_token: 2 x inputs x outputs for a matrix product; per pair for the routed experts; 0 for attention,
            whose work depends on the context (`attention_work`).
        reduces: under tensor parallelism its output is a partial sum.
        per_sequence: one row per sequence that samples, instead of one per token.
        intermediate: features written and read again inside (between the two products of an expert).
    """

    name: str
    kind: Kind
    shard: Shard
    tensor: Tensor
    inputs: int
    outputs: int
    weights: int
    flops_per_token: float
    reduces: bool = False
    per_sequence: bool = False
    intermediate: int = 0


@dataclass(frozen=True)
class LayerType:
    attention: Literal["local", "full"]
    feed_forward: Literal["dense", "moe"]


def layer_types(model: ModelSpec) -> list[LayerType]:
    """One per layer, in order."""
    pattern, moe = model.attention.pattern, model.moe
    return [
        LayerType(pattern[layer % len(pattern)], "moe" if moe is not None and moe.holds(layer) else "dense")
        for layer in range(model.layers)
    ]


def _gemm(name: str, shard: Shard, tensor: Tensor, inputs: int, outputs: int, *, bias: bool = False) -> Operator:
    weights = inputs * outputs + (outputs if bias else 0)
    return Operator(name, "gemm", shard, tensor, inputs, outputs, weights, 2.0 * inputs * outputs, shard == "row")


def _norm(name: str, width: int, *, bias: bool = False, residual: bool = False) -> Operator:
    """RMSNorm (LayerNorm where it has a bias): square and add, scale, weight: 4 FLOP per feature, 5 with a residual."""
    features = width * (2 if residual else 1)
    flops = width * (5.0 if residual else 4.0)
    return Operator(name, "norm", "replicated", "norm", features, features, width * (2 if bias else 1), flops)


def _activation(name: str, width: int, *, gated: bool) -> Operator:
    """SwiGLU's silu(a) * b, or the plain activation: 4 FLOP for the activation's polynomial, 1 for the product."""
    return Operator(
        name, "elementwise", "column", "none", width * (2 if gated else 1), width, 0, width * (5.0 if gated else 4.0)
    )


def attention_operators(model: ModelSpec, layer_type: LayerType) -> list[Operator]:
    """The attention block with its norms, in order of execution."""
    spec, hidden = model.attention, model.hidden
    latent = spec.kv_rank is not None
    projections = _latent_projections(spec, hidden) if latent else _grouped_projections(spec, hidden)
    queries = spec.heads * ((spec.nope_dim or 0) + (spec.rope_dim or 0) if latent else spec.head_dim)
    values = spec.heads * ((spec.value_dim or 0) if latent else spec.head_dim)
    sinks = spec.heads if spec.sinks else 0
    operators = [
        _norm("attention_norm", hidden, bias=model.norm_bias, residual=True),
        *projections,
        Operator("attention", "attention", "heads", "attention" if sinks else "none", queries, values, sinks, 0.0),
        _gemm("output", "row", "attention", values, hidden, bias=spec.output_bias),
    ]
    if model.norms == 4:
        operators.append(_norm("post_attention_norm", hidden, bias=model.norm_bias))
    return operators


def _rope(features: int) -> Operator:
    """Rotary embedding: 4 products and 2 sums per pair of features (Su et al. 2021, arXiv 2104.09864, equation 34)."""
    return Operator("rope", "elementwise", "heads", "none", features, features, 0, 3.0 * features)


def _grouped_projections(spec: AttentionSpec, hidden: int) -> list[Operator]:
    """MHA and GQA: one fused projection; `full` norms span all heads, `head` norms share one weight per dimension."""
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    operators = [_gemm("qkv", "column", "attention", hidden, queries + 2 * keys, bias=spec.qkv_bias)]
    if spec.qk_norm != "none":
        weights = 2 * spec.head_dim if spec.qk_norm == "head" else queries + keys
        width = queries + keys
        operators.append(Operator("qk_norm", "norm", "heads", "norm", width, width, weights, 4.0 * width))
    return [*operators, _rope(queries + keys)]


def _latent_projections(spec: AttentionSpec, hidden: int) -> list[Operator]:
    """MLA (DeepSeek-V2, arXiv 2405.04434, equations 37 to 47): down-projections are replicated, up-projections split.
    Engines join the down-projections of queries, keys and values into one product (`fused_qkv_a_proj`).

    `kv_up` counts the same FLOPs in both forms of attention: expanding the latent in prefill, absorbing W_uk and W_uv
    into query and output in decode.
    """
    rank, rope = spec.kv_rank or 0, spec.rope_dim or 0
    queries = spec.heads * ((spec.nope_dim or 0) + rope)
    latents = (spec.query_rank or 0) + rank + rope
    return [
        _gemm("down", "replicated", "attention", hidden, latents, bias=spec.qkv_bias),
        *([_norm("q_norm", spec.query_rank)] if spec.query_rank is not None else []),
        _norm("kv_norm", rank),
        _gemm("q_up", "column", "attention", spec.query_rank or hidden, queries),
        _gemm("kv_up", "column", "attention", rank, spec.heads * ((spec.nope_dim or 0) + (spec.value_dim or 0))),
        _rope((spec.heads + 1) * rope),
    ]


def _mlp(
    prefix: str, activation: str, tensor: Tensor, hidden: int, width: int, gated: bool, bias: bool
) -> list[Operator]:
    return [
        _gemm(f"{prefix}_up", "column", tensor, hidden, width * (2 if gated else 1), bias=bias),
        _activation(activation, width, gated=gated),
        _gemm(f"{prefix}_down", "row", tensor, width, hidden, bias=bias),
    ]


def feed_forward_operators(model: ModelSpec, layer_type: LayerType) -> list[Operator]:
    """The dense or mixture-of-experts block with its norms, in order of execution.

    Raises:
        ValueError: the layer type is not one of this model's.
    """
    hidden = model.hidden
    operators = [_norm("mlp_norm", hidden, bias=model.norm_bias, residual=True)]
    if layer_type.feed_forward == "moe":
        if model.moe is None:
            raise ValueError(f"{model.name} has no experts")
        operators += _moe_operators(model, model.moe)
    else:
        if model.dense_width is None:
            raise ValueError(f"{model.name} has no dense layers")
        operators += _mlp("mlp", "activation", "mlp", hidden, model.dense_width, model.gated, model.dense_bias)
    if model.norms == 4:
        operators.append(_norm("post_mlp_norm", hidden, bias=model.norm_bias))
    return operators


def _moe_operators(model: ModelSpec, moe: MoeSpec) -> list[Operator]:
    """Router, routed experts, shared expert with its gate, and a dense residual branch, as far as there are any."""
    hidden, width = model.hidden, moe.width
    router = hidden * moe.experts + (moe.experts if moe.router_bias else 0)
    matrices, ups = (3, 2) if model.gated else (2, 1)
    expert = matrices * hidden * width + ((ups * width + hidden) if moe.expert_bias else 0)
    flops = 2.0 * matrices * hidden * width
    # What the up-projection writes, what the activation leaves.
    between = (ups + 1) * width
    operators = [
        Operator("router", "router", "replicated", "router", hidden, moe.experts, router, 2.0 * hidden * moe.experts),
        Operator(
            "experts", "experts", "experts", "experts", hidden, hidden, moe.experts * expert, flops, True,
            intermediate=between,
        ),
    ]  # fmt: skip
    if moe.shared_width:
        operators += _mlp("shared_expert", "shared_activation", "shared", hidden, moe.shared_width, model.gated, False)
        if moe.shared_gate:
            operators.append(_gemm("shared_gate", "replicated", "shared", hidden, 1))
    if model.residual_width is not None:
        operators.append(_norm("residual_norm", hidden, bias=model.norm_bias))
        operators += _mlp("residual", "residual_activation", "mlp", hidden, model.residual_width, model.gated, False)
    return operators


def prologue_operators(model: ModelSpec) -> list[Operator]:
    """Before the first layer: the embedding, which reads one row per token. Tied weights are counted at the head."""
    weights = 0 if model.tied_embeddings else model.vocabulary * model.hidden
    return [Operator("embedding", "embedding", "vocab", "embedding", model.hidden, model.hidden, weights, 0.0, True)]


def epilogue_operators(model: ModelSpec) -> list[Operator]:
    """After the last layer: the norm over all tokens, then the head and the choice of a token, once per sequence."""
    hidden, vocabulary = model.hidden, model.vocabulary
    weights = vocabulary * (hidden + 1 if model.head_bias else hidden)
    flops = 2.0 * vocabulary * hidden
    return [
        _norm("final_norm", hidden, bias=model.norm_bias, residual=True),
        Operator("lm_head", "gemm", "vocab", "embedding", hidden, vocabulary, weights, flops, per_sequence=True),
        Operator("sampling", "sampling", "replicated", "none", vocabulary, 1, 0, 2.0 * vocabulary, per_sequence=True),
    ]


def draft_operators(model: ModelSpec) -> list[Operator]:
    """In front of a layer for multi-token prediction: the embedding of the next token, two norms, and the projection of
    both states to one (DeepSeek-V3, arXiv 2412.19437, equation 21). Embedding and head are the model's own."""
    hidden = model.hidden
    return [
        *prologue_operators(model),
        _norm("draft_embedding_norm", hidden, bias=model.norm_bias),
        _norm("draft_norm", hidden, bias=model.norm_bias),
        _gemm("draft_projection", "replicated", "attention", 2 * hidden, hidden),
    ]
