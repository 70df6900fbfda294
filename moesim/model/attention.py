"""What attention itself costs: work that grows with the context, beside the projections around it.

Everything is exact and in closed form: a new token at position p (counted from 0) attends to its visible keys, itself
included, and a sequence's new tokens are summed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moesim.spec.model import AttentionSpec, ModelSpec

Reach = Literal["local", "full"]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class AttentionWork:
    """One layer's attention, per scheduled sequence, all heads, before any sharding.

    Attributes:
        flops: multiplications and additions of scores and values (softmax left out).
        kv_read: elements of the KV cache read, each distinct key once (tiles reuse it for all queries and heads).
        kv_written: elements appended to the KV cache.
        query_elements: activations read and written: queries and outputs, and for multi-head latent attention in
            prefill also the keys and values expanded from the latent.
        pairs, keys: visible (query, key) pairs and distinct keys, per head.
    """

    flops: Floats
    kv_read: Floats
    kv_written: Floats
    query_elements: Floats
    pairs: Floats
    keys: Floats


def kv_elements_per_token(model: ModelSpec) -> int:
    """Elements that one token adds to the KV cache of one layer, over all heads.

    GQA stores keys and values of every KV head (Ainslie et al. 2023, arXiv 2305.13245); MLA stores the compressed
    latent and one rotary key (DeepSeek-V2, arXiv 2405.04434, section 2.1.2), which tensor parallelism cannot divide.
    """
    attention = model.attention
    if attention.kv_rank is not None:
        return attention.kv_rank + (attention.rope_dim or 0)
    return 2 * attention.kv_heads * attention.head_dim


def cached_span(model: ModelSpec, attention: Reach, context: ArrayLike) -> Integers:
    """Tokens of a sequence of `context` tokens whose keys a layer keeps: all, or at most its window or chunk."""
    tokens: Integers = np.asarray(context, dtype=np.int64)
    limit = model.attention.window or model.attention.chunk
    return tokens if attention == "full" or limit is None else np.minimum(tokens, limit)


def _visible_pairs(spec: AttentionSpec, attention: Reach, tokens: Integers) -> Integers:
    """(query, key) pairs of the first `tokens` tokens of a sequence: the sum over positions of their visible keys."""
    if attention == "full":
        return tokens * (tokens + 1) // 2
    if spec.window is not None:  # min(position + 1, window) keys
        ramp: Integers = np.minimum(tokens, spec.window)
        return ramp * (ramp + 1) // 2 + (tokens - ramp) * spec.window
    chunk = spec.chunk or 1  # position mod chunk + 1 keys
    rest = tokens % chunk
    return (tokens // chunk) * (chunk * (chunk + 1) // 2) + rest * (rest + 1) // 2


def _distinct_keys(spec: AttentionSpec, attention: Reach, new: Integers, cached: Integers) -> Integers:
    """Cached keys that at least one of the new tokens sees; the new ones come on top."""
    if attention == "full":
        return cached
    if spec.window is not None:  # the first new token sees itself and the window - 1 before it
        return np.minimum(cached, spec.window - 1)
    return cached % (spec.chunk or 1)


def attention_work(
    model: ModelSpec, attention: Reach, new_tokens: ArrayLike, cached_tokens: ArrayLike
) -> AttentionWork:
    """The attention of one layer for sequences that add `new_tokens` to `cached_tokens` already computed.

    Scores and weighted values take 2 FLOP per head and dimension each for every (query, key) pair, which makes
    4 x heads x head_dim (Dao 2023, arXiv 2307.08691, section 4.1, there averaged over a causal mask).

    MLA (DeepSeek-V2, arXiv 2405.04434, section 2.1) runs as engines do. One new token: absorbed, queries in the latent
    space, (2 kv_rank + rope_dim) x 2 FLOP per head and pair, the cache read as it is; W_uk and W_uv are applied to the
    query and the output, the same FLOPs as the `kv_up` operator counts per new token. Several new tokens: as MHA with
    query and key width nope_dim + rope_dim and value width value_dim; new tokens pass `kv_up`, and the latents of
    cached tokens are expanded again, which is counted here.

    Args:
        new_tokens, cached_tokens: integers >= 0, broadcast together; a sequence with 0 new tokens costs nothing.
    """
    spec = model.attention
    new, cached = np.broadcast_arrays(np.asarray(new_tokens, np.int64), np.asarray(cached_tokens, np.int64))
    pairs = (_visible_pairs(spec, attention, cached + new) - _visible_pairs(spec, attention, cached)).astype(np.float64)
    old = np.where(new > 0, _distinct_keys(spec, attention, new, cached), 0).astype(np.float64)
    added = new.astype(np.float64)
    per_token = kv_elements_per_token(model)
    if spec.kv_rank is not None:
        return _latent_work(spec, pairs, old, added, per_token)
    width = spec.heads * spec.head_dim
    read, written = per_token * (old + added), per_token * added
    return AttentionWork(4.0 * width * pairs, read, written, 2.0 * width * added, pairs, old + added)


def _latent_work(spec: AttentionSpec, pairs: Floats, old: Floats, added: Floats, per_token: int) -> AttentionWork:
    rank, nope, rope, value = (float(x or 0) for x in (spec.kv_rank, spec.nope_dim, spec.rope_dim, spec.value_dim))
    heads, absorbed = spec.heads, added == 1
    expanded = heads * (nope + value)
    prefill_flops = 2.0 * heads * (nope + rope + value) * pairs + 2.0 * rank * expanded * old
    # Queries and outputs; expanded keys and values read for all keys, written here for the cached ones.
    prefill_elements = heads * (nope + rope + value) * added + expanded * (2.0 * old + added)
    return AttentionWork(
        flops=np.where(absorbed, 2.0 * heads * (2.0 * rank + rope) * pairs, prefill_flops),
        kv_read=per_token * np.where(absorbed, old + added, old),
        kv_written=per_token * added,
        query_elements=np.where(absorbed, heads * (2.0 * rank + rope) * added, prefill_elements),
        pairs=pairs,
        keys=old + added,
    )
