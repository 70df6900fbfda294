"""Arrival processes: how many come and when, at constant and at changing rates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.serving.requests import Requests, make_requests
from moesim.serving.requests.arrivals import Pace
from moesim.spec.errors import MoesimError
from moesim.spec.serving import MixSpec, RequestsSpec

TEN = {"distribution": "constant", "mean": 10}
RISING = [["0 s", "2/s"], ["10 s", "8/s"], ["20 s", "0/s"], ["30 s", "1/s"]]


def make(seed: int = 0, **fields: Any) -> Requests:
    mix = MixSpec.model_validate({"name": "test", "input": TEN, "output": TEN})
    spec = RequestsSpec.model_validate({"mix": "test", **fields})
    return make_requests(spec, {"test": mix}, 4096, 16, np.random.SeedSequence(seed))


@pytest.mark.parametrize("fields", [{"duration": "60 s"}, {"count": 480}])
def test_conditioned_arrivals_are_so_many_and_end_on_time(fields: dict[str, Any]) -> None:
    """8 per second for 60 s make 480, the last of them at the end, whatever the seed."""
    for seed in range(5):
        arrival = make(seed, arrival="conditioned", rate="8/s", **fields).arrival
        assert (len(arrival), arrival[-1]) == (480, 60)


def test_conditioned_arrivals_are_uniform() -> None:
    """Given the last one, the others of a Poisson process are independent and uniform before it."""
    times = np.concatenate(
        [make(seed, arrival="conditioned", rate="10/s", count=100).arrival[:-1] for seed in range(50)]
    )
    uniform = np.sort(times) / 10
    distance = np.abs(uniform - np.arange(1, len(times) + 1) / len(times)).max()
    assert distance * math.sqrt(len(times)) < 1.95  # Kolmogorov-Smirnov at the level of 0.1 %


def test_conditioned_arrivals_end_with_the_duration_even_if_nothing_comes_then() -> None:
    """20 and 80 requests are expected until 20 s, none until 25 s."""
    arrival = make(arrival="conditioned", rates=RISING, duration="25 s").arrival
    assert (len(arrival), arrival[-1]) == (100, 25)
    assert arrival[-2] <= 20


def test_conditioned_on_nothing() -> None:
    with pytest.raises(MoesimError, match="conditioned arrivals need one"):
        make(arrival="conditioned", rate="1/s", duration="0.4 s")


def test_evenly_spaced_at_rates_that_change() -> None:
    """2/s for 10 s: every 0.5 s from 0; then 8/s: every 0.125 s; nothing from 20 s to 30 s; then one a second."""
    arrival = make(arrival="deterministic", rates=RISING, count=103).arrival
    expected = [*np.arange(0, 10, 0.5), *np.arange(10, 20, 0.125), 30, 31, 32]
    np.testing.assert_allclose(arrival, expected, rtol=1e-12)


@pytest.mark.parametrize("arrival", ["poisson", "gamma", "conditioned"])
def test_rates_that_change_are_met_in_each_stretch(arrival: str) -> None:
    times = np.concatenate([make(seed, arrival=arrival, rates=RISING, duration="40 s").arrival for seed in range(100)])
    counts = np.histogram(times, [0, 10, 20, 30, 40.001])[0] / 100
    assert counts[2] == 0
    for found, expected in zip(counts, (20, 80, 0, 10), strict=True):
        assert found == pytest.approx(expected, abs=5 * math.sqrt(expected / 100))


def test_a_day_is_repeated() -> None:
    """One request in the first half of each period of 4 s, two in the second."""
    arrival = make(arrival="deterministic", rates=[["0 s", "0.5/s"], ["2 s", "1/s"]], period="4 s", count=9).arrival
    np.testing.assert_allclose(arrival, [0, 2, 3, 4, 6, 7, 8, 10, 11], atol=1e-12)


def test_rates_without_change_are_a_rate() -> None:
    constant = make(rate="4/s", count=50).arrival
    np.testing.assert_allclose(make(rates=[["0 s", "4/s"], ["5 s", "4/s"]], count=50).arrival, constant, rtol=1e-12)


@given(
    rates=st.lists(st.floats(0, 50), min_size=1, max_size=6),
    gaps=st.lists(st.floats(0.1, 20), min_size=6, max_size=6),
    cycles=st.booleans(),
    expected=st.lists(st.floats(0, 1000), min_size=1, max_size=9),
)
def test_the_time_of_an_expected_number_is_when_it_is_expected(rates, gaps, cycles, expected) -> None:
    rates[-1] += 1  # the last one holds for ever
    begins = [0.0, *np.cumsum(gaps).tolist()]
    pace = Pace(tuple(zip(begins, rates, strict=False)), begins[len(rates)] if cycles else None)
    seconds = pace.seconds(np.array(expected))
    np.testing.assert_allclose(pace.expected(seconds), expected, rtol=1e-6, atol=1e-6)
    assert (np.diff(pace.seconds(np.sort(expected))) >= 0).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"concurrency": 4, "rate": "1/s", "count": 3}, "rate contradicts"),
        ({"concurrency": 4, "rates": RISING, "count": 3}, "rates contradicts"),
        ({"concurrency": 4, "duration": "1 s"}, "duration contradicts"),
        ({"concurrency": 4, "arrival": "burst", "count": 3}, "arrival contradicts"),
        ({"concurrency": 4}, "needs a count"),
        ({"concurrency": 0, "count": 3}, "greater than 0"),
        ({"rate": "1/s", "count": 3, "warmup": 2}, "belong to a closed loop"),
        ({"rate": "1/s", "rates": RISING, "count": 3}, "both a rate and rates"),
        ({"rates": [["1 s", "2/s"]], "count": 3}, "do not ascend from 0"),
        ({"rates": [["0 s", "2/s"], ["0 s", "1/s"]], "count": 3}, "do not ascend from 0"),
        ({"rates": [["0 s", "2/s"], ["9 s", "0/s"]], "count": 3}, "no request comes any more"),
        ({"rates": RISING, "period": "30 s", "count": 3}, "the period ends before"),
        ({"rate": "1/s", "period": "30 s", "count": 3}, "a period repeats rates"),
        ({"rate": "1/s", "count": 3, "scale": 2}, "scale compresses the times of a trace"),
        ({"rate": "1/s", "count": 3, "pause": "2 s"}, "there are none"),
        ({"stages": []}, "stages is empty"),
    ],
)
def test_contradictions(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RequestsSpec.model_validate({"mix": "test", **fields})


def test_a_warm_up_that_leaves_nothing(tmp_path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,4,4\n1,4,4\n")
    spec = RequestsSpec.model_validate({"trace": str(trace), "concurrency": 1, "warmup": 2})
    with pytest.raises(MoesimError, match="2 requests to warm up leave none of 2 to count"):
        make_requests(spec, {}, 4096, 16, np.random.SeedSequence(0))


def test_a_trace_is_compressed(tmp_path) -> None:
    """Twice as fast; what arrives before 3 s is chosen afterwards."""
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,4,4\n5,4,4\n8,4,4\n")
    spec = RequestsSpec.model_validate({"trace": str(trace), "scale": 2, "duration": "3 s"})
    assert make_requests(spec, {}, 4096, 16, np.random.SeedSequence(0)).arrival.tolist() == [0, 2.5]
