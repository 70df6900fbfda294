"""Operation by operation: closed forms with ports and streams, and agreement with the plan where nothing is shared."""

from dataclasses import replace

import numpy as np
import pytest
from engine_graphs import graph, layered, longest_path, ports, step_graphs, transfer, with_demand
from hypothesis import given
from hypothesis import strategies as st

from moesim.engine.clock import Clock
from moesim.engine.fidelity import schedule
from moesim.engine.invariants import InvariantError, check_order, check_schedule
from moesim.engine.operations import execute, start
from moesim.engine.shared import fill
from moesim.engine.sweep import sweep
from moesim.fabric import collectives
from moesim.fabric.transfer import PortPhase, collective
from moesim.step.graph import ABSENT, COMPUTE, NETWORK, SIDE_COMPUTE, StepGraph


@given(step_graphs())
def test_computation_agrees_with_the_definition(step: StepGraph) -> None:
    executed = execute(step)
    start, finish = longest_path(step)
    assert executed.start.tolist() == start.tolist()
    assert executed.finish.tolist() == finish.tolist()


@given(step_graphs(collective_rows=True))
def test_collectives_agree_with_the_plan_where_each_row_has_its_ports_for_itself(step: StepGraph) -> None:
    """Collectives on one stream never meet at a port."""
    streams = step.resource.copy()
    streams[list(step.collectives)] = NETWORK
    step = replace(step, resource=streams)
    executed, plan = execute(step), sweep(step, kernel="numpy")
    assert executed.start.tolist() == plan.start.tolist()
    assert executed.finish.tolist() == plan.finish.tolist()
    check_schedule(step, executed)
    check_order(step, executed)


def test_layers_with_two_compute_streams() -> None:
    step = layered(5, 4)
    assert execute(step).finish.tolist() == sweep(step, kernel="numpy").finish.tolist()


def test_durations_of_collectives_are_not_read() -> None:
    moved = transfer("all_to_all", 5, 4, 2)
    step = graph([[1000] * 4, [7] * 4], [COMPUTE, NETWORK], [[], [0]], [False, True], [0, 1])
    step = replace(step, collectives={1: collective([range(4)], [moved])})
    assert execute(step).makespan == 1000 + int(moved.picoseconds)


def test_pipeline_of_sends() -> None:
    """Micro-batches through three stages; sends pair the lanes, the compute of the next micro-batch goes on beside."""
    took, size, stages, batches = 50_000_000, 1e6, 3, 4
    link = ports(2, 8)
    hop = int(collectives.send(size, link).picoseconds)
    duration, resource, predecessors, joint, partition, sends = [], [], [], [], [], {}
    partitions, sent = [[0, 1, 2], [0, 0, 2], [0, 1, 1]], {}
    wave = sorted(np.ndindex(batches, stages), key=lambda at: (at[0] + at[1], at[1]))  # receive first, then pass on
    for batch, stage in wave:
        duration.append([took if lane == stage else ABSENT for lane in range(stages)])
        resource.append(COMPUTE)
        predecessors.append([sent[batch, stage]] if stage else [])
        joint.append(False)
        partition.append(0)
        if stage < stages - 1:
            pair, row = (stage, stage + 1), len(duration)
            duration.append([hop if lane in pair else ABSENT for lane in range(stages)])
            resource.append(NETWORK)
            predecessors.append([row - 1])
            joint.append(True)
            partition.append(1 + stage)
            sends[row] = collective([pair], [collectives.send(size, link)])
            sent[batch, stage + 1] = row
    step = graph(duration, resource, predecessors, joint, partition, partitions, collectives=sends)
    executed = execute(step)
    assert executed.makespan == (batches + stages - 1) * took + (stages - 1) * hop
    assert executed.finish.tolist() == sweep(step, kernel="numpy").finish.tolist()


def test_two_collectives_at_once_queue_at_the_ports() -> None:
    """What the plan does not see: two all-to-alls on different streams of the same lanes take turns."""
    size = 4e6
    moved = collectives.all_to_all(np.full((2, 2), size), replace(ports(2, 2), overhead=0.0))
    both = collective([(0, 1)], [moved])
    took = [int(moved.picoseconds)] * 2
    step = graph([took, took], [SIDE_COMPUTE, NETWORK], [[], []], [True, True], [1, 1], collectives={0: both, 1: both})
    assert sweep(step, kernel="numpy").makespan == took[0]
    assert execute(step).makespan == 2 * took[0]


def test_a_step_on_the_clock_of_a_run_counts_from_its_start() -> None:
    clock, step = Clock(start=5_000), layered(2, 3)
    process = start(step, clock)
    clock.run()
    assert process.value.finish.tolist() == sweep(step, kernel="numpy").finish.tolist()
    assert clock.now == 5_000 + process.value.makespan


def test_a_collective_that_loses_bytes_is_refused() -> None:
    moved = transfer("all_reduce", 1, 2, 2)
    lossy = replace(moved, phases=tuple(replace(p, received=p.received / 2) for p in moved.phases))
    step = graph([[1, 1]], [NETWORK], [[]], [True], [1], collectives={0: collective([(0, 1)], [lossy])})
    with pytest.raises(InvariantError, match="all_reduce"):
        execute(step)


def test_a_step_that_waits_for_itself_is_stuck_and_says_so() -> None:
    """The first node on the stream waits for the second, which queues behind it."""
    step = graph([[1, 1], [1, 1]], [NETWORK, NETWORK], [[1], []])
    with pytest.raises(InvariantError, match="stuck"):
        execute(step)


def test_a_communicator_that_is_not_its_group_is_refused() -> None:
    step = graph([[1, 1, 1]], [NETWORK], [[]], [True], [1])
    pair = collective([(0, 1), (2,)], [transfer("all_reduce", 1, 2, 2), transfer("all_reduce", 1, 1, 2)])
    with pytest.raises(InvariantError, match="row0: no communicator is its group"):
        execute(replace(step, collectives={0: pair}))


def test_fidelities_agree_and_are_checked() -> None:
    step = layered(3, 4)
    assert schedule(step, "op").finish.tolist() == schedule(step, "plan").finish.tolist()
    shared = with_demand(step, 1, 3.0)
    assert schedule(shared, "plan").finish.tolist() == fill(shared).finish.tolist()
    moved = transfer("all_to_all", 5, 2, 2)
    wrong = graph([[int(moved.picoseconds) + 1] * 2], [NETWORK], [[]], [True], [1])
    with pytest.raises(InvariantError, match="less than its duration"):
        schedule(replace(wrong, collectives={0: collective([(0, 1)], [moved])}), "op")


@given(step_graphs(), st.integers(0, 99))
def test_shared_memory_agrees_with_progressive_filling(step: StepGraph, seed: int) -> None:
    """Two implementations of max-min sharing; each completion may be rounded differently by a picosecond."""
    step = with_demand(step, seed, 3.0)
    assert np.abs(execute(step).finish - fill(step).finish).max() <= step.rows * step.lanes


def test_latency_is_paid_by_an_empty_call() -> None:
    link = ports(2, 2)
    empty = collectives.all_to_all(np.zeros((2, 2)), link)
    step = graph([[0, 0]], [NETWORK], [[]], [True], [1], collectives={0: collective([(0, 1)], [empty])})
    assert execute(step).makespan == int(empty.picoseconds) == 3_000_000


def test_phases_side_by_side_take_as_long_as_the_longer_one() -> None:
    link = ports(4, 2)
    moved = np.full(4, 1e6)
    phases = (PortPhase("scale_up", 3, moved, moved), PortPhase("scale_out", 1, moved, moved, parallel=True))
    custom = replace(collectives.all_reduce(1.0, link), phases=phases)
    step = graph([[0] * 4], [NETWORK], [[]], [True], [1], collectives={0: collective([range(4)], [custom])})
    expected = 1e-6 + max(3 * (2e-6 + 1e6 / 100e9), 5e-6 + 1e6 / 25e9)
    assert execute(step).makespan / 1e12 == pytest.approx(expected) == int(custom.picoseconds) / 1e12
