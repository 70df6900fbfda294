"""The sweep against the definition node by node, closed forms of pipelines, and its two kernels against each other."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from engine_graphs import graph, layered, longest_path, step_graphs
from hypothesis import given
from hypothesis import strategies as st

from moesim import accelerate
from moesim.engine.analysis import busy, critical_path
from moesim.engine.invariants import InvariantError, check_order, check_schedule
from moesim.engine.sweep import Sweep, sweep
from moesim.engine.topology import Topology
from moesim.step.graph import ABSENT, COMPUTE, NETWORK, SIDE_COMPUTE, StepGraph

KERNELS = ["numpy", pytest.param("numba", marks=pytest.mark.skipif(not accelerate.HAVE_NUMBA, reason="no numba"))]


def pipeline(stages: int, microbatches: int, took: int) -> StepGraph:
    """Row (microbatch m, stage s) runs on lane s alone, after stage s-1 of the same micro-batch."""
    rows = [(m, s) for m in range(microbatches) for s in range(stages)]
    duration = np.full((len(rows), stages), ABSENT)
    for row, (_, s) in enumerate(rows):
        duration[row, s] = took
    predecessors = [[row - 1] if s else [] for row, (_, s) in enumerate(rows)]
    return graph(duration, [COMPUTE] * len(rows), predecessors, partition=[1] * len(rows))


@pytest.mark.parametrize("kernel", KERNELS)
def test_pipeline_of_equal_stages(kernel: str) -> None:
    """GPipe: (micro-batches + stages - 1) x stage time."""
    schedule = sweep(pipeline(4, 7, 1000), kernel=kernel)
    assert schedule.makespan == (7 + 4 - 1) * 1000


@pytest.mark.parametrize("kernel", KERNELS)
def test_overlap_of_two_streams_and_a_collective(kernel: str) -> None:
    """Lane 0: 5 | all-to-all from 8 (lane 1 arrives at 8), 4 | experts 3 beside shared 10 | combine after both."""
    step = graph(
        [[5, 8], [4, 4], [3, 2], [10, 1], [2, 2]],
        [COMPUTE, NETWORK, COMPUTE, SIDE_COMPUTE, NETWORK],
        [[], [0], [1], [0], [2, 3]],
        [False, True, False, False, True],
        [0, 1, 0, 0, 1],
    )
    schedule = sweep(step, kernel=kernel)
    assert schedule.start.tolist() == [[0, 0], [8, 8], [12, 12], [5, 8], [15, 15]]
    assert schedule.makespan == 17
    assert busy(step, schedule)[[COMPUTE, SIDE_COMPUTE, NETWORK]].tolist() == [[8, 10], [10, 1], [6, 6]]
    assert critical_path(step, schedule) == [(0, 0), (3, 0), (4, 0)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_start_and_free_times_delay_what_uses_them(kernel: str) -> None:
    step = graph([[5, 5], [7, 7]], [COMPUTE, NETWORK], [[], []])
    free = np.zeros((3, 2), dtype=np.int64)
    free[NETWORK, 1] = 100
    schedule = sweep(step, np.array([10, 20]), free, kernel=kernel)
    assert schedule.start.tolist() == [[10, 20], [10, 100]]
    check_schedule(step, schedule, free)


def test_blocks_end_where_all_lanes_meet() -> None:
    """With one stream the layers end in the combine; the shared expert also blocks the dispatch of its own layer."""
    topology = Topology(layered(6, 4, side=False))
    assert [block.last for block in topology.blocks] == [2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30]
    beside = Topology(layered(6, 4, side=True))  # the shared expert runs beside the dispatch: no barrier there
    assert [block.last for block in beside.blocks] == [5, 10, 15, 20, 25, 30]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("side", [True, False])
def test_layers_swept_side_by_side_are_those_swept_one_by_one(kernel: str, side: bool) -> None:
    step = layered(7, 5, side=side)
    free = np.random.default_rng(3).integers(0, 3000, (3, 5))
    for released in (None, free, free * 100):  # the last outlives the first layers: no barrier there
        schedule = sweep(step, free=released, kernel=kernel)
        start, finish = longest_path(step, free=released)
        assert np.array_equal(schedule.start, start)
        assert np.array_equal(schedule.finish, finish)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_collective_that_ends_unevenly_is_no_barrier(kernel: str) -> None:
    step = layered(5, 3)
    step.duration[4, 1] += 1234
    assert np.array_equal(sweep(step, kernel=kernel).start, longest_path(step)[0])


@given(step_graphs(), st.integers(0, 99), st.booleans())
def test_every_kernel_is_the_definition(step: StepGraph, seed: int, released: bool) -> None:
    draw = np.random.default_rng(seed)
    start = draw.integers(0, 1_000_000, step.lanes) if released else None
    free = draw.integers(0, 1_000_000, (3, step.lanes)) if released else None
    begun, ended = longest_path(step, start, free)
    for kernel in ["numpy", "numba"] if accelerate.HAVE_NUMBA else ["numpy"]:
        schedule = sweep(step, start, free, kernel)
        assert schedule.start.tobytes() == begun.tobytes()
        assert schedule.finish.tobytes() == ended.tobytes()
    check_schedule(step, schedule, free)
    check_order(step, schedule)


@given(step_graphs(), st.integers(0, 11), st.integers(1, 10**6))
def test_longer_nodes_never_shorten_a_step(step: StepGraph, row: int, more: int) -> None:
    longer = step.duration.copy()
    row %= step.rows
    longer[row] += np.where(longer[row] != ABSENT, more, 0)
    changed = sweep(replace(step, duration=longer), kernel="numpy")
    assert (changed.finish >= sweep(step, kernel="numpy").finish).all()


@given(step_graphs())
def test_the_critical_path_fills_the_step(step: StepGraph) -> None:
    """From the step's start to its end without a gap."""
    schedule = sweep(step, kernel="numpy")
    path = critical_path(step, schedule)
    if not path:
        assert (step.duration == ABSENT).all()
        return
    assert sum(int(step.duration[node]) for node in path) == schedule.makespan == schedule.finish[path[-1]]
    for before, after in pairwise(path):
        assert schedule.finish[before] == schedule.start[after]


def test_shapes_are_recognised_by_what_they_share() -> None:
    step = layered(3, 4)
    topology = Sweep(step).topology
    assert topology.fits(replace(step, duration=step.duration + 5))
    fewer = step.duration.copy()
    fewer[0, 0] = ABSENT
    assert not topology.fits(replace(step, duration=fewer))
    assert not topology.fits(layered(3, 4))
    assert np.array_equal(sweep(replace(step, duration=fewer), kernel="numpy").start[0], [ABSENT, 0, 0, 0])


def test_a_false_schedule_is_noticed() -> None:
    step = layered(2, 3)
    schedule = sweep(step, kernel="numpy")
    with pytest.raises(InvariantError, match="less than its duration"):
        check_schedule(step, replace(schedule, finish=schedule.finish - 1))
    with pytest.raises(InvariantError, match="did not run"):
        check_schedule(step, replace(schedule, finish=np.where(schedule.start < 5, ABSENT, schedule.finish)))
    with pytest.raises(InvariantError, match="busy"):
        check_schedule(
            step,
            replace(
                schedule, finish=np.minimum(schedule.start, 10) + step.duration, start=np.minimum(schedule.start, 10)
            ),
        )
    with pytest.raises(InvariantError, match="before its input"):
        check_order(step, replace(schedule, start=np.maximum(schedule.start - 1, 0)))
