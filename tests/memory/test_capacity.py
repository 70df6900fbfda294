"""Footprints against what vLLM logged and measured on real devices, and the message when nothing fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.hardware.device import Device, make_device
from moesim.memory.capacity import activation_bytes, footprint, kv_blocks, workspace_bytes
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import DtypeSpec
from moesim.spec.hardware import DeviceSpec
from moesim.spec.loading import load_descriptor
from moesim.spec.model import AttentionSpec, ModelSpec, MoeSpec
from moesim.spec.serving import EngineSpec

GIB = 2**30
BF16 = DtypeSpec()
ENGINE = EngineSpec(name="test")

LLAMA = ModelSpec(
    name="llama-3.1-8b", layers=32, hidden=4096, vocabulary=128256, context=131072, dense_width=14336,
    attention=AttentionSpec(heads=32, kv_heads=8, head_dim=128),
)  # fmt: skip
LLAMA_WEIGHTS = 8_030_261_248 * 2.0
LLAMA_KV = 2 * 32 * 8 * 128 * 2.0

QWEN = ModelSpec(
    name="qwen3-30b-a3b", layers=48, hidden=2048, vocabulary=151936, context=40960,
    attention=AttentionSpec(heads=32, kv_heads=4, head_dim=128),
    moe=MoeSpec(experts=128, top_k=8, width=768),
)  # fmt: skip


def device(capacity: str, kind: str = "gpu") -> Device:
    spec = DeviceSpec.model_validate(
        {
            "name": "test-device",
            "kind": kind,
            "family": "hopper",
            "compute": {"bf16": "100 TFLOP/s"},
            "memory": [{"tier": "hbm", "capacity": capacity, "bandwidth": "1 TB/s"}],
        }
    )
    return make_device(spec, index=0, name="test", node=0)


def of_the_library(name: str) -> Device:
    return make_device(load_descriptor("devices", name), index=0, name="test", node=0)


def test_kv_blocks_of_vllm_on_an_rtx_4090() -> None:
    """vLLM 0.19, Llama-3.1-8B in bf16, 24 GiB, utilisation 0.9, 2,048 tokens and 256 sequences: 2,588 blocks of 16."""
    found = footprint(LLAMA, ENGINE, of_the_library("rtx4090"), LLAMA_WEIGHTS, LLAMA_KV, 1, BF16)
    assert found.blocks == pytest.approx(2588, rel=0.02)
    assert found.kv == found.blocks * 16 * LLAMA_KV


def test_kv_cache_that_vllm_logged_on_an_h100() -> None:
    """Llama-3.1-8B on an H100 with 80 GiB: 54.93 GiB for the KV cache."""
    found = footprint(LLAMA, ENGINE, of_the_library("h100-sxm"), LLAMA_WEIGHTS, LLAMA_KV, 1, BF16)
    assert found.kv / GIB == pytest.approx(54.93, rel=0.01)


@pytest.mark.parametrize(
    ("model", "budget", "sequences", "measured"),
    [(LLAMA, 2048, 256, 1.19), (LLAMA, 8192, 256, 1.26), (QWEN, 2048, 8, 0.12)],
)
def test_peak_activations_that_vllm_logged(model: ModelSpec, budget: int, sequences: int, measured: float) -> None:
    engine = EngineSpec(name="test", token_budget=budget, max_sequences=sequences)
    assert activation_bytes(model, engine, BF16, 1) / GIB == pytest.approx(measured, rel=0.2)


def test_sampling_of_few_sequences_leaves_the_feed_forward_as_the_peak() -> None:
    engine = EngineSpec(name="test", token_budget=1000, max_sequences=1)
    # Residual stream and hidden states, and gate, up and their product, of 1,000 tokens in two bytes.
    assert activation_bytes(LLAMA, engine, BF16, 1) == 1000 * 2 * (2 * 4096 + 3 * 14336)
    assert activation_bytes(LLAMA, engine, BF16, 4) == 1000 * 2 * (2 * 4096 + 3 * 14336 / 4)


def test_expert_parallel_ranks_hold_the_tokens_of_all() -> None:
    engine = EngineSpec(name="test", token_budget=1000, max_sequences=1)
    # Of 4,000 gathered tokens: 8 rows each of the output's width (2,048, wider than gate and up) and the product's.
    expected = 2 * (1000 * 2 * 2048 + 4000 * 8 * (2048 + 768) + 2 * 4000 * 2048)
    assert activation_bytes(QWEN, engine, BF16, 1, dp=4, expert_ranks=4) == expected


def test_unchunked_prefill_holds_a_whole_context() -> None:
    engine = EngineSpec(name="test", max_sequences=1, chunked_prefill=False)
    assert activation_bytes(LLAMA, engine, BF16, 1) == 131072 * 2 * (2 * 4096 + 3 * 14336)


def test_communication_and_size_cost_workspace() -> None:
    one, two = workspace_bytes(device("80 GiB"), 1), workspace_bytes(device("80 GiB"), 2)
    assert one / GIB == pytest.approx(0.95)
    assert 0.1 * GIB < two - one < 0.4 * GIB
    assert workspace_bytes(device("1 GB", kind="pim"), 2) == 0.01e9


def test_exact_count_of_blocks() -> None:
    # 1,000 bytes at 0.9, less 300, 100 and 50: 450 left for blocks of 16 tokens of 2 bytes.
    assert kv_blocks(1000, ENGINE, 300, 100, 50, 2) == 14
    assert kv_blocks(1000, ENGINE, 300, 100, 50, 450 / 16) == 1


@pytest.mark.parametrize(("share", "blocks"), [("total", 14), ("static", 17), ("free", 15)])
def test_what_the_share_is_one_of(share: str, blocks: int) -> None:
    """Blocks of 32 bytes. total: 0.9 x 1,000 - 450. static: 0.9 x 1,000 - 300 = 600, but 100 and 50 need more than the
    100 outside the share, and 550 are free. free: 0.9 x (1,000 - 450) = 495."""
    engine = EngineSpec(name="test", memory_share=share)
    assert kv_blocks(1000, engine, 300, 100, 50, 2) == blocks


def test_as_many_blocks_as_told() -> None:
    assert kv_blocks(1000, EngineSpec(name="test", kv_blocks=17), 300, 100, 50, 2) == 17
    with pytest.raises(MoesimError, match=r"18 KV blocks .* there are"):
        kv_blocks(1000, EngineSpec(name="test", kv_blocks=18), 300, 100, 50, 2)


def test_what_does_not_fit_says_what_is_needed() -> None:
    with pytest.raises(MoesimError) as error:
        footprint(LLAMA, ENGINE, device("16 GiB"), LLAMA_WEIGHTS, LLAMA_KV, 1, BF16)
    message = str(error.value)
    assert "\n" not in message
    parts = ("llama-3.1-8b on test-device does not fit", "weights 15.0 GiB", "16.0 GiB is 14.4 GiB", "more devices")
    for part in parts:
        assert part in message


@given(
    capacity=st.floats(1e9, 1e12), utilisation=st.floats(0.1, 1), weights=st.floats(0, 1e12),
    activations=st.floats(0, 1e10), workspace=st.floats(0, 1e10), per_token=st.floats(100, 1e6),
    block_size=st.integers(1, 512),
)  # fmt: skip
def test_blocks_fill_the_share_and_never_exceed_it(
    capacity: float, utilisation: float, weights: float, activations: float, workspace: float, per_token: float,
    block_size: int,
) -> None:  # fmt: skip
    rest = weights + activations + workspace
    try:
        engine = EngineSpec(name="test", memory_utilization=utilisation, block_size=block_size)
        blocks = kv_blocks(capacity, engine, weights, activations, workspace, per_token)
    except MoesimError:
        assert rest + per_token * block_size > capacity * utilisation * (1 - 1e-9)
        return
    assert blocks >= 1
    assert rest + blocks * per_token * block_size <= capacity * utilisation * (1 + 1e-9)
    assert rest + (blocks + 1) * per_token * block_size > capacity * utilisation * (1 - 1e-9)
