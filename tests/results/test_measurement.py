import numpy as np
import pytest

from moesim.results.compare import open_side
from moesim.results.measurement import measured_requests, measured_summary, request_metrics
from moesim.spec.errors import MoesimError

#: As published runs have it: the engine's clock beside the data set's, latencies in milliseconds.
PUBLISHED = """\
req_id,arrival_s_dataset,queued_s_measured,prompt_tokens,output_tokens,queue_ms,ttft_ms,e2e_ms,tpot_ms
0,0.05,0.0,100,11,0.1,50.0,1050.0,100.0
1,0.35,0.5,200,21,0.1,100.0,3100.0,150.0
"""


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "requests.csv"
    path.write_text(PUBLISHED)
    return path


def test_requests_are_read_in_seconds(published):
    found = measured_requests(published)
    np.testing.assert_allclose(found["ttft"], [0.05, 0.1])
    np.testing.assert_allclose(found["queued"], [0.0, 0.5])


def test_metrics_of_requests_are_those_of_a_run(published):
    found = request_metrics(measured_requests(published))
    assert found["ttft.mean"] == pytest.approx(0.075)
    assert found["tpot.p50"] == pytest.approx(0.125)
    # The last token comes 3.1 s after 0.5 s; 32 tokens were made until then.
    assert found["duration"] == pytest.approx(3.6)
    assert found["throughput.output_tokens"] == pytest.approx(32 / 3.6)


def test_tpot_follows_from_the_others(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("ttft,e2e,output_tokens\n1,3,5\n")
    np.testing.assert_allclose(measured_requests(path)["tpot"], [0.5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "has none of the columns"),
        ("ttft_ms\n", "holds no requests"),
        ("ttft_ms\n1\nx\n", r"a\.csv:3: ttft_ms 'x' is no number"),
    ],
)
def test_bad_requests_are_one_line(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(MoesimError, match=message):
        measured_requests(path)


def test_summaries_of_several_spellings():
    assert measured_summary({"ttft": {"mean": "90 ms", "p99": 0.2}}, "a") == {"ttft.mean": 0.09, "ttft.p99": 0.2}
    assert measured_summary({"ttft_ms": {"median": 90}}, "a") == {"ttft.p50": pytest.approx(0.09)}
    assert measured_summary({"tpot.p90": 0.1, "run": "x"}, "a") == {"tpot.p90": 0.1}
    assert measured_summary({"e2e_s": 2}, "a") == {"e2e.mean": 2.0}
    nested = {"peer": {"ttft_ms": {"mean": 1}}, "measured_vllm": {"ttft_ms": {"mean": 2}}}
    assert measured_summary(nested, "a") == {"ttft.mean": pytest.approx(0.002)}


def test_a_latency_that_is_no_time_is_one_line():
    with pytest.raises(MoesimError, match=r"ttft\.mean: 'soon' is no time"):
        measured_summary({"ttft": {"mean": "soon"}}, "a")


@pytest.mark.parametrize("name", ["values.yaml", "values.json", "values.txt"])
def test_files_without_values_are_one_line(tmp_path, name):
    path = tmp_path / name
    path.write_text("[]")
    with pytest.raises(MoesimError, match=r"holds no values|no results folder and no measurement"):
        open_side(path)
