"""Experts in pieces: what is kept, and the closed form of a pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import stepping

from moesim.engine.fidelity import schedule
from moesim.engine.invariants import check_order
from moesim.spec.overlap import OverlapSpec
from moesim.step.graph import ABSENT
from moesim.step.passes.pipeline import Pipeline

TREE = stepping.document(
    "mixtral-8x7b", {"h100-sxm": 4}, "nvlink4-switch", parallelism={"dp": 4, "ep": 4},
    engine={"name": "bare", "transport": "alltoall"},
)  # fmt: skip


@pytest.fixture(scope="module")
def graph():
    pricer = stepping.pricer(TREE, "model.layers=2")
    return stepping.compiled(pricer, pricer.price(stepping.batch(4, decodes=20, chunks=9)))


def apply(graph, **options):
    return Pipeline(OverlapSpec(**options)).apply(graph)


def rows(graph, name, layer=1):
    return np.flatnonzero((np.array(graph.name) == name) & (graph.layer == layer))


@pytest.mark.parametrize("pieces", [2, 5, 32])
def test_bytes_stay_and_plan_and_op_agree(graph, pieces):
    divided = apply(graph, pieces=pieces, launch="2 us")
    for name in ("dispatch", "combine"):
        whole = sum(graph.collectives[row].sent(4) for row in rows(graph, name))
        assert sum(divided.collectives[row].sent(4) for row in rows(divided, name)) == pytest.approx(whole)
    assert len(rows(divided, "experts")) == pieces
    plan, op = schedule(divided), schedule(divided, "op")
    check_order(divided, plan)
    np.testing.assert_array_equal(plan.finish, op.finish)


@pytest.mark.parametrize("pieces", [2, 8, 64])
def test_pieces_that_cost_nothing_fill_a_pipeline(graph, pieces):
    """A layer's way from dispatch to combine: the experts, one piece of dispatch before, one of combine after them."""
    divided = apply(graph, pieces=pieces, call="0 us")
    plan = schedule(divided)
    first, last = rows(divided, "dispatch")[0], rows(divided, "combine")[-1]
    took = plan.finish[last].max() - plan.start[first].min()
    there, back = (divided.duration[rows(divided, name)].max(axis=1) for name in ("dispatch", "combine"))
    experts = np.where(graph.duration[rows(graph, "experts")] == ABSENT, 0, graph.duration[rows(graph, "experts")])
    assert there.sum() + back.sum() < experts.max()  # the longer of the two
    assert took == pytest.approx(experts.max() + there[0] + back[-1], rel=2e-3)


def test_lent_arithmetic_slows_experts(graph):
    plain, lent = apply(graph, pieces=4), apply(graph, pieces=4, lent=0.2)
    ratio = lent.duration[rows(lent, "experts")].max() / plain.duration[rows(plain, "experts")].max()
    assert ratio == pytest.approx(1 / 0.8, rel=1e-6)


def test_other_rows_stay(graph):
    divided = apply(graph, pieces=3)
    assert divided.rows == graph.rows + 2 * 3 * 2  # two more of each of three rows, in two layers
    for name in ("attention", "router"):
        np.testing.assert_array_equal(divided.duration[rows(divided, name)], graph.duration[rows(graph, name)])


def test_a_run_takes_the_overlap_into_account():
    """Steps of a replica whose engine overlaps are executed, and as short as the pass makes them."""
    batch = stepping.batch(4, decodes=20, chunks=9)
    overlapped = stepping.pricer(TREE, "model.layers=2", "engine.overlap={pieces: 4}")
    plain = stepping.pricer(TREE, "model.layers=2")
    block = overlapped.price(batch)
    assert overlapped.single_steps
    assert block.durations[0] < plain.price(batch).durations[0]
    assert block.durations[0] == schedule(apply(stepping.compiled(plain, plain.price(batch)), pieces=4)).makespan
