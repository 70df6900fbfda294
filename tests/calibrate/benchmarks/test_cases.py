from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from moesim.calibrate.benchmarks.cases import (
    COLUMNS,
    LONGEST,
    balanced,
    head_shapes,
    operators_of,
    plan,
    row_features,
    row_kernel,
    shuffled,
)
from moesim.calibrate.benchmarks.steps import fitting_layers, step_cases
from moesim.calibrate.benchmarks.transfers import memcpy_cases
from moesim.hardware.device import Device, make_device
from moesim.spec.loading import load_descriptor
from moesim.spec.model import ModelSpec


@pytest.fixture(scope="module")
def models() -> list[ModelSpec]:
    return [load_descriptor("models", name) for name in ("olmoe-1b-7b", "qwen3-8b")]


def device(name: str) -> Device:
    return make_device(load_descriptor("devices", name), index=0, name=name, node=0)


def test_every_product_of_the_models_is_planned(models: list[ModelSpec]) -> None:
    """OLMoE: fused projection 6144 x 2048, output 2048 x 2048, router 64 x 2048, head; Qwen3-8B: gate and up 24576."""
    pairs = {(case.size("n"), case.size("k")) for case in plan(models, device("h100-sxm"), "bf16", ["gemm"])["gemm"]}
    assert {(6144, 2048), (2048, 2048), (64, 2048), (50304, 2048), (6144, 4096), (24576, 4096), (4096, 12288)} <= pairs
    assert len(pairs) > 40


def test_experts_and_heads_are_those_of_the_models_with_others_around(models: list[ModelSpec]) -> None:
    found = plan(models, device("h100-sxm"), "bf16", ["moe"])["moe"]
    shapes = {case.sizes[1:5] for case in found}
    assert (2048, 1024, 64, 8) in shapes
    assert len(shapes) >= 8
    assert {(16, 16, 128), (32, 8, 128), (16, 4, 128)} <= set(head_shapes(models))


def test_nothing_is_planned_that_takes_too_long_or_fills_the_memory(models: list[ModelSpec]) -> None:
    small = device("xeon-amx-core")
    for table, cases in plan(models, small, "bf16", COLUMNS).items():
        assert cases, table
        for case in cases:
            assert case.work[0] / small.peak("bf16") <= LONGEST
            assert case.work[1] / small.memory.bandwidth <= LONGEST


def test_a_larger_device_gets_larger_cases(models: list[ModelSpec]) -> None:
    small, large = (plan(models, device(name), "bf16", ["gemm"])["gemm"] for name in ("xeon-amx-core", "h100-sxm"))
    assert set(small) < set(large)
    assert max(case.work[0] for case in large) > 10 * max(case.work[0] for case in small)


def test_the_order_depends_on_the_cases_alone_and_its_beginning_is_a_fair_sample(models: list[ModelSpec]) -> None:
    cases = plan(models, device("h100-sxm"), "bf16", ["gemm"])["gemm"]
    assert shuffled(reversed(cases)) == cases
    assert len(set(cases)) == len(cases)
    rows = Counter(case.size("m") for case in cases[: len(cases) // 8])
    everywhere = Counter(case.size("m") for case in cases)
    assert set(rows) == set(everywhere)


@pytest.mark.parametrize(("tokens", "touched", "largest"), [(1, 8, 1), (2, 16, 1), (4, 32, 1), (8, 64, 1), (64, 64, 8)])
def test_balanced_tokens_touch_as_many_experts_as_they_can(tokens: int, touched: int, largest: int) -> None:
    counts = np.bincount(balanced(tokens, 64, 8).ravel(), minlength=64)
    assert ((counts > 0).sum(), counts.max(), counts.sum()) == (touched, largest, tokens * 8)


def test_rows_have_the_features_of_their_operators(models: list[ModelSpec]) -> None:
    """OLMoE: hidden 2048, queries and keys 4096 together; vocabulary 50304."""
    named = {operator.name: operator for operator in operators_of(models[0])}
    found = {name: (row_kernel(operator), row_features(operator)) for name, operator in named.items()}
    assert found["attention_norm"] == ("add_norm", 2048)
    assert found["final_norm"] == ("add_norm", 2048)
    assert found["qk_norm"] == ("qk_norm", 4096)
    assert found["rope"] == ("rope", 4096)
    assert found["embedding"] == ("embedding", 2048)
    assert found["sampling"] == ("sampling", 50304)
    assert {row_kernel(named[name]) for name in ("qkv", "router", "experts", "attention")} == {None}


def test_models_that_do_not_fit_are_measured_in_part(models: list[ModelSpec]) -> None:
    """Of OLMoE's 16 layers, 838.9 MB each in bf16, and 412 MB around them, 60 % of 12 GB hold 8; of 80 GB all."""
    assert fitting_layers(models[0], device("xeon-amx-core"), "bf16") == 8
    assert fitting_layers(models[0], device("h100-sxm"), "bf16") == 16
    parts = {(case.label("model"), case.label("part")) for case in step_cases(models, device("h100-sxm"), "bf16")}
    assert parts == {
        ("olmoe-1b-7b", "moe layer"), ("olmoe-1b-7b", "model"), ("qwen3-8b", "dense layer"), ("qwen3-8b", "model"),
    }  # fmt: skip


def test_host_memory_is_copied_pageable_and_pinned_where_there_is_a_gpu() -> None:
    ways = {(case.kernel, case.variant) for case in memcpy_cases("cuda")}
    assert {("host_to_device", "pinned"), ("device_to_host", "pageable"), ("device_to_device", "")} <= ways
    assert {case.kernel for case in memcpy_cases("cpu")} == {"host_to_host"}
