from __future__ import annotations

import pytest

from moesim.calibrate.benchmarks.timing import FEWEST, MOST, PATIENCE, WARM_UP, Work, measure, summarised


class Scripted:
    """A clock by which call number i takes `seconds(i)`."""

    way = "scripted"
    shortest = 2e-4

    def __init__(self, seconds: object) -> None:
        self.calls, self.batches, self._seconds = 0, [], seconds

    def seconds(self, work: Work, first: int, calls: int) -> float:
        assert first == self.calls  # turns go on where the last sample ended
        self.calls += calls
        self.batches.append(calls)
        return sum(self._seconds(number) for number in range(first, first + calls))  # type: ignore[operator]


WORK = Work(lambda copy: None)


@pytest.mark.parametrize("seconds", [1e-6, 3e-5, 1e-3, 2.0])
def test_a_steady_call_takes_what_it_takes(seconds: float) -> None:
    clock = Scripted(lambda number: seconds)
    found = measure(WORK, clock)
    assert found.seconds == pytest.approx(seconds, rel=1e-9)
    assert (found.rejected, found.spread) == (0, pytest.approx(0.0, abs=1e-9))
    assert FEWEST <= found.samples <= MOST


def test_short_calls_are_repeated_within_a_sample_and_long_ones_are_not() -> None:
    short, long = Scripted(lambda number: 1e-6), Scripted(lambda number: 2.0)
    measure(WORK, short)
    measure(WORK, long)
    assert short.batches[-1] * 1e-6 >= short.shortest
    assert set(long.batches) == {1}
    assert len(long.batches) == 1 + FEWEST  # one to warm up; patience is over after the fewest
    assert PATIENCE < 2.0 * FEWEST


def test_slow_first_calls_do_not_count() -> None:
    clock = Scripted(lambda number: 0.5 * WARM_UP if number < 2 else 1e-3)
    assert measure(WORK, clock).seconds == pytest.approx(1e-3)


def test_samples_outside_the_fences_are_left_out() -> None:
    """Quartiles 1.00 and 1.02, so that the fences are 0.97 and 1.05."""
    found = summarised([1.0, 1.0, 1.01, 1.01, 1.02, 1.02, 1.01, 1.0, 5.0, 0.2])
    assert (found.samples, found.rejected) == (8, 2)
    assert found.seconds == pytest.approx(1.01, abs=0.011)


def test_no_samples_are_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarised([])
