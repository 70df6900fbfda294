"""What engines do differently, against schedules counted by hand: a step takes 1 s unless a test says so."""

from __future__ import annotations

import pytest
import ruler
from ruler import FABRIC, MOE, device, steps, times

from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_experiment

#: The devices take 3 s a step (three layers of attention kernels of 1 s each).
PACED = {"library": {"devices": {"unit": device("paced")}, "fabrics": {"net": FABRIC}}}
ASYNCHRONOUS = {"asynchronous_scheduling": True}
TWO = {"machine": {"devices": {"unit": 2}, "fabric": "net"}}
GROUP = {**TWO, "model": MOE, "parallelism": {"dp": 2, "ep": 2}}


def test_the_front_end_delays_what_the_client_sees(on_ruler):
    """0.25 s until the engine sees a request: at 0.25 and, in the middle of a step, at 0.75."""
    record = on_ruler([(0, 4, 2), (0.5, 4, 2)], engine={"frontend_latency": "0.25 s"})
    assert times(record, "arrival") == [0, 0.5]
    assert steps(record) == [(0.25, 1.25), (1.25, 2.25), (2.25, 3.25)]
    assert times(record, "first_token") == [1.25, 2.25]
    assert times(record, "finish") == [2.25, 3.25]


def test_a_closed_loop_waits_for_the_front_end(on_ruler):
    """One request at a time, a step of 1 s each: with 0.25 s before it, every request takes 1.25 s."""
    tree = ruler.document("", engine={"frontend_latency": "0.25 s"})
    one = {"distribution": "constant", "mean": 1}
    tree["library"]["mixes"] = {"plain": {"input": one, "output": one}}
    tree["requests"] = {"mix": "plain", "concurrency": 1, "count": 3}
    record = ruler.run(tree)
    assert times(record, "arrival") == [0, 1.25, 2.5]
    assert times(record, "finish") == [1.25, 2.5, 3.75]


def test_host_time_of_prompts(on_ruler):
    """1 s a step and 0.5 s for each prompt in it: two prompts, then none, then one beside a decode."""
    record = on_ruler([(0, 4, 4), (0, 4, 2), (2.5, 4, 1)], engine={"request_overhead": "0.5 s"})
    assert steps(record) == [(0, 2), (2, 3), (3, 4.5), (4.5, 5.5)]


def test_prompts_of_the_fullest_rank(on_ruler):
    """Ranks step together: three prompts on two ranks, two on the fuller one."""
    record = on_ruler([(0, 4, 1)] * 3, engine={"request_overhead": "0.5 s"}, **GROUP)
    assert steps(record) == [(0, 2)]


def test_host_work_is_hidden_behind_the_step_before(on_ruler):
    """Devices take 3 s, the host 1 s: together 4 s, or 3 s where it works ahead, but for the step that begins when the
    devices rest. Of the host's work 0.25 s are always exposed."""
    rows = [(0, 4, 3), (20, 4, 2)]
    assert steps(on_ruler(rows, **PACED)) == [(0, 4), (4, 8), (8, 12), (20, 24), (24, 28)]
    hidden = on_ruler(rows, engine=ASYNCHRONOUS, **PACED)
    assert steps(hidden) == [(0, 4), (4, 7), (7, 10), (20, 24), (24, 27)]
    exposed = on_ruler(rows, engine={**ASYNCHRONOUS, "exposed_overhead": "0.25 s"}, **PACED)
    assert steps(exposed) == [(0, 4.25), (4.25, 7.5), (7.5, 10.75), (20, 24.25), (24.25, 27.5)]


def test_devices_wait_for_a_host_that_is_slower(on_ruler):
    """4 s of host work a step hide the devices' 3 s."""
    record = on_ruler([(0, 4, 3)], engine={**ASYNCHRONOUS, "step_overhead": "4 s"}, **PACED)
    assert steps(record) == [(0, 7), (7, 11), (11, 15)]


def test_a_step_is_decided_when_the_one_before_begins(on_ruler):
    """A decodes from 0 on. B comes at 1.5, when the step from 2 on is decided already: it takes part from 3 on, and
    without asynchronous scheduling from 2 on."""
    rows = [(0, 4, 6), (1.5, 4, 2)]
    assert times(on_ruler(rows), "first_scheduled") == [0, 2]
    record = on_ruler(rows, engine=ASYNCHRONOUS)
    assert times(record, "first_scheduled") == [0, 3]
    assert times(record, "finish") == [6, 5]
    assert steps(record, "waiting") == [(0, 1, 0), (1, 2, 0), (2, 3, 1), (3, 4, 0), (4, 5, 0), (5, 6, 0)]


def test_nothing_is_decided_behind_a_last_step(on_ruler):
    """A's only step ends at 1, and no step is decided behind it: B, which comes meanwhile, begins then."""
    assert times(on_ruler([(0, 4, 1), (0.5, 4, 1)], engine=ASYNCHRONOUS), "first_scheduled") == [0, 1]


def test_what_ends_makes_room_a_step_later(on_ruler):
    """One sequence at a time. A ends at 2, when the engine has found nothing to do behind it: B begins. With two at a
    time A ends at 2 and B at 4; C has A's place at 2, or at 3 where the step from 2 on was decided at 1."""
    one = {"max_sequences": 1}
    assert times(on_ruler([(0, 4, 2), (0, 4, 2)], engine={**ASYNCHRONOUS, **one}), "first_scheduled") == [0, 2]
    rows, two = [(0, 4, 2), (0, 4, 4), (0, 4, 1)], {"max_sequences": 2}
    assert times(on_ruler(rows, engine=two), "first_scheduled") == [0, 0, 2]
    assert times(on_ruler(rows, engine={**ASYNCHRONOUS, **two}), "first_scheduled") == [0, 0, 3]


def test_a_closed_loop_is_a_step_behind(on_ruler, tmp_path):
    """Two at a time. A is answered at 1, which is when C is sent; the step from 1 on is decided, and C in the next."""
    rows = [(0, 4, 1), (0, 4, 4), (0, 4, 1)]
    trace = ruler.write_trace(tmp_path / "closed.csv", rows)
    for engine, scheduled in (({}, 1), (ASYNCHRONOUS, 2)):
        tree = ruler.document(trace, engine=engine) | {"requests": {"trace": trace, "concurrency": 2}}
        record = ruler.run(tree)
        assert times(record, "arrival") == [0, 0, 1]
        assert times(record, "first_scheduled") == [0, 0, scheduled]


def test_prompts_first(on_ruler):
    """A budget of 16 tokens. A (8 in, 4 out) decodes when B (24 in, 2 out) and C (4, 1) come: B's prompt takes two
    steps for itself, C's shares the second, and only then A goes on."""
    rows = [(0, 8, 4), (0.5, 24, 2), (0.5, 4, 1)]
    record = on_ruler(rows, engine={"token_budget": 16, "prefill": "first"})
    assert steps(record, "prefill_tokens", "decode_tokens") == [
        (0, 1, 8, 0), (1, 2, 16, 0), (2, 3, 12, 0), (3, 4, 0, 2), (4, 5, 0, 1), (5, 6, 0, 1),
    ]  # fmt: skip
    assert times(record, "first_token") == [1, 3, 3]
    assert times(record, "finish") == [6, 4, 3]
    # A waits 3 s for its second token; its others, and B's second, come after a step.
    assert dict(zip(record.itl["duration"].tolist(), record.itl["count"].tolist(), strict=True)) == {1: 3, 3: 1}


def test_whole_prompts_first(on_ruler):
    """Prompts are not cut: B's 24 tokens exceed the budget and have a step of their own."""
    rows = [(0, 8, 3), (0.5, 24, 2), (0.5, 4, 1)]
    record = on_ruler(rows, engine={"token_budget": 16, "prefill": "first", "chunked_prefill": False})
    assert steps(record, "prefill_tokens", "decode_tokens") == [
        (0, 1, 8, 0), (1, 2, 24, 0), (2, 3, 4, 0), (3, 4, 0, 2), (4, 5, 0, 1),
    ]  # fmt: skip


def test_each_rank_computes_its_prompts_first(on_ruler):
    """A on rank 0 and B on rank 1 decode when C's prompt comes to rank 0: A waits for it, B goes on."""
    record = on_ruler([(0, 4, 3), (0, 4, 3), (0.5, 4, 1)], engine={"prefill": "first"}, **GROUP)
    assert steps(record, "prefill_tokens", "decode_tokens") == [
        (0, 1, 8, 0), (1, 2, 4, 1), (2, 3, 0, 2), (3, 4, 0, 1),
    ]  # fmt: skip
    assert times(record, "finish") == [4, 3, 2]


def test_told_kv_blocks(on_ruler):
    """Three blocks of 16 tokens: A (40 in) has them all until 2, and B waits."""
    record = on_ruler([(0, 40, 2), (0, 40, 2)], engine={"kv_blocks": 3})
    assert times(record, "first_scheduled") == [0, 2]
    assert record.devices["kv_bytes"].tolist() == [3 * 16 * 3 * 2 * 4 * 2 * 2]


def test_nobody_is_preempted(on_ruler):
    """Three blocks of 16 tokens. A (16 in, 20 out) can grow to three, B (16, 4) to two: it waits until A has left where
    it would else begin at once and be preempted."""
    rows = [(0, 16, 20), (0, 16, 4)]
    preempting = on_ruler(rows, blocks=3)
    assert preempting.totals.preemptions == 1
    assert times(preempting, "first_scheduled") == [0, 0]
    record = on_ruler(rows, blocks=3, engine={"preemption": False})
    assert record.totals.preemptions == 0
    assert times(record, "first_scheduled") == [0, 20]
    assert times(on_ruler(rows, blocks=5, engine={"preemption": False}), "first_scheduled") == [0, 0]


@pytest.mark.parametrize(("scales", "step"), [
    ({"paced": {"attention": 0.5}}, 1.5), ({"ideal": {"attention": 0.5}}, 3), ({"paced": {"gemm": 0.5}}, 3),
])  # fmt: skip
def test_an_engine_scales_kernels_of_a_family(on_ruler, scales, step):
    record = on_ruler([(0, 4, 2)], engine={"step_overhead": "0 s", "scales": scales}, **PACED)
    assert steps(record) == [(0, step), (step, 2 * step)]


@pytest.mark.parametrize(("change", "what"), [
    ("engine.graph_sizes=[8, 4]", "graph_sizes do not ascend"),
    ("engine.exposed_overhead=1 ms", "without asynchronous_scheduling"),
    ("engine.scales={paced: {gemms: 1.1}}", "gemms"),
])  # fmt: skip
def test_what_cannot_be(tmp_path, change, what):
    trace = ruler.write_trace(tmp_path / "trace.csv", [(0, 4, 1)])
    with pytest.raises(MoesimError, match=what):
        load_experiment(ruler.document(trace), [change])
