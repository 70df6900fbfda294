"""Shared memory bandwidth: closed forms of max-min sharing, conservation, and the sweep as its limit."""

from dataclasses import replace

import numpy as np
import pytest
from engine_graphs import C, graph, step_graphs, with_demand
from hypothesis import given
from hypothesis import strategies as st

from moesim.engine.invariants import check_order, check_schedule
from moesim.engine.shared import fill, max_min
from moesim.engine.sweep import sweep
from moesim.step.graph import ABSENT, COMPUTE, NETWORK, PICOSECONDS, SIDE_COMPUTE, StepGraph


def beside(sizes: list[float], rates: list[float]) -> StepGraph:
    """Nodes that start together on the streams of one lane; `rates` are what they reach alone."""
    duration = [[round(size / rate * PICOSECONDS)] for size, rate in zip(sizes, rates, strict=True)]
    streams = [COMPUTE, SIDE_COMPUTE, NETWORK][: len(sizes)]
    demand, capacity = np.array(sizes)[:, None], np.array([C])
    return graph(duration, streams, [[]] * len(sizes), demand=demand, capacity=capacity)


def test_two_flows_on_one_link() -> None:
    """S1 <= S2 on one link of capacity C: t1 = 2 S1 / C, t2 = (S1 + S2) / C."""
    small, large = 3e6, 8e6
    finish = fill(beside([small, large], [C, C])).finish[:, 0] / PICOSECONDS
    assert finish == pytest.approx([2 * small / C, (small + large) / C], abs=1e-12)


def test_a_flow_that_is_slow_alone_leaves_the_rest_to_the_other() -> None:
    """Alone rates C/4 and C: shares C/4 and 3C/4, then all of C."""
    finish = fill(beside([1e6, 6e6], [C / 4, C])).finish[:, 0] / PICOSECONDS
    assert finish == pytest.approx([4e6 / C, 4e6 / C + (6e6 - 3e6) / C], abs=1e-12)


def test_nodes_that_move_nothing_do_not_slow_others_down() -> None:
    step = beside([4e6, 2e6, 0.0], [C, C / 2, C])
    step = replace(step, duration=np.array([[2_000_000], [2_000_000], [9_000_000]]))
    finish = fill(step).finish[:, 0]
    assert finish.tolist() == [3_000_000, 2_000_000, 9_000_000]


def test_max_min_shares() -> None:
    assert max_min([3.0, 3.0, 3.0], 6.0) == [2.0, 2.0, 2.0]
    assert max_min([9.0, 1.0, 4.0], 8.0) == [3.5, 1.0, 3.5]
    assert max_min([1.0, 2.0], 8.0) == [1.0, 2.0]
    assert max_min([], 8.0) == []


def test_a_node_that_starts_later_slows_down_what_runs() -> None:
    """Half of A alone, then A and B at half speed each, then the rest of B alone."""
    step = graph(
        [[1000], [500], [1000]],
        [COMPUTE, SIDE_COMPUTE, SIDE_COMPUTE],
        [[], [], [1]],
        demand=np.array([[C * 1e-9], [0.0], [C * 1e-9]]),
        capacity=np.array([C]),
    )
    schedule = fill(step)
    assert schedule.start[:, 0].tolist() == [0, 0, 500]
    assert schedule.finish[:, 0].tolist() == [1500, 500, 2000]


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=3), st.integers(1, 8))
def test_a_saturated_memory_moves_all_bytes_at_its_capacity(sizes: list[int], lanes: int) -> None:
    """Work conservation: however it is divided, the last byte arrives at sum of bytes / C."""
    step = beside([float(size) for size in sizes], [C] * len(sizes))
    wide = replace(
        graph(np.repeat(step.duration, lanes, axis=1), step.resource.tolist(), step.predecessors),
        demand=np.repeat(step.demand, lanes, axis=1),
        capacity=np.full(lanes, C),
    )
    finish = fill(wide).finish.max(axis=0)
    assert finish == pytest.approx(np.full(lanes, sum(sizes) / C * PICOSECONDS), abs=2 * len(sizes))


@given(step_graphs(), st.integers(0, 99))
def test_enough_bandwidth_for_all_is_the_sweep(step: StepGraph, seed: int) -> None:
    plain = sweep(step, kernel="numpy")
    for shared in (fill(step), fill(with_demand(step, seed, 1 / 3))):
        assert shared.start.tobytes() == plain.start.tobytes()
        assert shared.finish.tobytes() == plain.finish.tobytes()


@given(step_graphs(), st.integers(0, 99))
def test_sharing_never_beats_the_sweep_and_never_exceeds_the_memory(step: StepGraph, seed: int) -> None:
    step = with_demand(step, seed, 3.0)
    schedule = fill(step)
    check_schedule(step, schedule)
    check_order(step, schedule)
    assert (schedule.finish >= sweep(step, kernel="numpy").finish).all()
    moved = np.where(step.duration != ABSENT, step.demand, 0).sum(axis=0)
    assert (moved <= C * (schedule.makespan + step.rows) / PICOSECONDS).all()


@given(step_graphs(), st.integers(0, 99))
def test_one_stream_has_the_memory_for_itself(step: StepGraph, seed: int) -> None:
    step = with_demand(replace(step, resource=np.zeros(step.rows, dtype=np.int64)), seed, 9.0)
    assert fill(step).finish.tobytes() == sweep(step, kernel="numpy").finish.tobytes()
