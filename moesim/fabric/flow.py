"""Flows that share links max-min fair: finish times of coflows with dependencies, event by event.

A flow moves its bytes over fixed links at the rate that progressive filling gives it; rates change when flows start or
end, all changes of one instant in one solve. It arrives its latency after its last byte left: latency adds to the time,
not to the load. Where all flows of a coflow have its largest latency, it is never faster than latency plus busiest
link.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moesim.fabric.maxmin import NEVER, KernelName, Sharing, entries, is_limited
from moesim.fabric.routes import Routes
from moesim.fabric.transfer import PICOSECONDS, FloatArray, IntArray, picoseconds
from moesim.spec.errors import MoesimError


@dataclass(frozen=True, eq=False)
class Flows:
    """F flows in columns, grouped in C coflows.

    pointer: [F+1], link: [E], fraction: [E]: flow i uses the links `link[pointer[i]:pointer[i+1]]`, each with that
    share of its bytes (below 1 where it is split over several paths). size: [F] bytes. latency: [F] seconds. coflow:
    [F]. start: [C] picoseconds, before which no flow of the coflow starts. after: per coflow, those that must have
    arrived before it starts.
    """

    pointer: IntArray
    link: IntArray
    fraction: FloatArray
    size: FloatArray
    latency: FloatArray
    coflow: IntArray
    start: IntArray
    after: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        flows, coflows = len(self.size), len(self.start)
        if (len(self.pointer), len(self.latency), len(self.coflow)) != (flows + 1, flows, flows):
            raise ValueError("the columns of the flows differ in length")
        if len(self.fraction) != len(self.link) or int(self.pointer[-1]) != len(self.link):
            raise ValueError("the links of the flows do not fit their pointers")
        if len(self.after) != coflows or (flows and not 0 <= self.coflow.min() <= self.coflow.max() < coflows):
            raise ValueError("a flow or a dependency names no coflow")
        if any(not 0 <= before < coflows for each in self.after for before in each):
            raise ValueError("a coflow waits for one that does not exist")
        for what, column in (("bytes", self.size), ("seconds of latency", self.latency)):
            wrong = ~(np.isfinite(column) & (column >= 0))
            if wrong.any():
                flow = int(np.argmax(wrong))
                raise MoesimError(f"flow {flow} has {column[flow]:g} {what}", fix="give it a finite number from 0 on")
        if not (self.fraction > 0).all():
            raise ValueError("a flow uses a link with no share of its bytes")

    def __len__(self) -> int:
        return len(self.size)

    def loads(self, links: int) -> FloatArray:
        """[M] bytes over each link."""
        return spread(self, self.size, links)


def coflow(paths: Sequence[Sequence[int]], size: ArrayLike, latency: ArrayLike = 0.0, *, start: int = 0) -> Flows:
    """One coflow of whole flows.

    Args:
        paths: the links of each flow. size: bytes, latency: seconds, of each flow or of all. start: picoseconds.
    """
    lengths = [len(path) for path in paths]
    flows = len(paths)
    return Flows(
        pointer=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        link=np.array([link for path in paths for link in path], dtype=np.int64),
        fraction=np.ones(sum(lengths)),
        size=np.broadcast_to(np.asarray(size, dtype=np.float64), flows).copy(),
        latency=np.broadcast_to(np.asarray(latency, dtype=np.float64), flows).copy(),
        coflow=np.zeros(flows, dtype=np.int64),
        start=np.array([start], dtype=np.int64),
        after=((),),
    )


def along(routes: Routes, size: ArrayLike, *, start: int = 0, synchronous: bool = True) -> Flows:
    """One coflow over routes; pairs that move nothing are left out.

    Args:
        size: [P] bytes of each pair. start: picoseconds. synchronous: all flows take the latency of the slowest one,
            as the rounds of a collective do; otherwise each its own.
    """
    sizes = np.broadcast_to(np.asarray(size, dtype=np.float64), len(routes.pairs))
    moves = np.flatnonzero(sizes != 0)
    at, count = entries(routes.pointer, moves)
    latency = routes.latency[moves]
    return Flows(
        pointer=np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
        link=routes.link[at],
        fraction=routes.fraction[at],
        size=sizes[moves],
        latency=np.full(len(moves), latency.max(initial=0.0)) if synchronous else latency,
        coflow=np.zeros(len(moves), dtype=np.int64),
        start=np.array([start], dtype=np.int64),
        after=((),),
    )


def together(parts: Sequence[Flows], after: Sequence[Sequence[int]] | None = None) -> Flows:
    """Several groups of flows as one.

    Args:
        after: per group, the groups that must have arrived as a whole before it starts; none where not given.
    """
    first = np.cumsum([0, *(len(part.start) for part in parts)])
    waits: list[tuple[int, ...]] = []
    for index, part in enumerate(parts):
        outer = [c for group in (after[index] if after else ()) for c in range(first[group], first[group + 1])]
        waits += [(*(int(first[index]) + before for before in each), *outer) for each in part.after]
    lengths = np.concatenate([np.diff(part.pointer) for part in parts])
    return Flows(
        pointer=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        link=np.concatenate([part.link for part in parts]),
        fraction=np.concatenate([part.fraction for part in parts]),
        size=np.concatenate([part.size for part in parts]),
        latency=np.concatenate([part.latency for part in parts]),
        coflow=np.concatenate([part.coflow + offset for part, offset in zip(parts, first, strict=False)]),
        start=np.concatenate([part.start for part in parts]),
        after=tuple(waits),
    )


@dataclass(frozen=True, eq=False)
class Arrivals:
    """When flows and coflows arrived, in picoseconds.

    flow: [F]. start, finish: [C] of the coflows. carried: [M] bytes that went over each link. events: how often rates
    were computed, or chunks went over a link.
    """

    flow: IntArray
    start: IntArray
    finish: IntArray
    carried: FloatArray
    events: int

    @cached_property
    def end(self) -> int:
        """The last arrival."""
        return int(self.finish.max(initial=0))

    def utilisation(self, bandwidth: FloatArray) -> FloatArray:
        """[M] share of each link's capacity used from the first start to the last arrival."""
        seconds = (self.end - int(self.start.min(initial=self.end))) / PICOSECONDS
        return self.carried / (bandwidth * seconds) if seconds > 0 else np.zeros_like(self.carried)


def simulate(flows: Flows, bandwidth: FloatArray, kernel: KernelName = "auto") -> Arrivals:
    """Runs the flows over links of `bandwidth` [M] bytes/s.

    Raises:
        MoesimError: coflows wait for each other in a circle.
    """
    return _Simulation(flows, bandwidth, kernel).run()


class Dependencies:
    """Which coflows may start: all those they wait for have arrived.

    Args:
        flows: the coflows. now: picoseconds from which their starts are counted.

    Raises:
        MoesimError: coflows wait for each other in a circle.
    """

    def __init__(self, flows: Flows, now: int = 0) -> None:
        self._waiting = [len(set(each)) for each in flows.after]
        self._followers: list[list[int]] = [[] for _ in flows.after]
        for index, each in enumerate(flows.after):
            for before in dict.fromkeys(each):
                self._followers[before].append(index)
        self._refuse_circle()
        self._ready = [now + start for start in flows.start.tolist()]
        self._due: dict[int, list[int]] = {}
        self._times: list[int] = []
        for index, count in enumerate(self._waiting):
            if not count:
                self._set_due(index)

    def next_start(self) -> int:
        """When the next coflow starts, as far as is known; NEVER where none is left."""
        return self._times[0] if self._times else NEVER

    def starting(self, now: int) -> list[int]:
        """Takes the coflows that start at `now`."""
        if self.next_start() != now:
            return []
        return self._due.pop(heappop(self._times))

    def arrived(self, index: int, finish: int) -> None:
        """A coflow has arrived at `finish`."""
        for follower in self._followers[index]:
            self._ready[follower] = max(self._ready[follower], finish)
            self._waiting[follower] -= 1
            if not self._waiting[follower]:
                self._set_due(follower)

    def _set_due(self, index: int) -> None:
        time = self._ready[index]
        if time not in self._due:
            self._due[time] = []
            heappush(self._times, time)
        self._due[time].append(index)

    def _refuse_circle(self) -> None:
        waiting = list(self._waiting)
        free = [index for index, count in enumerate(waiting) if not count]
        while free:
            for follower in self._followers[free.pop()]:
                waiting[follower] -= 1
                if not waiting[follower]:
                    free.append(follower)
        if any(waiting):
            stuck = next(index for index, count in enumerate(waiting) if count)
            raise MoesimError(f"coflow {stuck} never starts", fix="coflows must not wait for each other in a circle")


class _Simulation:
    """The state of one run."""

    def __init__(self, flows: Flows, bandwidth: FloatArray, kernel: KernelName) -> None:
        self.flows = flows
        self.sharing = Sharing(flows.pointer, flows.link, flows.fraction, bandwidth, kernel)
        self.dependencies = Dependencies(flows)
        self.pending = np.bincount(flows.coflow, minlength=len(flows.start))
        by_coflow = np.argsort(flows.coflow, kind="stable")
        self.members = np.split(by_coflow, np.cumsum(self.pending)[:-1])
        self.left, self.slow = flows.size.copy(), takes_time(flows, bandwidth)
        self.arrival = np.zeros(len(flows), dtype=np.int64)
        self.start = np.zeros(len(flows.start), dtype=np.int64)
        self.finish = np.zeros(len(flows.start), dtype=np.int64)

    def run(self) -> Arrivals:
        flows, now, events = self.flows, 0, 0
        active, ended = np.empty(0, dtype=np.int64), np.empty(len(self.flows), dtype=np.int64)
        while len(active) or self.dependencies.next_start() < NEVER:
            until = self.dependencies.next_start()
            now, remaining, level = self.sharing.advance(
                now, until, active, self.left, flows.latency, self.arrival, ended
            )  # fmt: skip
            self._end(ended[: len(active) - remaining])
            active = active[:remaining]
            started = self._start(now)
            if len(started):
                active, level = np.sort(np.concatenate([active, started])), 0.0
            if level < np.inf and len(active):
                events += 1
                self.sharing.refill(active, level)
        moved = np.where(self.slow, flows.size - self.left, flows.size)
        carried = spread(flows, moved, len(self.sharing.capacity))
        return Arrivals(self.arrival, self.start, self.finish, carried, events)

    def _start(self, now: int) -> IntArray:
        """Starts all coflows that are due; returns their flows that take time on links."""
        started = [np.empty(0, dtype=np.int64)]
        while coflows := self.dependencies.starting(now):
            for index in coflows:
                members = self.members[index]
                self.start[index] = now
                slow = self.slow[members]
                started.append(members[slow])
                at_once = members[~slow]
                self.arrival[at_once] = now + picoseconds(self.flows.latency[at_once])
                self.pending[index] -= len(at_once)
                if not self.pending[index]:
                    self._finish(index)
        return np.concatenate(started)

    def _end(self, flows: IntArray) -> None:
        for index in self.flows.coflow[flows].tolist():
            self.pending[index] -= 1
            if not self.pending[index]:
                self._finish(index)

    def _finish(self, index: int) -> None:
        self.finish[index] = self.arrival[self.members[index]].max(initial=self.start[index])
        self.dependencies.arrived(index, int(self.finish[index]))


def takes_time(flows: Flows, bandwidth: FloatArray) -> NDArray[np.bool_]:
    """[F] whether a flow has bytes and a link that is not infinitely fast."""
    slow: NDArray[np.bool_] = is_limited(flows.pointer, flows.link, bandwidth) & (flows.size > 0)
    return slow


def spread(flows: Flows, size: FloatArray, links: int) -> FloatArray:
    """[M] bytes over each link where every flow moves `size` [F]."""
    bytes_on = flows.fraction * np.repeat(size, np.diff(flows.pointer))
    return np.bincount(flows.link, bytes_on, links).astype(np.float64)
