import gzip
import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moesim
from moesim.report.timeline import MOST_REQUESTS, MOST_STEPS, _free_tracks, microseconds, trace, write_timeline

#: What the Chrome trace event format asks of each kind of event used here.
REQUIRED = {
    "X": {"name", "cat", "ts", "dur", "pid", "tid"},
    "b": {"name", "cat", "ts", "pid", "tid", "id"},
    "e": {"name", "cat", "ts", "pid", "tid", "id"},
    "C": {"name", "ts", "pid", "tid", "args"},
    "M": {"name", "pid", "tid", "args"},
}


def _nanoseconds(microseconds):
    return int(microseconds * 1e3)  # as Perfetto reads it


def check(document):
    """The structure of a trace: required keys, slices of a track apart, asynchronous spans paired and nested."""
    tracks, spans = defaultdict(list), defaultdict(list)
    for event in document["traceEvents"]:
        assert event.keys() >= REQUIRED[event["ph"]], event
        assert event.get("ts", 0) >= 0
        assert event["pid"] > 0  # process and thread 0 are the idle task
        assert event["tid"] > 0
        if event["ph"] == "X":
            start = _nanoseconds(event["ts"])
            tracks[event["pid"], event["tid"]].append((start, start + _nanoseconds(event["dur"])))
        elif event["ph"] == "b":
            spans[event["pid"], event["id"]].append(event)
        elif event["ph"] == "e":
            opened = spans[event["pid"], event["id"]].pop()
            assert opened["name"] == event["name"]
            assert opened["ts"] <= event["ts"]
    assert not any(spans.values())
    for slices in tracks.values():
        slices.sort()
        assert all(first[1] <= second[0] for first, second in pairwise(slices))
    return tracks


@given(st.integers(0, 10**15))
def test_perfetto_reads_the_nanosecond_that_was_meant(time):
    """Up to eleven days, where doubles begin to be coarser than a nanosecond."""
    assert _nanoseconds(microseconds(time)) == time


def test_trace_is_well_formed(record):
    document = trace(record, "trial")
    tracks = check(document)
    json.dumps(document, allow_nan=False)
    # Steps, and a compute and a network track for each of the two devices.
    assert len(tracks) == 1 + 4
    assert len(tracks[1, 1]) == len(record.iterations["start"])


def test_requests_are_spans_of_their_phases(record):
    events = [event for event in trace(record)["traceEvents"] if event.get("id") == 7]
    names = [(event["ph"], event["name"]) for event in events]
    assert names == [("b", "request 7"), *((ph, name) for name in ("queued", "prefill", "decode") for ph in "be"),
                     ("e", "request 7")]  # fmt: skip
    expected = {"request 7": "arrival", "queued": "arrival", "prefill": "first_scheduled", "decode": "first_token"}
    for event in events:
        if event["ph"] == "b":
            assert event["ts"] == pytest.approx(1e6 * record.requests[expected[event["name"]]][7], abs=1e-3)


def test_unfinished_requests_end_with_the_run(synthetic):
    run = synthetic.record(3, layers=0)
    run.requests["replica"] = np.array([0, 0, -1])
    run.requests["finish"][1:] = np.nan
    run.requests["first_scheduled"][2] = run.requests["first_token"][2] = np.nan
    document = trace(run)
    check(document)
    last = {event["id"]: event for event in document["traceEvents"] if event["ph"] == "e"}
    assert last[1]["ts"] == last[2]["ts"] == pytest.approx(1e6 * run.end)
    assert last[2]["name"] == "request 2 (unfinished)"
    phases = {event["name"] for event in document["traceEvents"] if event["ph"] == "b" and event["id"] == 2}
    assert phases == {"request 2 (unfinished)", "queued"}


def test_operators_carry_their_layer(record):
    events = [event for event in trace(record)["traceEvents"] if event["ph"] == "X" and event["pid"] > 10_000]
    assert len(events) == 2 * 4 * 2  # two rows in each of four layers, on two devices
    assert {event["args"]["layer"] for event in events} == {0, 1, 2, 3}
    start = 1e6 * record.iterations["start"][0]
    assert min(event["ts"] for event in events) == pytest.approx(start, abs=2e-3)
    assert max(event["ts"] + event["dur"] for event in events) == pytest.approx(start + 4 * 77, abs=2e-3)


@given(st.integers(0, 10**15))
def test_a_steps_first_operator_begins_with_it(synthetic, begin):
    """Whatever picosecond the step begins at."""
    run = synthetic.record(3, layers=0)
    run.iterations["start"][0] = begin / 1e12
    step = replace(synthetic.timeline_step(0.0, lanes=1, layers=1), start=begin)
    run.timeline = lambda: [step]
    slices = [event for event in trace(run)["traceEvents"] if event["ph"] == "X"]
    first = next(event["ts"] for event in slices if event["pid"] == 1 and event["args"]["step"] == 0)
    assert min(event["ts"] for event in slices if event["pid"] > 10_000) == first


def test_the_trace_says_what_it_was_made_with(record):
    about = trace(record, "trial", 7)["otherData"]
    assert (about["name"], about["version"], about["seed"]) == ("trial", moesim.__version__, 7)


def test_long_runs_stay_small_and_say_so(synthetic, tmp_path):
    run = synthetic.record(2 * MOST_REQUESTS, layers=0, timeline=False)
    count = 3 * MOST_STEPS + 1
    steps = {name: np.resize(column, count) for name, column in run.iterations.items()}
    steps |= {"step": np.arange(count), "start": np.arange(count) * 0.02, "end": np.arange(1, count + 1) * 0.02}
    run = replace(run, iterations=steps, end=count * 0.02)
    document = trace(run)
    slices = check(document)[1, 1]
    assert len(slices) <= MOST_STEPS
    assert (slices[0][0], slices[-1][1]) == (0, pytest.approx(count * 20_000_000))
    tokens = sum(event["args"]["output_tokens"] for event in document["traceEvents"] if event["ph"] == "X")
    assert tokens == steps["output_tokens"].sum()
    assert document["otherData"]["steps of replica 0"] == f"{count} steps in slices of 4"
    assert document["otherData"]["requests"] == f"the first {MOST_REQUESTS} of {2 * MOST_REQUESTS}"
    assert write_timeline(run, tmp_path / "timeline.json.gz").stat().st_size < 1_000_000


def test_many_devices_are_cut_to_the_first_ones(synthetic):
    run = synthetic.record(3, layers=0, devices=8)
    run.timeline = lambda: [synthetic.timeline_step(0.0, lanes=8, layers=3000)]
    document = trace(run)
    check(document)
    assert document["otherData"]["lanes"] == "the first 4 of 8 devices of each recorded step"


def test_overlapping_steps_get_tracks_of_their_own(synthetic):
    run = synthetic.record(3, layers=0, timeline=False)
    run.iterations["end"] = run.iterations["end"] + 0.05
    assert len(check(trace(run))) > 1


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 10)), max_size=20))
def test_free_tracks_are_as_few_as_intervals_overlap(intervals):
    start = np.array([at for at, _ in intervals], np.int64)
    end = start + np.array([length for _, length in intervals], np.int64)
    order = np.argsort(start, kind="stable")
    tracks = _free_tracks(start[order], end[order])
    depth = max((int(np.sum((start <= t) & (end > t))) for t in range(61)), default=0)
    assert len(set(tracks.tolist())) == depth


def test_equal_runs_give_equal_bytes(record, synthetic, tmp_path):
    first = write_timeline(record, tmp_path / "a.json.gz")
    second = write_timeline(synthetic.record(), tmp_path / "b.json.gz")
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(gzip.decompress(first.read_bytes()))["displayTimeUnit"] == "ms"
