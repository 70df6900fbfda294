"""Transfers in progress on a simulation's clock: flows that come and go share the links max-min fair.

All that starts or ends at one instant leads to one solve, after everything else of that instant; one timer waits for
the next flow to end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from moesim.fabric.flow import Dependencies, Flows, takes_time
from moesim.fabric.maxmin import LONGEST, NEVER, KernelName, Sharing, entries
from moesim.fabric.transfer import PICOSECONDS, FloatArray, IntArray, picoseconds


class Timer(Protocol):
    def cancel(self) -> None:
        """Never call back."""


class Calendar(Protocol):
    """What is needed of a clock: `now` in picoseconds, and callbacks; `last`: after all else of that instant."""

    @property
    def now(self) -> int: ...
    def call_at(self, time: int, callback: Callable[[], None], *, last: bool = False, what: object = "") -> Timer: ...


class Transmission:
    """Flows that were sent together. start, finish: picoseconds; finish is None until all have arrived."""

    def __init__(self, flows: Flows, start: int, done: Callable[[], None] | None) -> None:
        self.flows, self.start, self.done = flows, start, done
        self.finish: int | None = None
        self.cancelled = False
        self.dependencies = Dependencies(flows, start)
        self.coflows = len(flows.start)  # those that have not arrived


@dataclass(eq=False)
class _Coflow:
    """A coflow in progress: its number in its transmission, its flows on the links, its latest arrival so far."""

    sent: Transmission
    index: int
    pending: int
    arrival: int


@dataclass(eq=False)
class _Pool:
    """Flows on the links, in columns; `coflow` numbers those in progress."""

    pointer: IntArray
    link: IntArray
    fraction: FloatArray
    size: FloatArray
    left: FloatArray
    latency: FloatArray
    coflow: IntArray

    @staticmethod
    def of(flows: Flows, members: IntArray, number: int) -> _Pool:
        at, count = entries(flows.pointer, members)
        pointer = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        size = flows.size[members]
        numbers = np.full(len(members), number, dtype=np.int64)
        return _Pool(pointer, flows.link[at], flows.fraction[at], size, size.copy(), flows.latency[members], numbers)

    def kept(self, rows: IntArray) -> _Pool:
        at, count = entries(self.pointer, rows)
        pointer = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        return _Pool(
            pointer, self.link[at], self.fraction[at], self.size[rows], self.left[rows], self.latency[rows],
            self.coflow[rows],
        )  # fmt: skip

    @staticmethod
    def joined(parts: Sequence[_Pool]) -> _Pool:
        none, nothing = np.empty(0, np.int64), np.empty(0)
        counts = np.concatenate([none, *(np.diff(part.pointer) for part in parts)])
        return _Pool(
            pointer=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            link=np.concatenate([none, *(part.link for part in parts)]),
            fraction=np.concatenate([nothing, *(part.fraction for part in parts)]),
            size=np.concatenate([nothing, *(part.size for part in parts)]),
            left=np.concatenate([nothing, *(part.left for part in parts)]),
            latency=np.concatenate([nothing, *(part.latency for part in parts)]),
            coflow=np.concatenate([none, *(part.coflow for part in parts)]),
        )

    def over_links(self, rows: IntArray, values: FloatArray, links: int) -> FloatArray:
        """[M] sum over the flows in `rows` of their `values`, times their fraction on each link."""
        at, count = entries(self.pointer, rows)
        return np.bincount(self.link[at], self.fraction[at] * np.repeat(values, count), links).astype(np.float64)


class LiveFlows:
    """The links of a machine, of `bandwidth` [M] bytes/s, and the flows on them."""

    def __init__(self, clock: Calendar, bandwidth: FloatArray, kernel: KernelName = "auto") -> None:
        self.clock, self.bandwidth, self.kernel = clock, bandwidth, kernel
        #: [M] bytes of ended and cancelled flows over each link; how often rates were computed.
        self.carried, self.solves = np.zeros(len(bandwidth)), 0
        self._coflows: dict[int, _Coflow] = {}
        self._numbered = 0
        self._at = 0  # the instant that the pool's `left` speaks of
        self._incoming: list[_Pool] = []
        self._level = np.inf  # rates from here on are out of date
        self._settling = False
        self._timer: Timer | None = None
        self._active: IntArray
        self._renew([])

    def send(self, flows: Flows, done: Callable[[], None] | None = None) -> Transmission:
        """Starts the flows, their starts counted from now; `done` is called when the last one has arrived.

        Raises:
            MoesimError: coflows wait for each other in a circle.
        """
        sent = Transmission(flows, self.clock.now, done)
        self._start_due(sent)
        return sent

    def cancel(self, sent: Transmission) -> None:
        """Takes the flows of a transmission off the links; it never arrives. Harmless where it already has."""
        if sent.finish is not None or sent.cancelled:
            return
        sent.cancelled = True
        self._advance()
        numbers = [number for number, coflow in self._coflows.items() if coflow.sent is sent]
        mine = np.isin(self._pool.coflow[self._active], numbers)
        self._leave(self._active[mine])
        self._sharing.rate[self._active[mine]] = 0.0
        self._active = self._active[~mine]
        self._incoming = [part for part in self._incoming if part.coflow[0] not in numbers]
        for number in numbers:
            del self._coflows[number]
        self._touch(0.0)

    def used(self) -> FloatArray:
        """[M] bytes/s that the flows in progress take of each link."""
        return self._pool.over_links(self._active, self._sharing.rate[self._active], len(self.bandwidth))

    def _start_due(self, sent: Transmission) -> None:
        """Starts the coflows that are due, and comes back for those that are known to start later."""
        if sent.cancelled:
            return
        while sent.dependencies.next_start() <= self.clock.now:
            for index in sent.dependencies.starting(sent.dependencies.next_start()):
                self._start(sent, index)
        if sent.dependencies.next_start() < NEVER:
            self.clock.call_at(sent.dependencies.next_start(), lambda: self._start_due(sent), what="a coflow's start")

    def _start(self, sent: Transmission, index: int) -> None:
        flows, now = sent.flows, self.clock.now
        members = np.flatnonzero(flows.coflow == index)
        slow = takes_time(flows, self.bandwidth)[members]
        free = _Pool.of(flows, members[~slow], 0)
        self.carried += free.over_links(np.arange(len(free.size)), free.size, len(self.bandwidth))
        coflow = _Coflow(sent, index, int(slow.sum()), now + int(picoseconds(free.latency).max(initial=0)))
        if not coflow.pending:
            self._arriving(coflow)
            return
        self._coflows[self._numbered] = coflow
        self._incoming.append(_Pool.of(flows, members[slow], self._numbered))
        self._numbered += 1
        self._touch(0.0)

    def _arriving(self, coflow: _Coflow) -> None:
        """The coflow is off the links; it arrives when the latency of its last flow is over."""
        self.clock.call_at(coflow.arrival, lambda: self._arrived(coflow), what="a coflow's arrival")

    def _arrived(self, coflow: _Coflow) -> None:
        sent = coflow.sent
        if sent.cancelled:
            return
        sent.coflows -= 1
        sent.dependencies.arrived(coflow.index, coflow.arrival)
        self._start_due(sent)
        if not sent.coflows:
            sent.finish = self.clock.now
            if sent.done is not None:
                sent.done()

    def _advance(self) -> None:
        """Moves bytes up to now; flows that end leave the links."""
        pool, now = self._pool, self.clock.now
        self._at, remaining, level = self._sharing.advance(
            self._at, now, self._active, pool.left, pool.latency, self._arrival, self._ended
        )  # fmt: skip
        if self._at < now:
            raise AssertionError(f"a flow ended at {self._at} ps, unnoticed until {now} ps")
        ended = self._ended[: len(self._active) - remaining]
        self._active = self._active[:remaining]
        self._leave(ended)
        for flow, number in zip(ended.tolist(), pool.coflow[ended].tolist(), strict=True):
            coflow = self._coflows[number]
            coflow.pending -= 1
            coflow.arrival = max(coflow.arrival, int(self._arrival[flow]))
            if not coflow.pending:
                del self._coflows[number]
                self._arriving(coflow)
        if level < np.inf:
            self._touch(level)

    def _leave(self, flows: IntArray) -> None:
        """Counts what flows that leave the links have moved."""
        moved = self._pool.size[flows] - self._pool.left[flows]
        self.carried += self._pool.over_links(flows, moved, len(self.bandwidth))

    def _touch(self, level: float) -> None:
        """Rates from `level` on are to be computed anew before this instant ends."""
        self._level = min(self._level, level)
        if not self._settling:
            self._settling = True
            self.clock.call_at(self.clock.now, self._settle, last=True, what="the solve of shared links")

    def _settle(self) -> None:
        self._advance()
        self._settling = False
        if self._incoming:
            self._renew([self._pool.kept(self._active), *self._incoming])
            self._incoming, self._level = [], 0.0
        level, self._level = self._level, np.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if len(self._active):
            self._sharing.refill(self._active, level)
            self.solves += 1
            seconds = (self._pool.left[self._active] / self._sharing.rate[self._active]).min()
            due = self._at + round(min(float(seconds) * PICOSECONDS, LONGEST))
            self._timer = self.clock.call_at(due, self._advance, what="the end of a flow")

    def _renew(self, parts: Sequence[_Pool]) -> None:
        self._pool = pool = _Pool.joined(parts)
        self._sharing = Sharing(pool.pointer, pool.link, pool.fraction, self.bandwidth, self.kernel)
        self._active = np.arange(len(pool.size))
        self._arrival, self._ended = np.zeros(len(pool.size), np.int64), np.empty(len(pool.size), np.int64)
        self._at = self.clock.now
