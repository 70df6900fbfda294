"""Max-min fair rates of flows over links, and the next instant at which they change.

Progressive filling: the rates of all flows rise together until a link is full; its flows keep their rate, the others
rise on (Bertsekas and Gallager, Data Networks, section 6.5.2). A flow that is split over several paths uses each link
with its share of the bytes.

Flows lie in columns: flow i uses `link[pointer[i]:pointer[i+1]]`, each with `fraction` of its bytes. Each compiled loop
has a twin in array operations. The loop fills links in the order of their levels. The arrays freeze in one round all
links whose fair share is no larger than that of any other link on the paths of their flows: such a link fills before
all of these whatever happens elsewhere. Both compute the share of a full link anew, over its flows in ascending order,
so that the results are the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal

import numpy as np

from moesim import accelerate
from moesim.fabric.topology import BoolArray
from moesim.fabric.transfer import PICOSECONDS, FloatArray, IntArray

KernelName = Literal["auto", "numpy", "numba"]

#: Flows below which compiling is not worth while.
WORTH_COMPILING = 200
#: Fair shares that differ by no more than this (relative) are one level of the filling.
TIE = 1e-12
#: Rates that lie below the level of a change by more than this (relative) are not touched by it.
SLACK = 1e-9
#: Later than any calendar counts, in picoseconds; and the longest time that is added to an instant.
NEVER, LONGEST = 2**62, 2.0**61
#: Marks the rate of a flow that still rises.
OPEN = -1.0
#: Links whose smallest share is kept as one number.
BLOCK = 16


class Sharing:
    """Flows over links, their max-min fair rates [F] in bytes/s (0: not in progress, inf: no link limits them)."""

    def __init__(
        self,
        pointer: IntArray,
        link: IntArray,
        fraction: FloatArray,
        capacity: FloatArray,
        kernel: KernelName = "auto",
    ) -> None:
        self.pointer, self.link, self.fraction, self.capacity = pointer, link, fraction, capacity
        flows = len(pointer) - 1
        wanted = kernel == "auto" and accelerate.HAVE_NUMBA and flows >= WORTH_COMPILING
        self.compiled = kernel == "numba" or wanted
        self.rate = np.zeros(flows)
        self._advance: Callable[..., tuple[int, int, float]] = advance_arrays
        if self.compiled:
            self._advance = accelerate.compiled(advance_loop)

    @cached_property
    def _by_link(self) -> tuple[IntArray, IntArray, FloatArray]:
        """[M+1] where each link's flows begin, [E] the flows, ascending, [E] their fractions."""
        order = np.argsort(self.link, kind="stable")
        flow = np.repeat(np.arange(len(self.rate)), np.diff(self.pointer))
        count = np.bincount(self.link, minlength=len(self.capacity))
        return np.concatenate([[0], np.cumsum(count)]), flow[order], self.fraction[order]

    def refill(self, active: IntArray, level: float = 0.0) -> None:
        """Sets the rates of the `active` flows (ascending; each has a link that is not infinitely fast).

        Args:
            level: flows slower than this keep their rate: where flows have only ended, the smallest rate among these
                (a link that fills at a lower level carries none of them). 0: new flows.
        """
        columns = self.pointer, self.link, self.fraction, self.capacity
        if not self.compiled:
            fill_arrays(*columns, *self._by_link, active, level, self.rate)
            return
        state = accelerate.compiled(open_loop)(*columns, active, level, self.rate)
        accelerate.compiled(fill_loop)(*columns, *self._by_link, *state, self.rate)

    def advance(
        self,
        now: int,
        until: int,
        active: IntArray,
        left: FloatArray,
        latency: FloatArray,
        arrival: IntArray,
        ended: IntArray,
    ) -> tuple[int, int, float]:
        """See `advance_arrays`."""
        return self._advance(now, until, active, left, self.rate, latency, arrival, ended)


def max_min_rates(
    pointer: IntArray, link: IntArray, fraction: FloatArray, capacity: FloatArray, kernel: KernelName = "auto"
) -> FloatArray:
    """[F] max-min fair rates, bytes/s; inf for a flow that no link limits.

    Args:
        pointer: [F+1], link: [E], fraction: [E] the links of each flow. capacity: [M] bytes/s.
    """
    sharing = Sharing(pointer, link, fraction, capacity, kernel)
    limited = is_limited(pointer, link, capacity)
    sharing.refill(np.flatnonzero(limited))
    sharing.rate[~limited] = np.inf
    return sharing.rate


def is_limited(pointer: IntArray, link: IntArray, capacity: FloatArray) -> BoolArray:
    """[F] whether a flow has a link that is not infinitely fast."""
    finite = np.concatenate([[0], np.cumsum(np.isfinite(capacity[link]))])
    limited: BoolArray = finite[pointer[1:]] > finite[pointer[:-1]]
    return limited


def entries(pointer: IntArray, flows: IntArray) -> tuple[IntArray, IntArray]:
    """Positions in `link` of the links of `flows`, flow by flow, and how many each has."""
    count = pointer[flows + 1] - pointer[flows]
    first = np.cumsum(count) - count
    return np.repeat(pointer[flows] - first, count) + np.arange(int(count.sum())), count


def fill_arrays(
    pointer: IntArray,
    link: IntArray,
    fraction: FloatArray,
    capacity: FloatArray,
    first: IntArray,
    flow_on: IntArray,
    part: FloatArray,
    active: IntArray,
    level: float,
    rate: FloatArray,
) -> None:
    """Rates of the `active` flows that are no slower than `level`, round by round; for the flows by link see
    `Sharing._by_link`."""
    links, rising = len(capacity), rate[active] >= level * (1 - SLACK)
    at, count = entries(pointer, active[~rising])
    room = capacity - np.bincount(link[at], fraction[at] * np.repeat(rate[active[~rising]], count), links)
    left = active[rising]
    at, count = entries(pointer, left)
    used, share_of, rate[left] = link[at], fraction[at], OPEN
    weight, crossing, share = np.bincount(used, share_of, links), np.bincount(used, minlength=links), np.zeros(links)
    while len(left):
        begin = np.cumsum(count) - count
        share = np.maximum(share, np.divide(room, weight, out=np.zeros(links), where=(crossing > 0) & (weight > 0)))
        lowest = np.minimum.reduceat(share[used], begin)
        tied = share[used] <= np.repeat(lowest * (1 + TIE), count)
        full = _full_links(used, tied, begin, count, crossing > 0)
        filling = np.flatnonzero(full)
        at, flows = entries(first, filling)
        on, speed = np.repeat(np.arange(len(filling)), flows), rate[flow_on[at]]
        held = np.bincount(on, np.where(speed == OPEN, 0.0, part[at] * speed))
        share[filling] = (capacity[filling] - held) / np.bincount(on, np.where(speed == OPEN, part[at], 0.0))
        frozen = np.logical_or.reduceat(full[used], begin)
        gone = np.repeat(frozen, count)
        rate[left[frozen]] = speed = np.minimum.reduceat(share[used], begin)[frozen]
        room = room - np.bincount(used[gone], share_of[gone] * np.repeat(speed, count[frozen]), links)
        weight = weight - np.bincount(used[gone], share_of[gone], links)
        crossing = crossing - np.bincount(used[gone], minlength=links)
        left, count, used, share_of = left[~frozen], count[~frozen], used[~gone], share_of[~gone]


def _full_links(used: IntArray, tied: BoolArray, begin: IntArray, count: IntArray, full: BoolArray) -> BoolArray:
    """[M] links that fill before all others on the paths of their flows, together with those that tie with them.

    Args:
        used: [E] links of the flows. tied: [E] whether the link's share is the lowest on the path, or as good as it.
        begin, count: [F] where the flows' links begin, and how many. full: [M] links in question.
    """
    full[used[~tied]] = False
    while True:
        waiting = tied & ~full[used]
        waits = np.repeat(np.logical_or.reduceat(waiting, begin), count)
        more = tied & waits & ~waiting
        if not more.any():
            return full
        full[used[more]] = False


def open_loop(
    pointer: IntArray,
    link: IntArray,
    fraction: FloatArray,
    capacity: FloatArray,
    active: IntArray,
    level: float,
    rate: FloatArray,
) -> tuple[FloatArray, FloatArray, IntArray, int]:
    """Opens the `active` flows that are no slower than `level`.

    Returns:
        [M] bytes/s that the others leave on each link, [M] sum of fractions and [M] number of the opened flows on it,
        and how many were opened.
    """
    links, opened = len(capacity), 0
    room, weight, crossing = capacity.copy(), np.zeros(links), np.zeros(links, np.int64)
    for flow in active:
        speed = rate[flow]
        if speed >= level * (1 - SLACK):
            rate[flow] = OPEN
            opened += 1
            for e in range(pointer[flow], pointer[flow + 1]):
                weight[link[e]] += fraction[e]
                crossing[link[e]] += 1
        else:
            for e in range(pointer[flow], pointer[flow + 1]):
                room[link[e]] -= fraction[e] * speed
    return room, weight, crossing, opened


def fill_loop(
    pointer: IntArray,
    link: IntArray,
    fraction: FloatArray,
    capacity: FloatArray,
    first: IntArray,
    flow_on: IntArray,
    part: FloatArray,
    room: FloatArray,
    weight: FloatArray,
    crossing: IntArray,
    opened: int,
    rate: FloatArray,
) -> None:
    """Rates of the flows that `open_loop` opened, level by level; the flows by link are `Sharing._by_link`."""
    links = len(capacity)
    share, block = np.full(links, np.inf), np.full(links // BLOCK + 1, np.inf)
    stale = np.ones(len(block), np.bool_)
    full, touched = np.empty(links, np.int64), np.arange(links)
    moved, found, changed, least = np.zeros(links, np.bool_), 0, links, 0.0
    while opened:
        for i in range(changed):
            j = touched[i]
            moved[j], stale[j // BLOCK] = False, True
            share[j] = max(least, room[j] / weight[j]) if crossing[j] and weight[j] > 0 else np.inf
        for b in range(len(block)):
            if stale[b]:
                stale[b], block[b] = False, np.inf
                for j in range(b * BLOCK, min(b * BLOCK + BLOCK, links)):
                    block[b] = min(block[b], share[j])
        least, found, changed = block.min(), 0, 0
        for b in range(len(block)):
            if block[b] <= least * (1 + TIE):
                for j in range(b * BLOCK, min(b * BLOCK + BLOCK, links)):
                    if share[j] <= least * (1 + TIE):
                        full[found] = j
                        found += 1
        for j in full[:found]:
            held, open_weight = 0.0, 0.0
            for e in range(first[j], first[j + 1]):
                if rate[flow_on[e]] == OPEN:
                    open_weight += part[e]
                else:
                    held += part[e] * rate[flow_on[e]]
            share[j] = (capacity[j] - held) / open_weight
        for j in full[:found]:
            for flow in flow_on[first[j] : first[j + 1]]:
                if rate[flow] == OPEN:
                    rate[flow], opened = np.inf, opened - 1
                    for e in range(pointer[flow], pointer[flow + 1]):
                        rate[flow] = min(rate[flow], share[link[e]])
                    for e in range(pointer[flow], pointer[flow + 1]):
                        k = link[e]
                        room[k] -= fraction[e] * rate[flow]
                        weight[k] -= fraction[e]
                        crossing[k] -= 1
                        if not moved[k]:
                            moved[k], touched[changed] = True, k
                            changed += 1


def advance_arrays(
    now: int,
    until: int,
    active: IntArray,
    left: FloatArray,
    rate: FloatArray,
    latency: FloatArray,
    arrival: IntArray,
    ended: IntArray,
) -> tuple[int, int, float]:
    """Moves bytes until the first flow ends, or until `until` (picoseconds).

    Ended flows move from `active`, of which the returned number of entries remains, to the front of `ended` [F]; their
    `rate` becomes 0, their `arrival` [F] is set, latency included. `left` [F] loses the bytes moved. A flow ends at the
    picosecond nearest to its exact end.

    Returns:
        The instant, the flows still in progress, the smallest rate of those that ended (inf: none did).
    """
    seconds = left[active] / rate[active]
    due = now + np.rint(np.minimum(seconds * PICOSECONDS, LONGEST)).astype(np.int64)
    stop = min(int(due.min(initial=NEVER)), until)
    left[active] -= rate[active] * ((stop - now) / PICOSECONDS)
    done = due <= stop
    gone = active[done]
    whole = np.rint(np.minimum((seconds[done] + latency[gone]) * PICOSECONDS, LONGEST))
    arrival[gone] = now + whole.astype(np.int64)
    remaining, level = len(active) - len(gone), float(rate[gone].min(initial=np.inf))
    rate[gone], ended[: len(gone)], active[:remaining] = 0.0, gone, active[~done]
    return stop, remaining, level


def advance_loop(
    now: int,
    until: int,
    active: IntArray,
    left: FloatArray,
    rate: FloatArray,
    latency: FloatArray,
    arrival: IntArray,
    ended: IntArray,
) -> tuple[int, int, float]:
    """As `advance_arrays`, element by element."""
    stop, seconds = until, np.empty(len(active))
    for i, flow in enumerate(active):
        seconds[i] = left[flow] / rate[flow]
        due = now + int(np.rint(min(seconds[i] * PICOSECONDS, LONGEST)))
        stop = due if due < stop else stop
    elapsed = (stop - now) / PICOSECONDS
    remaining, gone, level = 0, 0, np.inf
    for i, flow in enumerate(active):
        left[flow] -= rate[flow] * elapsed
        if now + int(np.rint(min(seconds[i] * PICOSECONDS, LONGEST))) <= stop:
            arrival[flow] = now + int(np.rint(min((seconds[i] + latency[flow]) * PICOSECONDS, LONGEST)))
            level = min(level, rate[flow])
            rate[flow], ended[gone] = 0.0, flow
            gone += 1
        else:
            active[remaining] = flow
            remaining += 1
    return stop, remaining, level
