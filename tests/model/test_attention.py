"""Attention work against sums over every token and key, and published sizes of the KV cache."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.model.operators import attention_work, cached_span, kv_elements_per_token
from moesim.spec.loading import load_descriptor
from moesim.spec.model import AttentionSpec, ModelSpec

HEADS, KV_HEADS, HEAD_DIM = 6, 2, 16
RANK, NOPE, ROPE, VALUE = 32, 8, 4, 12


def model(**attention: object) -> ModelSpec:
    spec = AttentionSpec.model_validate({"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, **attention})
    return ModelSpec(name="m", layers=2, hidden=64, vocabulary=100, context=4096, attention=spec, dense_width=128)


def visible(position: int, window: int | None, chunk: int | None) -> list[int]:
    """The keys that a query sees, by the definition of each mask."""
    keys = range(position + 1)
    if window is not None:
        return [key for key in keys if position - key < window]
    if chunk is not None:
        return [key for key in keys if key // chunk == position // chunk]
    return list(keys)


reaches = st.one_of(
    st.just((None, None)),
    st.tuples(st.integers(1, 40), st.none()),
    st.tuples(st.none(), st.integers(1, 40)),
)


@given(reach=reaches, new=st.integers(0, 70), cached=st.integers(0, 90))
def test_work_is_the_sum_over_tokens(reach: tuple[int | None, int | None], new: int, cached: int) -> None:
    window, chunk = reach
    attention = "local" if window or chunk else "full"
    spec = model(window=window, chunk=chunk, pattern=(attention,))
    seen = [visible(position, window, chunk) for position in range(cached, cached + new)]
    work = attention_work(spec, attention, new, cached)
    # Scores and values, 2 FLOP each per head and dimension.
    assert work.flops == 4 * HEADS * HEAD_DIM * sum(len(keys) for keys in seen)
    distinct = set().union(*seen) if seen else set()
    assert work.kv_read == 2 * KV_HEADS * HEAD_DIM * len(distinct)
    assert work.kv_written == 2 * KV_HEADS * HEAD_DIM * new
    assert work.query_elements == 2 * HEADS * HEAD_DIM * new


@given(new=st.integers(0, 60), cached=st.integers(0, 60))
def test_latent_attention_is_absorbed_for_one_token_and_expanded_for_several(new: int, cached: int) -> None:
    spec = model(kv_heads=HEADS, kv_rank=RANK, nope_dim=NOPE, rope_dim=ROPE, value_dim=VALUE)
    flops = 0
    for position in range(cached, cached + new):
        for _key in range(position + 1):
            if new == 1:  # scores in latent and rotary dimensions, values in the latent
                flops += HEADS * (2 * (RANK + ROPE) + 2 * RANK)
            else:
                flops += HEADS * (2 * (NOPE + ROPE) + 2 * VALUE)
    if new > 1:  # the latents of the cached tokens pass the up-projection again
        flops += cached * 2 * RANK * HEADS * (NOPE + VALUE)
    work = attention_work(spec, "full", new, cached)
    assert work.flops == flops
    assert work.kv_written == (RANK + ROPE) * new
    assert work.kv_read == (RANK + ROPE) * {0: 0, 1: cached + 1}.get(new, cached)


def test_prefill_in_chunks_costs_what_one_prefill_costs() -> None:
    spec = model()
    whole = attention_work(spec, "full", 1000, 0).flops
    parts = attention_work(spec, "full", [300, 300, 400], [0, 300, 600]).flops
    assert parts.sum() == whole == 4 * HEADS * HEAD_DIM * 1000 * 1001 / 2


def test_sequences_are_vectorised_and_broadcast() -> None:
    spec = model(window=7, pattern=("local", "full"))
    new, cached = np.array([1, 1, 5, 0]), np.array([0, 50, 3, 9])
    together = attention_work(spec, "local", new, cached)
    for index in range(4):
        alone = attention_work(spec, "local", int(new[index]), int(cached[index]))
        assert together.flops[index] == alone.flops
        assert together.kv_read[index] == alone.kv_read
    assert attention_work(spec, "full", 1, cached).flops.shape == (4,)


def test_ten_million_tokens_do_not_overflow() -> None:
    tokens = 10_485_760
    work = attention_work(load_descriptor("models", "llama-4-scout"), "full", tokens, 0)
    assert work.flops == pytest.approx(4 * 40 * 128 * tokens * (tokens + 1) / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("deepseek-v3", 70_272),  # 61 layers x (512 + 64) x 2 bytes; "70.272 KB", arXiv 2505.09343, table 1
        ("qwen3-30b-a3b", 98_304),  # 48 layers x 2 x 4 heads x 128 x 2 bytes
        ("llama-3.1-70b", 327_680),  # 80 x 2 x 8 x 128 x 2, 320 KiB
        ("llama-2-7b", 524_288),  # 32 x 2 x 32 x 128 x 2, 0.5 MiB
        ("mixtral-8x7b", 131_072),  # 32 x 2 x 8 x 128 x 2
    ],
)
def test_kv_bytes_per_token_in_bf16(name: str, bytes_per_token: int) -> None:
    spec = load_descriptor("models", name)
    assert spec.layers * kv_elements_per_token(spec) * 2 == bytes_per_token


def test_local_layers_keep_their_window_or_chunk() -> None:
    windowed, chunked = load_descriptor("models", "gpt-oss-120b"), load_descriptor("models", "llama-4-scout")
    assert cached_span(windowed, "local", [5, 128, 5000]).tolist() == [5, 128, 128]
    assert cached_span(windowed, "full", 5000) == 5000
    assert cached_span(chunked, "local", [100, 9000]).tolist() == [100, 8192]
