"""When the requests of a mix arrive: renewal processes, at one rate or at rates that change over time."""

from __future__ import annotations

import math

import numpy as np

from moesim.serving.requests.table import FloatArray
from moesim.spec.errors import MoesimError
from moesim.spec.serving import Arrival, LoadSpec


def arrivals(spec: LoadSpec, process: Arrival, variation: float, stream: np.random.Generator) -> FloatArray:
    """Arrival times in seconds, ascending: `count` of them, or those before `duration`. A conditioned process has
    rate x duration of them, or lasts for count / rate.

    Where the rate changes, the process runs in operational time, the number of arrivals expected so far, and is mapped
    to seconds by the inverse of it (Cinlar, Introduction to Stochastic Processes, 1975, section 4.7).

    Raises:
        MoesimError: no request is expected within the duration of a conditioned process.
    """
    if process == "burst":
        return np.zeros(spec.count or 0)
    if spec.rates is None:
        return _renewal(process, spec.rate or 1.0, variation, spec.count, spec.duration, stream)
    pace = Pace(spec.rates, spec.period)
    expected = None if spec.duration is None else float(pace.expected(np.array([spec.duration]))[0])
    times = pace.seconds(_renewal(process, 1.0, variation, spec.count, expected, stream))
    # Where the duration ends while no requests come, the last one of a conditioned process is due at any time of that.
    return times if spec.duration is None else np.minimum(times, spec.duration)


def _renewal(
    process: Arrival,
    rate: float,
    variation: float,
    count: int | None,
    duration: float | None,
    stream: np.random.Generator,
) -> FloatArray:
    if process == "conditioned":
        return _conditioned(rate, count, duration, stream)
    if count is not None:
        return _times(process, rate, variation, count, stream)
    assert duration is not None
    expected = rate * duration
    # Ten standard deviations more than expected; should they not suffice, all are drawn again, the first ones alike.
    count = math.ceil(expected + 10 * max(variation, 1.0) * math.sqrt(expected + 1)) + 1
    while True:
        state = stream.bit_generator.state
        times = _times(process, rate, variation, count, stream)
        if times[-1] >= duration:
            return times[times < duration]
        stream.bit_generator.state = state
        count *= 2


def _times(process: Arrival, rate: float, variation: float, count: int, stream: np.random.Generator) -> FloatArray:
    """`count` arrivals at `rate` per second. Deterministic ones start at 0, renewal processes with their first gap.

    Gamma gaps of mean 1/rate and coefficient of variation c have shape 1/c^2 and scale c^2/rate; c = 1 is Poisson.
    """
    if process == "deterministic":
        return np.arange(count) / rate
    if process == "poisson":
        gaps = stream.exponential(1 / rate, count)
    else:
        gaps = stream.gamma(variation**-2, variation**2 / rate, count)
    return np.cumsum(gaps)


def _conditioned(rate: float, count: int | None, duration: float | None, stream: np.random.Generator) -> FloatArray:
    """Exponential gaps rescaled so that the last arrival falls on the end: a Poisson process of which it is known that
    its n-th arrival does."""
    if duration is None:
        assert count is not None
        duration = count / rate
    else:
        count = round(rate * duration)
    if not count:
        what = f"{rate * duration:.2g} requests are expected in the duration, conditioned arrivals need one"
        raise MoesimError(what, key="requests.duration", fix="extend it, or raise the rate")
    times = np.cumsum(stream.exponential(1.0, count))
    times *= duration / times[-1]
    times[-1] = duration
    return times


class Pace:
    """Rates that hold from a time on.

    Args:
        rates: (seconds, requests per second), the first at 0.
        period: after which they begin again; None: the last one holds for ever.
    """

    def __init__(self, rates: tuple[tuple[float, float], ...], period: float | None) -> None:
        self._begin, self._rate = (np.array(column, dtype=np.float64) for column in zip(*rates, strict=True))
        self._period = period
        end = self._begin[-1] if period is None else period
        #: Arrivals expected before each rate begins, and before the end of them all.
        self._before = np.cumsum([0.0, *np.diff([*self._begin, end]) * self._rate])

    def expected(self, seconds: FloatArray) -> FloatArray:
        """Arrivals expected before each time."""
        rounds, rest = np.divmod(seconds, self._period) if self._period else (0.0, seconds)
        at = np.searchsorted(self._begin, rest, side="right") - 1
        return np.asarray(rounds * self._before[-1] + self._before[at] + (rest - self._begin[at]) * self._rate[at])

    def seconds(self, expected: FloatArray) -> FloatArray:
        """When so many arrivals are expected: after a time without any, at its end."""
        rounds, rest = np.divmod(expected, self._before[-1]) if self._period else (np.zeros(1), expected)
        at = np.searchsorted(self._before[:-1], rest, side="right") - 1
        time = self._begin[at] + (rest - self._before[at]) / self._rate[at]
        return np.asarray(rounds * (self._period or 0.0) + time)
