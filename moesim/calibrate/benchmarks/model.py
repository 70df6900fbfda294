"""A decoder in plain PyTorch with random weights, made of exactly the operators that moesim.model.operators lists.

Residual additions belong to the norm that follows; the router's product and the choice of experts are two operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moesim.calibrate.benchmarks import operators as run
from moesim.calibrate.benchmarks.pytorch import Bench
from moesim.model.operators import (
    LayerType,
    Operator,
    attention_operators,
    epilogue_operators,
    feed_forward_operators,
    layer_types,
    prologue_operators,
)
from moesim.spec.errors import MoesimError
from moesim.spec.model import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

#: Weight and bias of a product or norm, both weights of the experts, by operator.
Weights = dict[str, tuple["Tensor | None", ...]]


def check_supported(spec: ModelSpec) -> None:
    """Raises MoesimError: the model has something that is not written in PyTorch here."""
    moe = spec.moe
    lacking = {
        "latent attention": spec.attention.kv_rank is not None,
        "attention sinks": spec.attention.sinks,
        "local attention": "local" in spec.attention.pattern,
        "a dense residual branch": spec.residual_width is not None,
        "biases of experts": moe is not None and moe.expert_bias,
        "groups of experts": moe is not None and moe.groups > 1,
    }
    for what, has in lacking.items():
        if has:
            raise MoesimError(f"{spec.name} has {what}, which the benchmarks lack", fix="choose another with --model")


@dataclass
class ReferenceModel:
    """Weights of some layers of a model, with the embedding and head around them.

    `routed`, where it is a list, collects the router's logits of every MoE layer.
    """

    spec: ModelSpec
    bench: Bench
    types: Sequence[LayerType]
    layers: list[Weights]
    ends: Weights
    routed: list[Tensor] | None = field(default=None)

    def caches(self, batch: int, longest: int) -> list[Tensor]:
        """Keys and values of every layer: [2, batch, KV heads, longest, width], filled."""
        attention = self.spec.attention
        return [
            self.bench.random(2, batch, attention.kv_heads, longest, attention.head_dim) for _ in range(len(self.types))
        ]

    def step(self, tokens: Tensor, caches: Sequence[Tensor], past: int) -> Tensor:
        """[batch, new] token ids behind `past` cached ones -> [batch] the next ones."""
        return run.sampling(self.logits(tokens, caches, past))

    def logits(self, tokens: Tensor, caches: Sequence[Tensor], past: int) -> Tensor:
        """[batch, vocabulary] of the last new token of each sequence."""
        batch, new = tokens.shape
        table = self.ends["lm_head" if self.spec.tied_embeddings else "embedding"][0]
        assert table is not None
        turn = self.turn(batch, new, past)
        x, residual = run.embedding(tokens.flatten(), table), None
        for layer, cache in zip(range(len(self.layers)), caches, strict=True):
            x, residual = self.layer(layer, x, residual, cache, past, turn)
        x, _ = run.add_norm(x, residual, *self.ends["final_norm"])
        return run.linear(x.view(batch, new, -1)[:, -1], *self.ends["lm_head"])

    def turn(self, batch: int, new: int, past: int) -> tuple[Tensor, Tensor]:
        """Angles of the rotary embedding of [batch * new] tokens."""
        import torch

        positions = torch.arange(past, past + new, device=self.bench.kind).repeat(batch)
        return run.angles(positions, self.spec.attention.head_dim, self.bench.dtype)

    def layer(
        self,
        index: int,
        x: Tensor,
        residual: Tensor | None,
        cache: Tensor,
        past: int,
        turn: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """One layer on [T, hidden], T sequences after another: its output, and the residual that is still to add."""
        weights = self.layers[index]
        x, residual = run.add_norm(x, residual, *weights["attention_norm"])
        x = self._attention(weights, x, cache, past, turn)
        if self.spec.norms == 4:
            x = run.norm(x, *weights["post_attention_norm"])
        x, residual = run.add_norm(x, residual, *weights["mlp_norm"])
        x = self._experts(weights, x) if self.types[index].feed_forward == "moe" else self._mlp(weights, x, "mlp")
        if self.spec.norms == 4:
            x = run.norm(x, *weights["post_mlp_norm"])
        return x, residual

    def _attention(
        self, weights: Weights, x: Tensor, cache: Tensor, past: int, turn: tuple[Tensor, Tensor]
    ) -> Tensor:  # fmt: skip
        spec, batch = self.spec.attention, cache.shape[1]
        width, turned = spec.head_dim, spec.heads + spec.kv_heads
        heads = run.linear(x, *weights["qkv"]).view(len(x), turned + spec.kv_heads, width)
        both, value = heads[:, :turned], heads[:, turned:]
        if spec.qk_norm != "none":
            query, key = weights["qk_norm"]
            assert query is not None
            assert key is not None
            both = run.qk_norm(both, spec.heads, query, key)
        both = run.rotary(both, *turn).view(batch, -1, turned, width)
        out = run.attention(
            both[:, :, : spec.heads],
            both[:, :, spec.heads :],
            value.reshape(batch, -1, spec.kv_heads, width),
            cache,
            past,
        )
        return run.linear(out.reshape(len(x), -1), *weights["output"])

    def _mlp(self, weights: Weights, x: Tensor, prefix: str) -> Tensor:
        up = run.linear(x, *weights[f"{prefix}_up"])
        return run.linear(run.activation(up, self.spec.gated), *weights[f"{prefix}_down"])

    def _experts(self, weights: Weights, x: Tensor) -> Tensor:
        moe = self.spec.moe
        assert moe is not None
        logits = run.linear(x, *weights["router"])
        if self.routed is not None:
            self.routed.append(logits)
        up, down = weights["experts"]
        assert up is not None
        assert down is not None
        out = run.experts(x, logits, up, down, moe.top_k, self.spec.gated)
        if moe.shared_width:
            shared = self._mlp(weights, x, "shared_expert")
            if moe.shared_gate:
                shared = shared * run.linear(x, *weights["shared_gate"]).sigmoid()
            out = out + shared
        return out


def build(spec: ModelSpec, bench: Bench, layers: Sequence[int]) -> ReferenceModel:
    """Random weights of some layers (their numbers) of a model.

    Raises:
        MoesimError: the model has something that is not written here.
    """
    check_supported(spec)
    kinds = layer_types(spec)
    types = [kinds[layer] for layer in layers]
    weights = [_weights(layer_operators(spec, kind), spec, bench) for kind in types]
    ends = _weights([*prologue_operators(spec), *epilogue_operators(spec)], spec, bench)
    return ReferenceModel(spec, bench, types, weights, ends)


def layer_operators(spec: ModelSpec, kind: LayerType) -> list[Operator]:
    return [*attention_operators(spec, kind), *feed_forward_operators(spec, kind)]


def _weights(operators: Sequence[Operator], spec: ModelSpec, bench: Bench) -> Weights:
    return {each.name: _made(each, spec, bench) for each in operators if each.weights}


def _made(operator: Operator, spec: ModelSpec, bench: Bench) -> tuple[Tensor | None, ...]:
    """Random weights that keep the size of activations; norms are ones."""
    import torch

    inputs, outputs = operator.inputs, operator.outputs
    if operator.kind == "experts":
        assert spec.moe is not None
        count, width = spec.moe.experts, spec.moe.width
        up = bench.random(count, width * (2 if spec.gated else 1), inputs, scale=inputs**-0.5)
        return up, bench.random(count, outputs, width, scale=width**-0.5)
    if operator.name == "qk_norm":
        sizes = (1, 1) if spec.attention.qk_norm == "head" else (spec.attention.heads, spec.attention.kv_heads)
        return tuple(torch.ones(n * spec.attention.head_dim, dtype=bench.dtype, device=bench.kind) for n in sizes)
    if operator.kind == "norm":
        ones = torch.ones(spec.hidden, dtype=bench.dtype, device=bench.kind)
        return ones, torch.zeros_like(ones) if operator.weights == 2 * spec.hidden else None
    if operator.kind == "embedding":
        return (bench.random(operator.weights // outputs, outputs),)
    bias = bench.random(outputs, scale=0.01) if operator.weights > inputs * outputs else None
    return bench.random(outputs, inputs, scale=inputs**-0.5), bias
