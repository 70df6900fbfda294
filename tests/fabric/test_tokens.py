"""Copies of tokens: counted where experts are known, expected where only counts are."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.fabric.tokens import ExactTokens, ExpectedTokens


def owners(experts: int, ranks: int) -> np.ndarray:
    return np.arange(experts) * ranks // experts


def even(experts: int, ranks: int, tokens: int, top_k: int, **limits: object) -> ExpectedTokens:
    counts = np.full((ranks, experts), tokens * top_k / experts)
    return ExpectedTokens(counts, owners(experts, ranks), ranks, top_k, **limits)  # type: ignore[arg-type]


def each(ranks: int) -> np.ndarray:
    return np.eye(ranks, dtype=bool)


@pytest.mark.parametrize(("experts", "top_k", "published"), [(128, 8, 6.60), (64, 8, 6.75), (64, 6, 5.32)])
def test_chiplets_that_a_token_visits(experts: int, top_k: int, published: float) -> None:
    """16 chiplets, experts laid out at random: Qwen3, OLMoE and DeepSeek-MoE in Mozart (arXiv 2603.07006), whose own
    layouts give 6.58, 6.84 and 5.56."""
    tokens = even(experts, 16, 1, top_k)
    visited = tokens.visits(each(16)).sum(axis=-1)
    assert visited == pytest.approx(np.full(16, 16 * (1 - comb(experts - experts // 16, top_k) / comb(experts, top_k))))
    assert visited[0] == pytest.approx(published, abs=0.005)


def test_sets_of_ranks() -> None:
    tokens = even(256, 32, 10, 8)
    nodes = np.arange(32)[None, :] // 8 == np.arange(4)[:, None]
    assert tokens.visits(nodes)[0] == pytest.approx(np.full(4, 10 * (1 - comb(192, 8) / comb(256, 8))))
    assert tokens.visits(np.ones((1, 32), dtype=bool))[:, 0] == pytest.approx(np.full(32, 10.0))
    assert tokens.copies.sum(axis=-1) == pytest.approx(np.full(32, 80.0))


def test_node_limited_routing() -> None:
    """DeepSeek-V3: 8 groups of 32 experts, at most 4 of them per token."""
    groups = np.arange(64) // 8
    tokens = even(256, 64, 1, 8, group=groups, limit=4)
    nodes = groups[None, :] == np.arange(8)[:, None]
    reached = 4 * (1 - comb(96, 8) / comb(128, 8))
    assert tokens.visits(nodes).sum(axis=-1) == pytest.approx(np.full(64, reached))
    assert reached < even(256, 64, 1, 8).visits(nodes).sum(axis=-1)[0]
    devices = 32 * (1 - comb(124, 8) / comb(128, 8))
    assert tokens.visits(each(64)).sum(axis=-1) == pytest.approx(np.full(64, devices))


def test_experts_that_all_choose_or_none() -> None:
    """One expert of 8 is taken by every token, one by none; the others share the second choice."""
    counts = np.full((4, 8), 100 / 6)
    counts[:, 0], counts[:, 5] = 100, 0
    tokens = ExpectedTokens(counts, np.arange(8) // 2, 4, 2)
    visits = tokens.visits(each(4))
    assert visits[0, 0] == pytest.approx(100)
    assert (visits[:, 1:] <= tokens.copies[:, 1:] + 1e-9).all()
    assert visits[0, 2] == pytest.approx(100 / 6, rel=0.03)  # its second expert is never chosen


def drawn(seed: int, experts: int, top_k: int, count: int, ranks: int, skew: float) -> ExactTokens:
    draw = np.random.default_rng(seed)
    weight = np.exp(skew * draw.normal(size=experts))
    keys = draw.exponential(size=(count, experts)) / weight
    chosen = np.argsort(keys, axis=1)[:, :top_k]
    return ExactTokens(chosen, np.arange(count) % ranks, owners(experts, ranks), ranks)


@pytest.mark.parametrize(("skew", "within"), [(0.0, 0.01), (0.5, 0.015), (1.5, 0.04)])
def test_expectations_meet_what_is_drawn(skew: float, within: float) -> None:
    """20,000 tokens, 8 of 64 experts without replacement, on 16 ranks; visits of ranks and of groups of four."""
    draw = np.random.default_rng(7)
    weight = np.exp(skew * draw.normal(size=64))
    chosen = np.argsort(draw.exponential(size=(20_000, 64)) / weight, axis=1)[:, :8]
    source = np.arange(20_000) % 16
    exact = ExactTokens(chosen, source, owners(64, 16), 16)
    counts = np.zeros((16, 64))
    np.add.at(counts, (source[:, None], chosen), 1)
    expected = ExpectedTokens(counts, owners(64, 16), 16, 8)
    assert expected.copies == pytest.approx(exact.copies)
    for sets in (each(16), np.arange(16)[None, :] // 4 == np.arange(4)[:, None]):
        measured, found = exact.visits(sets).sum(axis=0), expected.visits(sets).sum(axis=0)
        assert found == pytest.approx(measured, rel=within)


@given(st.integers(0, 99), st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_visits_lie_between_their_bounds(seed: int, top_k: int, ranks: int) -> None:
    exact = drawn(seed, 8, top_k, 40, ranks, 1.0)
    counts = np.random.default_rng(seed).integers(0, 9, (3, ranks, 8)).astype(float)
    expected = ExpectedTokens(counts, owners(8, ranks), ranks, top_k, group=np.arange(ranks), limit=1 + seed % ranks)
    for tokens in (exact, expected):
        visits = tokens.visits(each(ranks))
        held = tokens.copies.sum(axis=-1, keepdims=True) / top_k
        assert (visits <= tokens.copies + 1e-9).all()
        assert (visits <= held + 1e-9).all()
        assert (visits >= tokens.copies / top_k - 1e-9).all() or tokens is expected
    assert exact.visits(np.ones((1, ranks), dtype=bool)).sum() == 40


def test_layers_with_their_own_placement() -> None:
    counts = np.random.default_rng(0).integers(0, 50, (3, 4, 8)).astype(float)
    owner = np.stack([np.arange(8) // 2, np.arange(8) % 4, np.arange(8)[::-1] // 2])
    together = ExpectedTokens(counts, owner, 4, 2)
    for layer in range(3):
        alone = ExpectedTokens(counts[layer], owner[layer], 4, 2)
        assert together.visits(each(4))[layer] == pytest.approx(alone.visits(each(4)))


def test_a_root_device_multicasts_to_its_switches() -> None:
    """From the root of a NoP tree, one message per token and switch with any of its experts behind; sums come back so.
    A switch's link carries 1 - C(48, 8) / C(64, 8) of the tokens, a leaf's 1 - C(60, 8) / C(64, 8)."""
    from math import comb

    from moesim.fabric.dispatch import combine, dispatch
    from moesim.fabric.machines import machine_fabric
    from moesim.hardware.machine import assemble
    from moesim.spec.loading import load_system

    group = machine_fabric(assemble(*load_system("mozart-package"))).ports(range(17))
    counts = np.zeros((17, 64))
    counts[0] = 1000 * 8 / 64
    tokens = ExpectedTokens(counts, 1 + np.arange(64) // 4, 17, 8)
    links = {}
    for way, moves in (("down", dispatch), ("up", combine)):
        phase = moves(tokens, 1.0, group, "in-network").phases[0]
        links[way] = sorted(phase.load[phase.load > 0].round(6).tolist())  # type: ignore[attr-defined]
    behind = [1000 * (1 - comb(48, 8) / comb(64, 8)), 1000 * (1 - comb(60, 8) / comb(64, 8))]
    expected = pytest.approx([behind[1]] * 16 + [behind[0]] * 4, rel=1e-9)
    assert links["down"] == expected
    assert links["up"] == expected
