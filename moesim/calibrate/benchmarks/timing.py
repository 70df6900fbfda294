"""How a call is timed, and which samples count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

#: Before anything counts, calls are made for so many seconds, one at least: allocations, first touches of pages,
#: choice of kernels, clocks that rise under load.
WARM_UP = 0.01

#: Samples per measurement, and the seconds after which no more than the fewest are taken.
FEWEST, MOST, PATIENCE = 3, 25, 0.1

#: Samples this many interquartile ranges outside the quartiles do not count (Tukey's fences).
FENCE = 1.5


@dataclass(frozen=True)
class Work:
    """Something to time. `call(i)` runs it on copy i of its weights, of which there are `copies`.

    Taking turns between copies keeps weights out of the caches, as in a model, which reads other layers' in between.
    `wall`: it waits for others (disks, other processes), so that only a wall clock measures it.
    """

    call: Callable[[int], object]
    copies: int = 1
    wall: bool = False


class Clock(Protocol):
    """Times calls number `first` to `first + calls - 1` in a row, which take turns between the copies: total seconds.

    way: how they are launched, as `eager` or `graph`. shortest: seconds that a sample must last, for the sake of the
    clock's resolution; its call is repeated until it does.
    """

    way: str
    shortest: float

    def seconds(self, work: Work, first: int, calls: int) -> float: ...


@dataclass(frozen=True)
class Measurement:
    """Median seconds of a call; samples that count and that did not; their interquartile range over the median."""

    seconds: float
    samples: int
    rejected: int
    spread: float


def measure(work: Work, clock: Clock) -> Measurement:
    """The median of the samples within Tukey's fences. How often a sample repeats its call is found out on the way."""
    first, calls, warm, total = 0, 1, 0.0, 0.0
    while warm < WARM_UP or total < clock.shortest:
        total = clock.seconds(work, first, calls)
        first, warm = first + calls, warm + total
        if total < clock.shortest:
            calls = max(2 * calls, int(np.ceil(calls * clock.shortest / max(total, 1e-9))))
    samples: list[float] = []
    spent = 0.0
    while len(samples) < FEWEST or (len(samples) < MOST and spent < PATIENCE):
        total = clock.seconds(work, first, calls)
        first += calls
        samples.append(total / calls)
        spent += total
    return summarised(samples)


def summarised(samples: Sequence[float]) -> Measurement:
    """Raises ValueError: there is no sample."""
    if not len(samples):
        raise ValueError("no samples")
    values = np.asarray(samples, dtype=np.float64)
    low, high = np.percentile(values, (25, 75))
    margin = FENCE * (high - low)
    kept = values[(values >= low - margin) & (values <= high + margin)]
    median = float(np.median(kept))
    return Measurement(median, len(kept), len(values) - len(kept), float(high - low) / median)
