"""The operators of moesim.model.operators in plain PyTorch, unsharded: what kernels and whole steps are timed with.

T is the number of tokens of all sequences, [T, features] row-major; weights are [out, in].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

#: Of the root mean square, as in most published configurations.
EPSILON = 1e-6


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[T, in] -> [T, out]."""
    import torch

    return torch.nn.functional.linear(x, weight, bias)


def norm(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """RMSNorm over the last dimension; LayerNorm where it has a bias."""
    import torch

    functional = torch.nn.functional
    if bias is not None:
        return functional.layer_norm(x, weight.shape, weight, bias, EPSILON)
    return functional.rms_norm(x, weight.shape, weight, EPSILON)


def add_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The residual addition, then the norm: (normalised, new residual)."""
    total = x if residual is None else x + residual
    return norm(total, weight, bias), total


def qk_norm(x: Tensor, heads: int, query: Tensor, key: Tensor) -> Tensor:
    """Norms of queries, the first `heads` of [T, heads, width], and of keys: of each head where weights are one head
    wide, else over all of its side's features."""
    import torch

    parts = x[:, :heads], x[:, heads:]
    if len(query) == x.shape[2]:
        return torch.cat((norm(parts[0], query), norm(parts[1], key)), dim=1)
    flat = torch.cat((norm(parts[0].flatten(1), query), norm(parts[1].flatten(1), key)), dim=1)
    return flat.view(x.shape)


def activation(x: Tensor, gated: bool) -> Tensor:
    """SwiGLU's silu(a) * b of the two halves of the features, or silu."""
    import torch

    if not gated:
        return torch.nn.functional.silu(x)
    gate, up = x.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def rotary(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """[T, heads, width] turned by the angles [T, 1, width / 2] of their positions."""
    import torch

    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


def attention(query: Tensor, key: Tensor, value: Tensor, cache: Tensor, past: int) -> Tensor:
    """New keys and values into the cache behind `past` tokens, then softmax attention over all of them.

    query [batch, tokens, heads, width]; key and value with KV heads; cache [2, batch, KV heads, longest, width].
    Several new tokens begin a sequence (past 0) and see themselves and those before them. Gives what query has.
    """
    import torch

    tokens = query.shape[1]
    if tokens > 1 and past:
        raise ValueError("several new tokens after cached ones need a mask, which is not written")
    cache[0, :, :, past : past + tokens] = key.transpose(1, 2)
    cache[1, :, :, past : past + tokens] = value.transpose(1, 2)
    seen = cache[:, :, :, : past + tokens]
    out = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2), seen[0], seen[1], is_causal=tokens > 1, enable_gqa=query.shape[2] != seen.shape[2]
    )
    return out.transpose(1, 2)


def route(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """[T, experts] -> weights [pairs] and tokens [pairs] in order of experts, and where each expert's pairs end.

    Softmax, top-k, renormalised over the chosen, then sorted: without a copy to the host, so that it can be captured.
    """
    import torch

    weights, chosen = torch.topk(torch.softmax(logits.float(), dim=-1), top_k)
    weights = (weights / weights.sum(dim=-1, keepdim=True)).flatten()
    experts, order = torch.sort(chosen.flatten(), stable=True)
    every = torch.arange(logits.shape[1], device=logits.device)
    ends = torch.searchsorted(experts, every, right=True).to(torch.int32)
    return weights[order], order // top_k, ends


def experts(x: Tensor, logits: Tensor, up: Tensor, down: Tensor, top_k: int, gated: bool) -> Tensor:
    """The routed experts: choice, permutation, both grouped products, activation, weighted un-permutation.

    up [experts, width (twice if gated), hidden], down [experts, hidden, width].
    """
    import torch

    weights, tokens, ends = route(logits, top_k)
    hidden = grouped(x[tokens], up, ends)
    out = grouped(activation(hidden, gated), down, ends) * weights[:, None].to(x.dtype)
    return torch.zeros_like(x).index_add_(0, tokens, out)


def grouped(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """[pairs, in] in groups that end at `ends` [experts], times weights [experts, out, in]: [pairs, out]."""
    import torch

    return torch.nn.functional.grouped_mm(x, weights.transpose(1, 2), offs=ends)


def embedding(tokens: Tensor, weight: Tensor) -> Tensor:
    """[T] -> [T, hidden]."""
    import torch

    return torch.nn.functional.embedding(tokens, weight)


def sampling(logits: Tensor) -> Tensor:
    """The most probable token of each row."""
    return logits.argmax(dim=-1)


def angles(positions: Tensor, width: int, dtype: Any, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine [T, 1, width / 2] of rotary embedding (Su et al. 2021, arXiv 2104.09864, equation 15)."""
    import torch

    rates = base ** (-torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width)
    turned = positions.float()[:, None, None] * rates
    return turned.cos().to(dtype), turned.sin().to(dtype)
