"""Micro-batches side by side: what they keep, and what bounds them."""

from __future__ import annotations

import numpy as np
import pytest
import stepping

from moesim.engine.fidelity import schedule
from moesim.engine.invariants import check_order
from moesim.step.graph import ABSENT, COMPUTE, NETWORK
from moesim.step.passes.micro_batches import split, step_graph

TREE = stepping.document(
    "qwen3-30b-a3b", {"h100-sxm": 4}, "nvlink4-switch", parallelism={"dp": 4, "ep": 4},
    engine={"extends": "vllm-0.19", "transport": "alltoall"},
)  # fmt: skip
STREAMS = stepping.document(
    "deepseek-v2-lite", {"ascend-910c-die-streams": 4}, "ub-node-dies", parallelism={"dp": 4, "ep": 4},
    processors={"policy": "fixed", "assign": {"experts": "moe-stream"}, "concurrent": True},
)  # fmt: skip


def divided(tree, batch, parts=2, layers=3):
    pricer = stepping.pricer(tree, f"engine.micro_batches={parts}", f"model.layers={layers}")
    return pricer, pricer.price(batch)


def test_every_sequence_and_prompt_is_in_one_micro_batch():
    batch = stepping.batch(4, decodes=37, chunks=5)
    parts = split(batch, 3)
    assert sorted(np.concatenate([part.request for part in parts]).tolist()) == batch.request.tolist()
    assert sorted(chunk.request for part in parts for chunk in part.chunks) == [c.request for c in batch.chunks]
    counts = np.array([np.bincount(part.rank, minlength=4) for part in parts])
    assert (np.ptp(counts, axis=0) <= 1).all()


@pytest.mark.parametrize("tree", [TREE, STREAMS], ids=["one stream", "two streams on one memory"])
def test_plan_and_op_agree(tree):
    pricer, block = divided(tree, stepping.batch(4, decodes=60, chunks=0))
    graph = step_graph(pricer, block)
    plan, op = schedule(graph), schedule(graph, "op")
    check_order(graph, plan)
    assert op.makespan == pytest.approx(plan.makespan, rel=1e-9)
    assert plan.makespan == int(block.stages.sum())


def test_one_alone_is_as_long_as_ever_and_several_are_no_longer_than_one_after_the_other():
    batch = stepping.batch(4, decodes=200, chunks=0)
    pricer, block = divided(TREE, batch)
    alone = [stepping.compiled(pricer, part) for part in block.parts]
    spans = [schedule(graph).makespan for graph in alone]
    both = step_graph(pricer, block)
    assert max(spans) <= schedule(both).makespan < sum(spans)
    work = np.where(both.duration == ABSENT, 0, both.duration)
    for resource in (COMPUTE, NETWORK):  # nothing runs twice at once
        assert work[both.resource == resource].sum(axis=0).max() <= schedule(both).makespan
    assert both.rows == sum(graph.rows for graph in alone)


def test_a_batch_of_one_sequence_is_not_divided():
    _, block = divided(TREE, stepping.batch(4, decodes=1, chunks=0))
    assert not block.parts
