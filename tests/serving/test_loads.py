"""Loads that depend on what has finished, against schedules counted by hand; a step takes 1 s.

`ruler.run` compares each run with the same one without run-ahead."""

from __future__ import annotations

import numpy as np
import pytest
import ruler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loads import CONSTANT, LAYOUTS, SINGLE, document, load, mix, replicated, session
from ruler import times

from moesim.results.metrics import summarise
from moesim.serving.simulate import simulate

pytestmark = pytest.mark.usefixtures("ruler_path")


# Closed loop


def test_closed_loop_of_one_server():
    """Service of 3 s, one at a time, 2 under way: the next request comes as one finishes and waits for the other."""
    record = load({"mix": "m", "concurrency": 2, "count": 5}, engine=SINGLE)
    assert times(record, "arrival") == [0, 0, 3, 6, 9]
    assert times(record, "first_scheduled") == [0, 3, 6, 9, 12]
    assert times(record, "finish") == [3, 6, 9, 12, 15]


def test_littles_law_is_exact():
    """N = X R. Over the time in which N are under way, the sum of all times in the system is N times that time; and in
    the steady state each of them is N services."""
    number, service, count = 4, 3, 40
    record = load({"mix": "m", "concurrency": number, "count": count}, engine=SINGLE)
    arrival, finish = record.requests["arrival"], record.requests["finish"]
    until = arrival[-1]  # from then on nothing comes after what leaves
    inside = (np.minimum(finish, until) - np.minimum(arrival, until)).sum()
    assert inside == number * until
    response = (finish - arrival)[number:]
    assert set(response.tolist()) == {number * service}
    assert count / record.end * response[0] == number


def test_a_new_request_takes_part_in_the_step_that_begins_when_it_comes():
    """Room for all: three at a time in steps of 1 s, answers of 3 tokens; each batch of three follows the other."""
    record = load({"mix": "m", "concurrency": 3, "count": 9})
    assert times(record, "arrival") == [0] * 3 + [3] * 3 + [6] * 3
    assert times(record, "first_scheduled") == times(record, "arrival")
    assert record.end == 9


def test_concurrency_beyond_the_count():
    record = load({"mix": "m", "concurrency": 8, "count": 3})
    assert times(record, "arrival") == [0, 0, 0]


def test_closed_loop_over_a_trace(tmp_path):
    """Lengths of the trace in its order; its times do not matter. One at a time: 2, 4 and 1 tokens."""
    trace = ruler.write_trace(tmp_path / "trace.csv", [(50, 4, 2), (60, 4, 4), (99, 4, 1)])
    record = load({"trace": trace, "concurrency": 1})
    assert times(record, "arrival") == [0, 2, 6]
    assert times(record, "finish") == [2, 6, 7]


def test_replicas_that_finish_in_one_instant():
    """Two replicas in lockstep, 4 under way: who reports first must not show."""
    record = load({"mix": "m", "concurrency": 4, "count": 12}, **replicated(2))
    assert times(record, "arrival") == [0] * 4 + [3] * 4 + [6] * 4
    assert record.requests["replica"].tolist() == [0, 1] * 6


def test_warm_up_drains_and_is_not_counted():
    """Two requests at once, of which the first three warm up: 0 to 3 two of them, 3 to 6 the third; then the five that
    count in pairs from 6 to 15."""
    record = load({"mix": "m", "concurrency": 2, "count": 5, "warmup": 3})
    assert times(record, "arrival") == [0, 0, 3, 6, 6, 9, 9, 12]
    assert record.requests["stage"].tolist() == [-1] * 3 + [0] * 5
    summary = summarise(record)
    assert (summary["requests"]["total"], summary["requests"]["finished"]) == (5, 5)
    assert summary["throughput"]["requests"] == 5 / 9
    assert summary["stages"][0]["begin"] == 6
    assert any("warm-up (requests: 3)" in note for note in summary["notes"])


# Stages


def test_a_stage_begins_when_the_one_before_has_drained():
    """First stage: arrivals at 0 and 1, the last token at 4. The second begins exactly 1 s later."""
    stages = [{"rate": "1/s", "count": 2}, {"rate": "2/s", "count": 3}]
    record = load({"mix": "m", "arrival": "deterministic", "stages": stages})
    assert times(record, "arrival") == [0, 1, 5, 5.5, 6]
    assert times(record, "finish")[:2] == [3, 4]
    assert record.requests["stage"].tolist() == [0, 0, 1, 1, 1]
    first, second = summarise(record)["stages"]
    assert (first["begin"], first["end"], first["total"]) == (0, 4, 2)
    assert first["throughput"]["requests"] == 2 / 4
    assert second["begin"] == 5
    assert second["e2e"]["mean"] == np.mean((record.requests["finish"] - record.requests["arrival"])[2:])


def test_pause_of_nothing_and_of_more():
    stages = [{"concurrency": 2, "count": 2}, {"arrival": "burst", "count": 1}]
    for pause in (0, 7):
        record = load({"mix": "m", "pause": f"{pause} s", "stages": stages})
        assert times(record, "arrival") == [0, 0, 3 + pause]


def test_the_drain_of_several_replicas():
    """One replica has an answer of 2 tokens, the other of 9: the second stage waits for both."""
    mixes = {"short": mix(outputs=2), "long": mix(outputs=9)}
    stages = [{"mix": "short", "arrival": "burst", "count": 3}, {"mix": "long", "arrival": "burst", "count": 1},
              {"mix": "short", "arrival": "burst", "count": 1}]  # fmt: skip
    record = load({"stages": stages}, mixes, **replicated(2))
    assert times(record, "arrival") == [0, 0, 0, 3, 13]


def test_stages_draw_from_streams_of_their_own():
    """The first stage is what it is by itself, the second is no copy of it."""
    one = simulate(ruler.spec_of(document({"mix": "m", "rate": "1/s", "count": 9})))
    two = simulate(ruler.spec_of(document({"mix": "m", "rate": "1/s", "count": 9, "stages": [{}, {}]})))
    arrival, begin = two.requests["arrival"], two.stages[1][1]
    assert arrival[:9].tolist() == one.requests["arrival"].tolist()
    assert not np.isclose(arrival[9:] - begin, arrival[:9]).any()


# Conversations


def test_turns_follow_answers():
    """Three turns of 3 s with 2 s to think between; every prompt holds all that was said: 4, 4+3+4, 4+3+4+3+4."""
    talk = mix(sessions=session(3), arrival="deterministic")
    record = load({"mix": "talk", "rate": "0.25/s", "count": 2}, {"talk": talk})
    assert times(record, "arrival") == [0, 4, 5, 9, 10, 14]
    assert record.requests["session"].tolist() == [0, 1, 0, 1, 0, 1]
    assert record.requests["turn"].tolist() == [0, 0, 1, 1, 2, 2]
    assert record.requests["input_tokens"].tolist() == [4, 4, 11, 11, 18, 18]


def test_history_is_found_in_the_cache():
    """Blocks of 4. Turn 1: 8 in, 6 out, 13 tokens in the cache: 3 full blocks. Turn 2: 22 in; 3 blocks are found, of
    the answer too. It leaves 22 + 6 - 1 = 27 tokens, 6 blocks, which turn 3 of 36 finds."""
    talk = mix(8, 6, sessions=session(3))
    tree = document({"mix": "talk", "arrival": "burst", "count": 1}, {"talk": talk},
                    engine={"prefix_caching": True, "block_size": 4})  # fmt: skip
    record = ruler.run(tree)
    assert record.requests["input_tokens"].tolist() == [8, 22, 36]
    assert record.requests["cached_tokens"].tolist() == [0, 12, 24]


def test_concurrent_conversations():
    """One at a time, two turns each, 2 s to think: a conversation takes 3 + 2 + 3 s, and the next one follows."""
    talk = mix(sessions=session(2))
    record = load({"mix": "talk", "concurrency": 1, "count": 3}, {"talk": talk})
    assert times(record, "arrival") == [0, 5, 8, 13, 16, 21]


def test_interactive_response_time_law():
    """R = N S - Z once the server of S = 1 s is busy all the time: 5 users who think for Z = 2 s wait until 3 s have
    passed, and the server gives X = N / (R + Z) = 1 answer a second."""
    talk = mix(1, 1, sessions=session(40))
    engine = {**SINGLE, "token_budget": 128}  # all that was said fits one step
    record = load({"mix": "talk", "concurrency": 5, "count": 5}, {"talk": talk}, engine=engine)
    response = (record.requests["finish"] - record.requests["arrival"])[5:]
    assert set(response.tolist()) == {3}
    assert record.end == 200


# Pools


def test_a_cycling_pool_is_found_but_for_its_last_block():
    """Four prompts of 40 tokens in two groups that share 32, blocks of 16; one request at a time.

    40 tokens hold two full blocks, both of the group's prefix: the first of a group computes all 40, every other 8."""
    pool = mix(8, 1, pool=4, prefix={"groups": 2, "tokens": 32})
    record = load({"mix": "pool", "concurrency": 1, "count": 12}, {"pool": pool}, engine={"prefix_caching": True})
    assert record.requests["cached_tokens"].tolist() == [0, 0] + [32] * 10


def test_whole_prompts_of_a_pool():
    """64 tokens of their own after a prefix of 32: 6 blocks of 16. The second time round 5 are found, as the last token
    must be computed and only full blocks count: 16 tokens, the most there can be."""
    pool = mix(64, 1, pool=3, prefix={"groups": 1, "tokens": 32})
    record = load({"mix": "pool", "concurrency": 1, "count": 9}, {"pool": pool},
                  engine={"prefix_caching": True, "token_budget": 256})  # fmt: skip
    assert record.requests["cached_tokens"].tolist() == [0, 32, 32] + [80] * 6
    assert set((record.requests["input_tokens"] - record.requests["cached_tokens"])[3:].tolist()) == {16}


def test_a_pool_goes_on_in_the_next_stage():
    """Five prompts, three in the first stage: the second one begins with the fourth, which nobody has sent."""
    pool = mix(40, 1, pool=5)
    stages = [{"concurrency": 1, "count": 3}, {"concurrency": 1, "count": 4}]
    record = load({"mix": "pool", "stages": stages}, {"pool": pool}, engine={"prefix_caching": True})
    assert record.requests["cached_tokens"].tolist() == [0, 0, 0, 0, 0, 32, 32]


# Steps that are executed


@pytest.mark.parametrize("changes", [{"fabric": "flow"}, {"fidelity": "op"}])
def test_closed_loop_of_steps_that_are_executed(changes):
    """Every operator an event, on links that steps share: the arrivals are the same."""
    two = replicated(2) | {"parallelism": {"dp": 2, "ep": 2}, "model": ruler.MOE}
    requests = {"mix": "m", "concurrency": 4, "count": 10}
    plain = simulate(ruler.spec_of(document(requests, **two)))
    executed = simulate(ruler.spec_of(document(requests, **two, **changes)))
    for name, column in plain.requests.items():
        assert executed.requests[name].tolist() == column.tolist()


# Properties

LOADS = st.one_of(
    st.fixed_dictionaries({"concurrency": st.integers(1, 6), "count": st.integers(1, 15), "warmup": st.integers(0, 4)}),
    st.fixed_dictionaries({"rate": st.sampled_from(["0.5/s", "5/s"]), "count": st.integers(1, 15)}),
    st.fixed_dictionaries({"arrival": st.just("burst"), "count": st.integers(1, 15)}),
)
MIXES = st.fixed_dictionaries({
    "input": st.just({"distribution": "uniform", "mean": 30, "deviation": 25}),
    "output": st.just({"distribution": "uniform", "mean": 8, "deviation": 7}),
    "prefix": st.sampled_from([(), {"groups": 2, "tokens": 24}]),
    "sessions": st.sampled_from([None, session(2, "0 s"), {"turns": {"mean": 2, "deviation": 1}, "think": "3 s"}]),
    "classes": st.sampled_from([{}, {"a": {"share": 1}, "b": {"share": 2, "output": {**CONSTANT, "mean": 2}}}]),
})  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    stages=st.lists(LOADS, min_size=1, max_size=3),
    kind=MIXES,
    layout=st.sampled_from(LAYOUTS),
    budget=st.sampled_from([16, 64]),
    seed=st.integers(0, 9),
)
def test_whatever_is_sent_is_served_and_nothing_depends_on_run_ahead(stages, kind, layout, budget, seed):
    """`simulate` checks what a run conserves; here: all requests come, in their order, and no stage before its time."""
    engine = {"prefix_caching": True, "token_budget": budget, "sequence_overhead": "7 ms"}
    tree = document({"mix": "any", "stages": stages}, {"any": kind}, engine=engine, **layout)
    record = ruler.run(tree | {"seed": seed})
    requests = record.requests
    assert (np.diff(requests["arrival"]) >= 0).all()
    if kind["sessions"] is None:
        assert len(requests["arrival"]) == sum(load["count"] + load.get("warmup", 0) for load in stages)
    if "stage" in requests:
        counts = [int((requests["stage"] == stage).sum()) for stage in range(len(stages))]
        assert all(counts)
        for stage in range(1, len(stages)):
            before = requests["finish"][requests["stage"] == stage - 1].max()
            assert requests["arrival"][requests["stage"] == stage].min() >= before
    if "turn" in requests:
        follows = np.lexsort((requests["turn"], requests["session"]))
        later = requests["turn"][follows][1:] > 0
        gaps = requests["arrival"][follows][1:] - requests["finish"][follows][:-1]
        assert (gaps[later] >= -1e-9).all()
    for load_, stage in zip(stages, range(len(stages)), strict=True):
        mine = requests["stage"] == stage if "stage" in requests else np.ones(len(requests["arrival"]), dtype=bool)
        if "concurrency" in load_ and kind["sessions"] is None:
            _at_most_under_way(requests["arrival"][mine], requests["finish"][mine], load_["concurrency"])


def _at_most_under_way(arrival: np.ndarray, finish: np.ndarray, most: int) -> None:
    under_way = [int(((arrival <= at) & (finish > at)).sum()) for at in arrival]
    assert max(under_way) <= most
