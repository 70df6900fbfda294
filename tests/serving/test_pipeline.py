"""Pipeline parallelism: several batches in flight. The paced family takes 1 s per attention call, so that of three
layers on two stages, stage 0 takes 2 s and stage 1 takes 1 s."""

from __future__ import annotations

import numpy as np
import pytest
from ruler import FABRIC, device, steps, times

LIBRARY = {"devices": {"unit": device("paced")}, "fabrics": {"net": FABRIC}}
PIPELINE = {
    "machine": {"devices": {"unit": 2}, "fabric": "net"},
    "parallelism": {"pp": 2},
    "library": LIBRARY,
}
NO_HOST = {"step_overhead": "0 s"}


def test_one_batch_takes_the_sum_of_the_stages(on_ruler):
    record = on_ruler([(0, 4, 3)], **PIPELINE, engine=NO_HOST)
    assert steps(record) == [(0, 3), (3, 6), (6, 9)]
    assert times(record, "first_token") == [3]
    assert times(record, "finish") == [9]
    assert record.devices["stage"].tolist() == [0, 1]
    assert record.devices["compute_busy"].tolist() == [pytest.approx(6), pytest.approx(3)]


def test_host_time_is_part_of_a_batch(on_ruler):
    record = on_ruler([(0, 4, 3)], **PIPELINE)
    assert steps(record) == [(0, 4), (4, 8), (8, 12)]


def test_two_batches_are_bound_by_the_slower_stage(on_ruler):
    """A at 0, B at 0.5; B's prompt enters stage 0 when A's has left it.

    A   stage 0: 0-2   4-6   8-10     stage 1: 2-3   6-7   10-11
    B   stage 0: 2-4   6-8   10-12    stage 1: 4-5   8-9   12-13
    """
    record = on_ruler([(0, 4, 3), (0.5, 4, 3)], **PIPELINE, engine=NO_HOST)
    assert times(record, "first_token") == [3, 5]
    assert times(record, "finish") == [11, 13]
    assert record.iterations["end"].tolist() == [3, 5, 7, 9, 11, 13]
    assert dict(zip(record.itl["duration"].tolist(), record.itl["count"].tolist(), strict=True)) == {4: 4}
    # Stage 0 works from 0 to 12 without a pause, and the pipeline is at work from 0 to 13, once.
    assert record.devices["compute_busy"].tolist() == [pytest.approx(12), pytest.approx(6)]
    assert record.totals.busy == pytest.approx(13)


def test_throughput_is_one_batch_per_slowest_stage(on_ruler):
    """100 tokens each for two requests in flight: a token every 2 s."""
    record = on_ruler([(0, 4, 100), (0.5, 4, 100)], **PIPELINE, engine=NO_HOST)
    assert record.end == 2 * 200 + 1


def test_who_arrives_together_shares_a_batch(on_ruler):
    record = on_ruler([(0, 4, 2), (0, 4, 2)], **PIPELINE, engine=NO_HOST)
    assert steps(record, "sequences") == [(0, 3, 2), (3, 6, 2)]


def test_chunks_of_a_prompt_follow_each_other(on_ruler):
    """Budget 16, 40 tokens: a chunk enters when the one before it has left the pipeline; nothing else is in flight."""
    record = on_ruler([(0, 40, 1)], **PIPELINE, engine={**NO_HOST, "token_budget": 16})
    assert steps(record, "prefill_tokens") == [(0, 3, 16), (3, 6, 16), (6, 9, 8)]


def test_batches_in_flight_do_not_take_each_others_blocks(on_ruler):
    """3 blocks of 16. A (16 in, 4 out) at 0 and B (16 in, 4 out) at 0.5 hold one each; A's second token takes the third
    at 3, so that B, back at 5 with its first token, finds none and is preempted. A's tokens then come every 3 s.

    A: 0-3, then stage 0 is B's until 4: 4-7, 7-10, 10-13.  B: 2-5, again from 13 on with 17 tokens: 16, 19, 22.
    """
    rows = [(0, 16, 4), (0.5, 16, 4)]
    record = on_ruler(rows, blocks=3, **PIPELINE, engine=NO_HOST)
    assert times(record, "first_token") == [3, 5]
    assert record.requests["preemptions"].tolist() == [0, 1]
    assert times(record, "finish") == [13, 22]
    assert dict(zip(record.itl["duration"].tolist(), record.itl["count"].tolist(), strict=True)) == {3: 4, 4: 1, 11: 1}


def test_prompts_in_flight_do_not_block_each_other_for_ever(on_ruler):
    """6 blocks, budget 16. The chunks of A (80 in) and B (80 in) take turns until the cache is full and neither is
    complete; then the later one gives its blocks back, and both are served."""
    record = on_ruler([(0, 80, 2), (0.5, 80, 2)], blocks=6, **PIPELINE, engine={**NO_HOST, "token_budget": 16})
    assert record.requests["generated_tokens"].tolist() == [2, 2]
    assert record.requests["preemptions"][0] == 0 < record.requests["preemptions"][1]


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("caching", [False, True])
def test_no_token_is_lost_under_pressure(on_ruler, stages, caching):
    rng = np.random.default_rng(7)
    rows = [(float(t), int(i), int(o)) for t, i, o in zip(
        np.sort(rng.uniform(0, 100, 40)), rng.integers(1, 90, 40), rng.integers(1, 40, 40), strict=True)]  # fmt: skip
    machine = {"machine": {"devices": {"unit": stages}, "fabric": "net"}, "parallelism": {"pp": stages}}
    engine = {"prefix_caching": caching, "token_budget": 32}
    record = on_ruler(rows, blocks=12, **{**PIPELINE, **machine}, engine=engine)
    outputs = np.array([row[2] for row in rows])
    assert record.totals.preemptions > 5
    assert record.requests["generated_tokens"].tolist() == outputs.tolist()
    assert int(record.iterations["output_tokens"].sum()) == outputs.sum()
    assert int(record.itl["count"].sum()) == (outputs - 1).sum()
    assert float((record.itl["duration"] * record.itl["count"]).sum()) == pytest.approx(
        float((record.requests["finish"] - record.requests["first_token"]).sum())
    )
    assert record.totals.busy <= record.end
    assert record.iterations["kv_used"].max() <= 1


def test_a_small_batch_may_end_before_a_large_one(on_ruler):
    """Stages without work to speak of, 1 s and 0.125 s a sequence on the host. Budget 8, whole prompts: three of one
    token leave no room for one of six, which follows in a batch of its own at the same instant."""
    library = {"devices": {"unit": device()}, "fabrics": {"net": FABRIC}}
    engine = {"token_budget": 8, "chunked_prefill": False, "sequence_overhead": "0.125 s"}
    record = on_ruler([(0, 1, 1)] * 3 + [(0, 6, 1)], **{**PIPELINE, "library": library}, engine=engine)
    assert times(record, "finish") == [1.375] * 3 + [1.125]
