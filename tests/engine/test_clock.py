"""The clock: integer picoseconds, order within an instant, cancellation, refusal of undefined delays."""

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
import simpy

from moesim.engine.clock import Clock
from moesim.engine.invariants import InvariantError


def test_callbacks_run_in_time_order_and_last_ones_last() -> None:
    clock, seen = Clock(), []
    clock.call_at(20, lambda: seen.append((clock.now, "late")))
    clock.call_at(10, lambda: seen.append((clock.now, "solve")), last=True)
    clock.call_at(10, lambda: seen.append((clock.now, "first")))
    clock.call_in(10, lambda: seen.append((clock.now, "second")))
    clock.run()
    assert seen == [(10, "first"), (10, "second"), (10, "solve"), (20, "late")]
    assert clock.seconds == 20e-12


def test_a_cancelled_callback_never_comes() -> None:
    clock, seen = Clock(), []
    timer = clock.call_in(5, lambda: seen.append("cancelled"))
    clock.call_in(3, timer.cancel)
    kept = clock.call_in(7, lambda: seen.append("kept"))
    assert kept.pending
    clock.run()
    assert seen == ["kept"]
    assert not timer.pending
    assert not kept.pending
    kept.cancel()


def test_processes_and_callbacks_share_the_calendar() -> None:
    clock, seen = Clock(), []

    def process() -> Generator[simpy.Event, Any, None]:
        yield clock.timeout(10)
        seen.append(clock.now)
        yield clock.all_of([clock.timeout(5), clock.timeout(7)])
        seen.append(clock.now)

    clock.process(process())
    clock.call_at(12, lambda: seen.append(clock.now))
    clock.run()
    assert seen == [10, 12, 17]


@pytest.mark.parametrize("bad", [-1, float("nan"), 1.5, 2.0, np.float64(3), None])
def test_delays_that_the_calendar_cannot_count_are_refused_by_name(bad: Any) -> None:
    clock = Clock()
    with pytest.raises(InvariantError, match="attention of layer 3"):
        clock.timeout(bad, what="attention of layer 3")
    with pytest.raises(InvariantError, match="attention of layer 3"):
        clock.call_in(bad, print, what="attention of layer 3")
    with pytest.raises(InvariantError, match="attention of layer 3"):
        clock.call_at(bad, print, what="attention of layer 3")


def test_callbacks_in_the_past_are_refused() -> None:
    clock = Clock(start=100)
    with pytest.raises(InvariantError, match="arrival"):
        clock.call_at(99, print, what="arrival")
    clock.call_at(np.int64(100), lambda: None)
    clock.run()
    assert clock.now == 100


def test_numpy_integers_count_as_integers_and_leave_the_clock_an_int() -> None:
    clock = Clock()
    clock.timeout(np.int64(4))
    clock.call_in(np.int64(6), lambda: None)
    clock.run()
    assert (clock.now, type(clock.now)) == (6, int)


def test_event_factories_are_bound_to_the_instance() -> None:
    assert {"process", "timeout", "event", "all_of", "any_of"} <= set(vars(Clock()))
