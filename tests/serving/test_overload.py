"""Loads beyond what a server can do, and classes of requests with objectives of their own; a step takes 1 s."""

from __future__ import annotations

import numpy as np
import pytest
import ruler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loads import CONSTANT, LAYOUTS, SINGLE, document, load, mix

from moesim.results.metrics import summarise
from moesim.serving.simulate import simulate
from moesim.spec.errors import MoesimError

pytestmark = pytest.mark.usefixtures("ruler_path")


# Overload


def test_an_overloaded_run_ends_with_its_diagnosis():
    """A server that needs 3 s a request gets one a second for 40 s. Ten seconds after the last arrival, at 49 s, the
    16th has finished at 48 and the step in progress ends."""
    requests = {"mix": "m", "rate": "1/s", "count": 40, "arrival": "deterministic", "drain": "10 s"}
    record = load(requests, engine=SINGLE, slo={"e2e": "2 s"})
    assert record.overloaded
    assert not record.partial
    assert any("no request can meet slo.e2e: 2000 ms" in note for note in record.notes)
    assert record.end == 49
    assert int(np.count_nonzero(~np.isnan(record.requests["finish"]))) == 16
    summary = summarise(record)
    assert summary["bottleneck"]["overloaded"]
    assert any("10 s after the last arrival" in note and "24 requests" in note for note in summary["notes"])


def test_without_a_limit_a_run_ends_after_ten_times_its_arrivals():
    """20 s a request, one a second for 400 s: drained after 8000 s, cut after 4000."""
    requests = {"mix": "long", "rate": "1/s", "count": 401, "arrival": "deterministic"}
    record = simulate(ruler.spec_of(document(requests, {"long": mix(outputs=20)}, engine=SINGLE)))
    assert record.end == 4400
    assert record.overloaded


def test_later_stages_of_an_overloaded_run_are_not_sent():
    stages = [{"rate": "1/s", "count": 30, "drain": 0}, {"rate": "1/s", "count": 5}]
    record = load({"mix": "m", "arrival": "deterministic", "stages": stages}, engine=SINGLE)
    assert len(record.requests["arrival"]) == 30
    assert any("5 of later stages were not sent" in note for note in record.notes)


def test_the_stage_that_is_overloaded_is_named():
    """3 s a request: the first stage has one in 4 s, the second two a second, and drains before the third."""
    stages = [{"rate": "0.25/s"}, {"rate": "2/s"}, {"rate": "0.25/s"}]
    requests = {"mix": "m", "count": 40, "arrival": "deterministic", "stages": stages}
    found = summarise(simulate(ruler.spec_of(document(requests, engine=SINGLE))))["bottleneck"]
    assert (found["overloaded"], found["stage"]) == (True, 1)
    assert any("the queue grows in stage 1" in line for line in found["lines"])


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    drain=st.sampled_from(["0 s", "3 s", "4.5 s"]),
    rate=st.sampled_from(["1/s", "2.3/s"]),
    layout=st.integers(0, 4),
    run=st.sampled_from([{"rate": "1/s"}, {"concurrency": 2}]),
)
def test_an_overloaded_run_ends_at_the_same_step_with_and_without_run_ahead(drain, rate, layout, run):
    stages = [{"rate": rate, "count": 12, "drain": drain}, {**run, "count": 3}]
    engine = {"max_sequences": 2, "sequence_overhead": "9 ms"}
    record = ruler.run(
        document({"mix": "long", "stages": stages}, {"long": mix(outputs=9)}, engine=engine, **LAYOUTS[layout])
    )
    last = record.requests["arrival"][:12].max()
    if record.overloaded:
        assert len(record.requests["arrival"]) == 12
        assert record.end >= last + float(drain.removesuffix(" s"))


# Classes


def test_goodput_of_classes():
    """Half of the requests are long. 3 tokens end after 3 s, 9 after 9 s: the long ones miss the general 5 s, and meet
    the 10 s that is theirs."""
    classes = {"short": {"share": 1}, "long": {"share": 1, "output": {**CONSTANT, "mean": 9}}}
    tree = document({"mix": "two", "arrival": "burst", "count": 8}, {"two": mix(classes=classes)})
    record = ruler.run(tree)
    names = record.requests["class"]
    assert set(record.requests["output_tokens"][names == "long"].tolist()) == {9}
    assert set(record.requests["output_tokens"][names == "short"].tolist()) == {3}
    share = float(np.mean(names == "short"))
    general = summarise(record, ruler.spec_of(tree | {"slo": {"e2e": "5 s"}}).slo)["goodput"]
    assert general["share"] == share
    assert {name: each["share"] for name, each in general["classes"].items()} == {"short": 1, "long": 0}
    own = summarise(record, ruler.spec_of(tree | {"slo": {"e2e": "5 s", "classes": {"long": {"e2e": "10 s"}}}}).slo)
    assert own["goodput"]["share"] == 1
    assert own["goodput"]["classes"]["long"]["slo"] == {"e2e": 10}


def test_classes_of_a_trace(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens,class\n0,4,2,a\n9,4,3,b\n")
    tree = document({"trace": str(trace)}) | {"slo": {"classes": {"a": {"ttft": "10 ms"}}}}
    record = ruler.run(tree)
    assert record.requests["class"].tolist() == ["a", "b"]
    (note,) = [note for note in record.notes if "slo" in note]
    assert note == "no request can meet slo.classes.a.ttft: 10 ms, one request alone takes at least 1e+03 ms"


def test_an_objective_for_no_class():
    tree = document({"mix": "m", "rate": "1/s", "count": 1}) | {"slo": {"classes": {"a": {"ttft": "1 s"}}}}
    with pytest.raises(MoesimError, match="no requests of class 'a'"):
        simulate(ruler.spec_of(tree))


def test_an_objective_that_a_queue_misses_is_none_that_nobody_can_meet(on_ruler):
    """Two requests at once on a single server: the second misses 3 s, one alone needs 2 s."""
    record = on_ruler([(0, 4, 2), (0, 4, 2)], engine=SINGLE, slo={"e2e": "3 s"})
    assert not [note for note in record.notes if "slo" in note]
