"""Replay: the traced experts and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.routing import TokenSpans, TraceRouting
from moesim.routing.generator import TokenGenerator
from moesim.routing.trace import TokenTrace, write_trace
from moesim.spec.routing import RoutingProfile

LAYERS, EXPERTS, TOP_K, REQUESTS, TOKENS = 3, 16, 4, 5, 12


@pytest.fixture(scope="module")
def trace() -> TokenTrace:
    profile = RoutingProfile(name="test", zipf=0.5, correlation=0.2)
    return TokenGenerator(LAYERS, EXPERTS, TOP_K, profile, np.random.SeedSequence(3)).generate(REQUESTS, TOKENS)


@pytest.fixture(scope="module")
def path(trace: TokenTrace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "trace.parquet"
    # Ids that neither start at 0 nor follow one another.
    write_trace(path, TokenTrace(trace.request * 3 + 2, trace.position, trace.ids, EXPERTS))
    return path


def spans(*rows: tuple[int, int, int, int]) -> TokenSpans:
    """Rows of (source, request, position, tokens)."""
    return TokenSpans(*(np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)))


def counted(trace: TokenTrace, tokens: list[int]) -> np.ndarray:
    """Counts [layers, experts] of the trace's tokens, one at a time."""
    counts = np.zeros((LAYERS, EXPERTS), dtype=np.int64)
    for token in tokens:
        for layer in range(LAYERS):
            counts[layer, trace.ids[token, layer]] += 1
    return counts


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, REQUESTS - 1), st.integers(0, TOKENS - 1), st.integers(1, TOKENS)),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=40, deadline=None)
def test_tokens_go_to_their_traced_experts(
    trace: TokenTrace, path: Path, rows: list[tuple[int, int, int, int]]
) -> None:
    rows = [(source, request, position, min(tokens, TOKENS - position)) for source, request, position, tokens in rows]
    routing = TraceRouting(path, LAYERS, EXPERTS, TOP_K)
    given_ids = spans(*((source, request * 3 + 2, position, tokens) for source, request, position, tokens in rows))
    counts = routing.counts(given_ids, 3, np.random.default_rng(0))
    for rank in range(3):
        tokens = [
            request * TOKENS + position + i
            for source, request, position, length in rows
            if source == rank
            for i in range(length)
        ]
        assert (counts[:, rank] == counted(trace, tokens)).all()
    assert routing.wrapped_tokens == 0
    assert not routing.stateless


def test_a_chunk_is_its_tokens_one_by_one(path: Path) -> None:
    routing = TraceRouting(path, LAYERS, EXPERTS, TOP_K)
    rng = np.random.default_rng(0)
    whole = routing.counts(spans((0, 5, 2, 9)), 1, rng)
    assert (whole == sum(routing.counts(spans((0, 5, position, 1)), 1, rng) for position in range(2, 11))).all()


def test_positions_past_the_end_start_again(trace: TokenTrace, path: Path) -> None:
    routing = TraceRouting(path, LAYERS, EXPERTS, TOP_K)
    counts = routing.counts(spans((0, 2, TOKENS - 1, 3)), 1, np.random.default_rng(0))
    assert (counts[:, 0] == counted(trace, [TOKENS - 1, 0, 1])).all()
    assert routing.wrapped_tokens == 2


def test_requests_beyond_the_trace_take_others(trace: TokenTrace, path: Path) -> None:
    routing = TraceRouting(path, LAYERS, EXPERTS, TOP_K)
    counts = routing.counts(spans((0, 1000 * REQUESTS + 1, 4, 2)), 1, np.random.default_rng(0))
    assert (counts[:, 0] == counted(trace, [TOKENS + 4, TOKENS + 5])).all()
    assert routing.wrapped_tokens == 2


def test_dummy_tokens_are_routed_but_not_reported(trace: TokenTrace, path: Path) -> None:
    routing = TraceRouting(path, LAYERS, EXPERTS, TOP_K)
    counts = routing.counts(spans((1, -1, 0, 1), (0, 5, 3, 1)), 2, np.random.default_rng(0))
    assert (counts[:, 1] == counted(trace, [0])).all()
    assert routing.wrapped_tokens == 0


STEPS = {
    "step": [0, 0, 0, 0, 1, 1, 1],
    "source": [0, 0, 1, 1, 0, 0, 0],
    "layer": [0] * 7,
    "expert": [0, 1, 2, 3, 0, 1, 2],
    "count": [3, 3, 1, 1, 10, 6, 4],
}


def steps(folder: Path, source: bool = True) -> Path:
    columns = pd.DataFrame(STEPS) if source else pd.DataFrame(STEPS).drop(columns="source")
    columns.to_parquet(folder / "steps.parquet")
    return folder / "steps.parquet"


def test_steps_are_replayed_in_turn(tmp_path: Path) -> None:
    routing = TraceRouting(steps(tmp_path), 1, 4, 2)
    rng = np.random.default_rng(0)
    for _ in range(2):
        assert routing.counts(spans((0, 7, 0, 3), (1, 8, 5, 1)), 2, rng).tolist() == [[[3, 3, 0, 0], [0, 0, 1, 1]]]
        assert routing.counts(spans((0, 7, 3, 10)), 2, rng).tolist() == [[[10, 6, 4, 0], [0, 0, 0, 0]]]
    assert routing.rescaled_steps == 0


def test_steps_of_other_sizes_are_scaled(tmp_path: Path) -> None:
    routing = TraceRouting(steps(tmp_path), 1, 4, 2)
    rng = np.random.default_rng(0)
    assert routing.counts(spans((0, 7, 0, 300), (1, 8, 5, 2)), 2, rng).tolist() == [[[300, 300, 0, 0], [0, 0, 2, 2]]]
    assert routing.counts(spans((0, 7, 3, 5), (1, 8, 0, 50)), 2, rng).tolist() == [[[5, 3, 2, 0], [50, 30, 20, 0]]]
    assert routing.rescaled_steps == 2


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_scaled_steps_lose_no_token(tmp_path_factory: pytest.TempPathFactory, tokens: list[int]) -> None:
    routing = TraceRouting(steps(tmp_path_factory.mktemp("steps"), source=False), 1, 4, 2)
    rows = spans(*((rank, rank, 0, n) for rank, n in enumerate(tokens)))
    for _ in range(2):
        counts = routing.counts(rows, len(tokens), np.random.default_rng(1))
        assert (counts.sum(axis=2) == 2 * np.array(tokens)).all()
        assert (counts <= np.array(tokens)[None, :, None]).all()
