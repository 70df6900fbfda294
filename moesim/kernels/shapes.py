"""What a kernel call looks like to the hardware, beyond its FLOPs and bytes: columns that broadcast together."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class MatrixShape(NamedTuple):
    """[m, k] activations times [k, n] weights. Bytes per element of activations, weights and outputs."""

    m: FloatArray
    n: FloatArray
    k: FloatArray
    activation_bytes: float
    weight_bytes: float
    output_bytes: float


class ExpertShape(NamedTuple):
    """One layer's routed experts on one rank: top-k, permutation, both grouped products, activation, un-permutation.

    pairs: (token, expert) pairs whose expert is held here. all_pairs: pairs of all tokens that the kernel is handed,
    those of other ranks' experts included (where tokens are gathered). touched: distinct experts that get a token;
    held: experts on this rank. hidden, width: of the model, and of one expert's shard. matrices: 3 with a gate, else 2.
    Bytes per element of activations and weights.
    """

    pairs: FloatArray
    all_pairs: FloatArray
    touched: FloatArray
    held: FloatArray
    hidden: FloatArray
    width: FloatArray
    matrices: FloatArray
    activation_bytes: float
    weight_bytes: float


class AttentionShape(NamedTuple):
    """One layer's attention of a batch on one rank: sums over the sequences that decode, and over those that prefill.

    decodes: sequences with one new token; keys: what they see, summed, themselves included. chunks: sequences with
    several new tokens; queries: these tokens, summed; pairs: visible (query, key) pairs, summed (per head);
    chunk_keys: cached and new keys of the chunks, summed. heads, kv_heads: of the rank (at least 1 each). query_width,
    value_width: per head. latent: width of the cached latent (MLA: kv_rank + rope_dim), 0 where keys and values are
    cached. Bytes per element of queries and outputs, and of the cache. expansion: FLOPs per cached key of a chunk,
    whose latent is expanded again. verified: query tokens of a decoding sequence, more than one where drafts are
    verified.
    """

    decodes: FloatArray
    keys: FloatArray
    chunks: FloatArray
    queries: FloatArray
    pairs: FloatArray
    chunk_keys: FloatArray
    heads: FloatArray
    kv_heads: FloatArray
    query_width: FloatArray
    value_width: FloatArray
    latent: FloatArray
    query_bytes: float
    kv_bytes: float
    expansion: FloatArray | float = 0.0
    verified: float = 1.0


class RowShape(NamedTuple):
    """A kernel that streams rows: norms, activations, rotary embedding, look-ups, sampling, the router's top-k.

    rows: tokens or sequences. read, written: bytes per row. shared: bytes read once per call (a norm's weights).
    """

    rows: FloatArray
    read: FloatArray
    written: FloatArray
    shared: FloatArray


Shape = MatrixShape | ExpertShape | AttentionShape | RowShape
S = TypeVar("S", bound=Shape)


def rows_of(shape: S, rows: slice | NDArray[np.int64]) -> S:
    """Some rows of a shape's columns; single numbers stay."""
    chosen: list[Any] = [each[rows] if isinstance(each, np.ndarray) and each.ndim else each for each in shape]
    return type(shape)(*chosen)
