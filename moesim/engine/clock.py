"""The only clock: SimPy's environment counting integer picoseconds, with cheap callbacks that can be cancelled."""

from __future__ import annotations

import operator
from collections.abc import Callable
from heapq import heappush
from typing import TYPE_CHECKING, Any

import simpy
from simpy.core import BoundClass

from moesim.engine.invariants import InvariantError
from moesim.fabric.transfer import PICOSECONDS
from moesim.spec.errors import MoesimError

#: Order within one instant: a stop, then timeouts and callbacks as they were scheduled, then the `last` ones; then what
#: the ends of steps send, and the steps that begin with it.
FIRST, NORMAL, LAST, SENDING, STARTING = -1, 1, 2, 3, 4


#: 64 bits hold 106 days of picoseconds; 95 leave room for a block of 256 steps of an hour.
LATEST = 95 * 86400 * PICOSECONDS


class StoppedError(Exception):
    """The run was asked to stop, and did so between two events."""


def whole_picoseconds(delay: Any, what: object) -> int:
    """`delay` as a non-negative int; InvariantError names `what` asked for anything else (NaN, a float, a negative)."""
    try:
        whole = operator.index(delay)
    except TypeError:
        raise InvariantError(f"{what}: a delay of {delay!r} is no whole number of picoseconds") from None
    if whole < 0:
        raise InvariantError(f"{what}: a delay of {whole} picoseconds is negative")
    return whole


class Delay(simpy.Timeout):
    """`clock.timeout(delay, what=...)`: a timeout that refuses times the calendar cannot count."""

    def __init__(self, env: Clock, delay: int, value: Any = None, what: object = "a timeout") -> None:
        if type(delay) is not int or delay < 0:
            delay = whole_picoseconds(delay, what)
        super().__init__(env, delay, value)


class Timer(simpy.Event):
    """A pending callback. Cancelling leaves its entry in the calendar, where it does nothing when its time comes."""

    def __init__(self, clock: Clock, time: int, callback: Callable[[], None], priority: int) -> None:
        self.env = clock
        self.callbacks = [self._fire]
        self._value, self._ok = None, True
        self._callback: Callable[[], None] | None = callback
        entry: Any = (time, priority, next(clock._eid), self)
        heappush(clock._queue, entry)

    @property
    def pending(self) -> bool:
        return self._callback is not None

    def cancel(self) -> None:
        """Never call back. Harmless where it already has."""
        self._callback = None

    def _fire(self, _: simpy.Event) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


def _stop() -> None:
    raise StoppedError


class Clock(simpy.Environment):
    """`now` is an int of picoseconds. `run()` without an end also runs past cancelled timers."""

    def __init__(self, start: int = 0) -> None:
        super().__init__(start)
        # SimPy binds these early only where they stand in the class itself, not where a subclass inherits them.
        for name in ("process", "timeout", "event", "all_of", "any_of"):
            setattr(self, name, getattr(self, name))

    if TYPE_CHECKING:
        now: int

        def timeout(self, delay: int = 0, value: Any = None, what: object = "a timeout") -> Delay: ...  # type: ignore[override]

    else:
        timeout = BoundClass(Delay)

    @property
    def seconds(self) -> float:
        return self._now / PICOSECONDS

    def stop(self) -> None:
        """Have `run` raise StoppedError before the next event, while the state is whole. May be called at any time,
        from a signal's handler too: the calendar's heap is changed by single calls that no handler divides."""
        Timer(self, int(self._now), _stop, FIRST)

    def call_at(
        self, time: int, callback: Callable[[], None], *, last: bool = False, what: object = "a callback"
    ) -> Timer:
        """Call back at `time` (picoseconds, not before now); `last`: after everything else of that instant.

        Raises:
            InvariantError: the time is past, or no whole number; the message names `what`.
            MoesimError: it is later than 64 bits can count from.
        """
        if type(time) is not int or not self._now <= time <= LATEST:
            time = whole_picoseconds(time, what)
            if time < self._now:
                raise InvariantError(f"{what}: {time} ps is before now, {self._now} ps")
            if time > LATEST:
                raise MoesimError(
                    "the run passes 95 days of simulated time",
                    key="requests",
                    fix="ask for fewer requests, or check the rates of the machine's devices and links",
                )
        return Timer(self, time, callback, LAST if last else NORMAL)

    def call_in(
        self, delay: int, callback: Callable[[], None], *, last: bool = False, what: object = "a callback"
    ) -> Timer:
        """Call back after `delay` picoseconds; see call_at."""
        if type(delay) is not int or delay < 0:
            delay = whole_picoseconds(delay, what)
        return Timer(self, int(self._now) + delay, callback, LAST if last else NORMAL)
