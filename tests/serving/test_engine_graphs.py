"""Captured CUDA graphs: what a step is padded to, and what launching its kernels one by one takes, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import stepping
from ruler import FABRIC, MOE, device, steps
from stepping import BATCHES, MACHINES

from moesim.engine.fidelity import schedule
from moesim.spec.serving import EngineSpec
from moesim.step.graphs import CapturedGraphs

NO_HOST = {"step_overhead": "0 s"}
TWO = {"machine": {"devices": {"unit": 2}, "fabric": "net"}}
#: Choices of 2 experts in 3 MoE layers.
PAIRS = 6


def forwarded(record) -> float:
    """Tokens that steps computed, dummies and padding included: each chooses experts in every layer."""
    return float(record.expert_tokens.sum()) / PAIRS


def graphs(sizes, limit=64, piecewise=True):
    return CapturedGraphs(EngineSpec(name="test", graph_sizes=sizes, piecewise_graphs=piecewise), limit)


def test_sizes_in_ranges():
    """vLLM's: 1, 2, 4, every 8th below 256, every 16th up to 512."""
    sizes = EngineSpec(name="test", graph_sizes=[1, 2, 4, [8, 248, 8], [256, 512, 16]]).graph_sizes
    assert sizes == (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))


@pytest.mark.parametrize(("tokens", "padded"), [
    ([[3]], [[4]]), ([[4]], [[4]]), ([[5]], [[8]]), ([[8]], [[8]]), ([[9]], [[9]]),
    ([[1, 3]], [[4, 4]]), ([[1, 9]], [[1, 9]]), ([[1, 9], [2, 1]], [[1, 9], [2, 2]]),
])  # fmt: skip
def test_the_smallest_graph_that_holds_the_fullest_rank(tokens, padded):
    """Sizes 1, 2, 4, 8: every rank of a step runs the same, and beyond the largest each has its own tokens."""
    found, tokens = graphs([1, 2, 4, 8]), np.array(tokens)
    assert (tokens + found.padding(tokens, prompts=False)).tolist() == padded


def test_steps_with_prompts():
    """Padded to piecewise graphs where the engine captured some; the steps of decodes behind them always."""
    tokens = np.array([[5], [5]])
    assert graphs([4, 8]).padding(tokens, prompts=True).tolist() == [[3], [3]]
    assert graphs([4, 8], piecewise=False).padding(tokens, prompts=True).tolist() == [[0], [3]]


def test_no_graph_is_larger_than_a_step():
    """Nor than twice the sequences that a rank may have: with 128 of them vLLM captures up to 256."""
    assert graphs([16, 64, 128], limit=64).largest == 64
    assert CapturedGraphs(EngineSpec(name="test", graph_sizes=[[64, 512, 64]], max_sequences=128), 2048).largest == 256
    assert graphs([]).largest == 0


@pytest.mark.parametrize(("engine", "tokens"), [
    ({}, 12 + 3 + 3 + 2), ({"graph_sizes": [1, 2, 4, 8, 16]}, 16 + 4 + 4 + 2),
    ({"graph_sizes": [1, 2, 4, 8, 16], "piecewise_graphs": False}, 12 + 4 + 4 + 2),
    ({"graph_sizes": [1, 2]}, 12 + 3 + 3 + 2),
])  # fmt: skip
@pytest.mark.parametrize("reuse", [True, False])
def test_padding_is_computed(on_ruler, engine, tokens, reuse):
    """Three prompts of 4 tokens, then 3, 3 and 2 decodes. Padding goes to experts, but no one has asked for it."""
    record = on_ruler([(0, 4, 3), (0, 4, 4), (0, 4, 4)], engine=engine, model=MOE, plan_reuse=reuse)
    assert forwarded(record) == pytest.approx(tokens)
    plain = on_ruler([(0, 4, 3), (0, 4, 4), (0, 4, 4)], model=MOE, plan_reuse=reuse)
    assert record.totals.sparse_flops == pytest.approx(plain.totals.sparse_flops)
    assert (record.devices["flops"][0] > plain.devices["flops"][0]) == (tokens > 20)


@pytest.mark.parametrize("transport", ["allgather", "alltoall"])
@pytest.mark.parametrize("reuse", [True, False])
def test_ranks_and_dummies_are_padded_to_the_largest(on_ruler, transport, reuse):
    """Three requests on two ranks: prompts of 8 and 4 tokens, then 2 and 1 decodes, then 2 and a dummy. The largest
    graph is 4: the prompts' step runs none, the others 2 tokens on each rank."""
    record = on_ruler(
        [(0, 4, 3), (0, 4, 2), (0, 4, 3)], model=MOE, parallelism={"dp": 2, "ep": 2}, plan_reuse=reuse,
        engine={"graph_sizes": [1, 2, 4], "transport": transport}, **TWO,
    )  # fmt: skip
    assert steps(record, "decode_tokens") == [(0, 1, 0), (1, 2, 3), (2, 3, 2)]
    assert forwarded(record) == pytest.approx(12 + 4 + 4)


@pytest.mark.parametrize("change", [{"fidelity": "op"}, {"fabric": "flow"}])
def test_executed_operation_by_operation(on_ruler, change):
    """Graphs, launches and work that is hidden come out the same where every operator is an event."""
    engine = {
        "graph_sizes": [1, 2, 4], "launch_overhead": "100 ms", "asynchronous_scheduling": True,
        "exposed_overhead": "0.25 s", "request_overhead": "0.5 s", "prefill": "first", "frontend_latency": "0.5 s",
    }  # fmt: skip
    rows = [(0, 4, 3), (0, 4, 2), (0, 4, 3), (2.5, 9, 2), (20, 4, 2)]
    changes = {"engine": engine, "model": MOE, "parallelism": {"dp": 2, "ep": 2}, "plan_reuse": False, **TWO}
    slow = {"library": {"devices": {"unit": device("paced")}, "fabrics": {"net": FABRIC}}}
    plan = on_ruler(rows, **changes, **slow)
    executed = on_ruler(rows, **changes, **slow, **change)
    columns = "prefill_tokens", "decode_tokens", "waiting"
    np.testing.assert_allclose(steps(executed, *columns), steps(plan, *columns), rtol=1e-9)
    assert executed.expert_tokens.tolist() == plan.expert_tokens.tolist()


def test_launches_keep_fast_devices_waiting(on_ruler):
    """A dense step has 1 + 3 x 9 + 3 kernels, each launched in 0.1 s. The prompt's 4 tokens are beyond the largest
    graph, so that its step waits 3.1 s for them; the decode runs a graph."""
    engine = {**NO_HOST, "launch_overhead": "100 ms", "graph_sizes": [1, 2]}
    assert steps(on_ruler([(0, 4, 2)], engine={**engine, "step_overhead": "1 s"})) == [(0, 4.1), (4.1, 5.1)]


def test_piecewise_graphs_leave_attention_out(on_ruler):
    """Three attention kernels and the four pieces around them: 0.7 s, where the graph holds the prompt."""
    engine = {"launch_overhead": "100 ms", "graph_sizes": [1, 4]}
    assert steps(on_ruler([(0, 4, 2)], engine=engine)) == [(0, 1.7), (1.7, 2.7)]
    assert steps(on_ruler([(0, 4, 2)], engine={**engine, "piecewise_graphs": False})) == [(0, 4.1), (4.1, 5.1)]


def test_launches_hide_behind_slow_devices(on_ruler):
    """Devices take 3 s a step: launches of 3.1 s add 0.1 s, those of 2.48 s nothing."""
    paced = {"library": {"devices": {"unit": device("paced")}, "fabrics": {"net": FABRIC}}}
    engine = {**NO_HOST, "launch_overhead": "100 ms"}
    assert steps(on_ruler([(0, 4, 2)], engine=engine, **paced)) == [(0, 3.1), (3.1, 6.2)]
    assert steps(on_ruler([(0, 4, 2)], engine={**engine, "launch_overhead": "80 ms"}, **paced)) == [(0, 3), (3, 6)]


@pytest.mark.parametrize("machine", [
    "GQA, DP 4, EP 4, all-gather", "MLA, TP 2, DP 2, EP 2, all-to-all", "PP 2, DP 2, EP 2", "dense, TP 4",
])  # fmt: skip
@pytest.mark.parametrize("kind", BATCHES)
def test_padded_steps_agree_with_their_operations(machine, kind):
    """The price of a step, its plan and its operations, one by one."""
    tree, layers = MACHINES[machine]
    changes = ["engine.graph_sizes=[4, [8, 1024, 8]]", "engine.max_sequences=512", f"model.layers={layers}"]
    of = stepping.pricer(tree, *changes)
    block = of.price(stepping.batch(of.layout.dp, **BATCHES[kind]))
    assert block.sizes.padding.sum() > 0
    graph = stepping.compiled(of, block)
    plan, op = schedule(graph, "plan"), schedule(graph, "op")
    assert op.makespan == pytest.approx(plan.makespan, rel=1e-9)
    if of.layout.pp == 1:
        assert int(block.stages.sum()) == pytest.approx(plan.makespan, rel=1e-9)
