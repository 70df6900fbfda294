"""Every way to lay a model over so many devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Degrees(NamedTuple):
    """Degrees of parallelism, as in an experiment: tp x pp x dp x replicas devices, experts over ep groups."""

    tp: int
    pp: int
    dp: int
    ep: int
    replicas: int


def divisors(number: int) -> list[int]:
    small = [each for each in range(1, int(number**0.5) + 1) if number % each == 0]
    return sorted({*small, *(number // each for each in small)})


def layouts(devices: int, moe: bool) -> Iterator[Degrees]:
    """All degrees whose product is `devices`, in ascending order.

    With ep 1 every DP rank is a replica by itself, so that those are counted as dp alone; dense models know no other.
    """
    for tp in divisors(devices):
        for pp in divisors(devices // tp):
            ranks = devices // tp // pp
            for dp in divisors(ranks):
                for ep in divisors(tp * dp) if moe else (1,):
                    if ep > 1 or dp == ranks:
                        yield Degrees(tp, pp, dp, ep, ranks // dp)
