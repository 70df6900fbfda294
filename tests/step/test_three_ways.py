"""How long a step takes, said three ways: the sum of the slowest parts (pricing), the max-plus sweep of the compiled
graph (plan), and streams, ports and meetings operation by operation (op). They agree to the picosecond."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import stepping
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stepping import ALL_TO_ALL, BATCHES, MACHINES, document

from moesim.engine.fidelity import schedule
from moesim.engine.invariants import check_order
from moesim.step.graph import ABSENT, PICOSECONDS, SIDE_COMPUTE


@pytest.fixture(scope="module")
def pricers():
    """Built on first use, one per machine."""
    known = {}

    def get(name):
        if name not in known:
            tree, layers = MACHINES[name]
            known[name] = stepping.pricer(tree, f"model.layers={layers}")
        return known[name]

    return get


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("name", MACHINES)
def test_pricing_plan_and_op_agree(pricers, name, kind):
    pricer = pricers(name)
    block = pricer.price(stepping.batch(pricer.layout.dp, seed=len(name), **BATCHES[kind]))
    graph, plan, op = stepping.executed(pricer, block)
    assert int(block.stages.sum()) == plan.makespan == op.makespan
    np.testing.assert_array_equal(plan.start, op.start)
    np.testing.assert_array_equal(plan.finish, op.finish)
    # Stage by stage as well: what a stage takes ends with the last of its lanes.
    lanes = pricer.layout.stage_lanes
    ends = [int(plan.finish[:, p * lanes : (p + 1) * lanes].max()) for p in range(pricer.layout.pp)]
    assert np.cumsum(block.stages[:, 0]).tolist() == ends
    check_order(graph, plan)


@given(
    name=st.sampled_from(sorted(MACHINES)), decodes=st.integers(0, 60), chunks=st.integers(0, 5),
    idle=st.integers(0, 3), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_batch(pricers, name, decodes, chunks, idle, seed):
    pricer = pricers(name)
    if not decodes + chunks:
        decodes = 1
    block = pricer.price(stepping.batch(pricer.layout.dp, decodes, chunks, seed, idle, step=seed % 1000))
    _, plan, op = stepping.executed(pricer, block)
    assert int(block.stages.sum()) == plan.makespan == op.makespan
    np.testing.assert_array_equal(plan.finish, op.finish)


def test_groups_beside_each_other_share_links_in_op_alone():
    """On a torus the transfers of two groups cross; the bound looks at each group by itself and is never slower."""
    tree = document("qwen3-30b-a3b", {}, parallelism={"pp": 2, "tp": 2, "dp": 2, "ep": 4})
    pricer = stepping.pricer(tree | {"machine": {"extends": "tpu-v5p-64"}}, "model.layers=4")
    block = pricer.price(stepping.batch(2, **BATCHES["prefill"]))
    _, plan, op = stepping.executed(pricer, block)
    assert int(block.stages.sum()) == plan.makespan < op.makespan


def test_a_whole_model(pricers):
    """All 48 layers of the quickstart's model and machine."""
    tree = document("qwen3-30b-a3b", {"rtx-pro-6000": 2}, "pcie5-host", parallelism={"dp": 2, "ep": 2})
    pricer = stepping.pricer(tree)
    block = pricer.price(stepping.batch(2, **BATCHES["mixed"]))
    graph, plan, op = stepping.executed(pricer, block)
    assert len(set(graph.layer.tolist())) == 49
    assert int(block.stages.sum()) == plan.makespan == op.makespan


@pytest.mark.parametrize("name", ["dense, TP 4", "GQA, DP 4, EP 4, all-gather", "PP 2, DP 2, EP 2",
                                  "sliding window, TP 2, DP 2, EP 4", "MLA, TP 2, DP 2, EP 2, all-to-all"])  # fmt: skip
def test_a_block_is_its_steps_one_by_one(pricers, name):
    """Twelve decode steps priced at once, sequences leaving on the way, are the twelve steps priced alone."""
    pricer = pricers(name)
    whole = stepping.batch(pricer.layout.dp, 9, 0, seed=4)
    left = np.array([3, 12, 1, 12, 7, 5, 5, 20, 2])
    block = pricer.price(replace(whole, left=left, steps=12))
    for step in range(12):
        stays = left > step
        alone = replace(
            whole, rank=whole.rank[stays], request=whole.request[stays], context=whole.context[stays] + step,
            left=left[stays] - step, first_step=whole.first_step + step,
        )  # fmt: skip
        price = pricer.price(alone)
        assert price.stages[:, 0].tolist() == block.stages[:, step].tolist()
        assert int(price.durations[0]) == int(block.durations[step])


OVERLAP = {
    "MLA, DP 2, EP 2": (
        document("deepseek-v2-lite", {"h100-sxm": 2}, "nvlink4-switch", parallelism={"dp": 2, "ep": 2}), 3,
    ),
    "one device": (document("qwen1.5-moe-a2.7b", {"h100-sxm": 1}), 3),
    "MLA, TP 2, DP 2, EP 4, all-to-all": (
        document("deepseek-v2-lite", {"h100-sxm": 4}, "nvlink4-switch", parallelism={"tp": 2, "dp": 2, "ep": 4},
                 **ALL_TO_ALL), 3,
    ),
    "PP 2": (document("qwen1.5-moe-a2.7b", {"h100-sxm": 2}, "nvlink4-switch", parallelism={"pp": 2}), 4),
    "dense residual branch": (
        document("snowflake-arctic", {"mi355x": 2}, "xgmi-mesh", parallelism={"dp": 2, "ep": 2}, dtype="int4"), 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OVERLAP)
@pytest.mark.parametrize("kind", BATCHES)
def test_shared_experts_beside_the_routed_ones(name, kind):
    """On a second stream, the shared experts take less than in turn, but not less than with a memory that serves both
    at full speed; and what the memory has to deliver for both takes its time."""
    tree, layers = OVERLAP[name]
    cut, overlap = f"model.layers={layers}", "engine.overlap_shared_experts=true"
    in_turn, beside = stepping.pricer(tree, cut), stepping.pricer(tree, cut, overlap)
    batch = stepping.batch(beside.layout.dp, seed=5, **BATCHES[kind])
    block = beside.price(batch)
    graph, plan, op = stepping.executed(beside, block)
    assert int(block.stages.sum()) == plan.makespan
    # Both divide the memory by the same rule, but round at other instants: a picosecond per kernel at most.
    assert abs(plan.makespan - op.makespan) <= graph.rows
    np.testing.assert_allclose(plan.finish, op.finish, atol=graph.rows)
    apart = schedule(replace(graph, demand=None, capacity=None))
    assert apart.makespan <= plan.makespan <= int(in_turn.price(batch).stages.sum()) + graph.rows
    check_order(graph, plan)
    _check_memory(graph, plan)


def _check_memory(graph, plan):
    """While routed and shared experts of a layer run, no lane's memory gives more bytes than its bandwidth allows."""
    shared = [row for row in range(graph.rows) if graph.resource[row] == SIDE_COMPUTE]
    assert shared
    for layer in {int(graph.layer[row]) for row in shared}:
        rows = [row for row in range(graph.rows) if graph.layer[row] == layer and graph.demand[row].any()]
        for lane in np.flatnonzero(graph.duration[rows[0]] != ABSENT):
            took = max(plan.finish[row, lane] for row in rows) - min(plan.start[row, lane] for row in rows)
            moved = sum(graph.demand[row, lane] for row in rows)
            assert moved <= graph.capacity[lane] * took / PICOSECONDS * (1 + 1e-6)
