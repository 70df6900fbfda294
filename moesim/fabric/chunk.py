"""Store and forward: messages in chunks, links that serve one chunk after the other in the order of arrival.

A chunk occupies a link for its bytes over the link's bandwidth; the link's latency later it can go on from the far end,
as a whole. With h equal links and p chunks of m bytes a message takes (p + h - 1) m / B + h a. With small chunks this
is the time of flows that cut through, where each queue serves its flows evenly; where it does not, the two differ: a
first-in-first-out queue favours flows that arrive faster, max-min fairness does not.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from moesim.fabric.flow import Arrivals, Dependencies, Flows
from moesim.fabric.maxmin import NEVER
from moesim.fabric.topology import Topology
from moesim.fabric.transfer import PICOSECONDS
from moesim.spec.errors import MoesimError

#: Link crossings beyond which a simulation would take minutes.
MOST_CROSSINGS = 20_000_000
#: Shares of a flow below this are rounding.
NOTHING = 1e-9

#: A path (links in order) and the share of the flow that takes it.
Way: TypeAlias = tuple[list[int], float]


def store_and_forward(flows: Flows, topology: Topology, chunk: float) -> Arrivals:
    """Runs the flows in chunks of at most `chunk` bytes (inf: whole messages).

    When a coflow starts, all its chunks queue at their first links, the first of every flow before the second of any. A
    flow that is split sends each chunk where its share lags most. Latencies are those of the links.

    Raises:
        MoesimError: coflows wait for each other in a circle; the chunks are too small for the bytes.
    """
    return _Queues(flows, topology, chunk).run()


class Paths:
    """The paths of flows over a topology, found once for all flows that use the same links."""

    def __init__(self, topology: Topology) -> None:
        self.source, self.target = topology.source.tolist(), topology.target.tolist()
        self._known: dict[tuple[tuple[int, ...], tuple[float, ...]], list[Way]] = {}

    def of(self, flows: Flows) -> list[list[Way]]:
        """The paths of each flow with their shares: always on along the link with the largest share that is left."""
        link, fraction, pointer = flows.link.tolist(), flows.fraction.tolist(), flows.pointer.tolist()
        found = []
        for begin, end in pairwise(pointer):
            key = tuple(link[begin:end]), tuple(fraction[begin:end])
            if key not in self._known:
                self._known[key] = self._follow(*key) if end > begin else []
            found.append(self._known[key])
        return found

    def _follow(self, links: tuple[int, ...], fractions: tuple[float, ...]) -> list[Way]:
        left: dict[int, float] = {}
        for link, fraction in zip(links, fractions, strict=True):
            left[link] = left.get(link, 0.0) + fraction
        source, destination = self._ends(left)
        found: list[Way] = []
        while path := self._way(left, source, destination):
            share = min(left[link] for link in path)
            found.append((path, share))
            left = {link: rest - share if link in path else rest for link, rest in left.items()}
        return found

    def _way(self, left: dict[int, float], here: int, destination: int) -> list[int]:
        """A path over what is left; none where nothing leads to the destination any more."""
        path: list[int] = []
        while here != destination:
            leaving = [j for j, share in left.items() if self.source[j] == here and share > NOTHING and j not in path]
            if not leaving:
                return []
            path.append(max(leaving, key=left.__getitem__))
            here = self.target[path[-1]]
        return path

    def _ends(self, shares: dict[int, float]) -> tuple[int, int]:
        """Where the flow leaves more than it brings, and where it brings more than it leaves."""
        net: dict[int, float] = {}
        for link, share in shares.items():
            for vertex, sign in ((self.source[link], 1), (self.target[link], -1)):
                net[vertex] = net.get(vertex, 0.0) + sign * share
        return max(net, key=net.__getitem__), min(net, key=net.__getitem__)


def pieces(size: float, chunk: float) -> list[float]:
    """Bytes of each chunk of a message: whole ones, and what is left."""
    if size <= chunk:
        return [size]
    whole = int(size // chunk)
    rest = size - whole * chunk
    return [chunk] * whole + ([rest] if rest > size * NOTHING else [])


def divided(size: float, chunk: float, ways: list[Way]) -> list[tuple[list[int], float]]:
    """Path and bytes of each chunk of a message; a split one sends each where its share lags most."""
    sizes = pieces(size, chunk)
    if len(ways) == 1:
        return [(ways[0][0], each) for each in sizes]
    sent = [0.0] * len(ways)
    found = []
    for each in sizes:
        way = min(range(len(ways)), key=lambda w: (sent[w] + each) / ways[w][1])
        sent[way] += each
        found.append((ways[way][0], each))
    return found


def refuse_chunk(chunk: float) -> None:
    """Raises MoesimError where chunks hold nothing."""
    if not chunk > 0:
        raise MoesimError(f"chunks of {chunk:g} bytes", fix="give them more than zero")


def check_crossings(flows: Flows, chunk: float) -> None:
    """Raises MoesimError where so many chunks would take minutes."""
    crossings = float((np.ceil(flows.size / chunk) * np.diff(flows.pointer)).sum())
    if crossings > MOST_CROSSINGS:
        raise MoesimError(
            f"chunks of {chunk:g} bytes make {crossings:.3g} crossings of links",
            fix=f"make them {crossings / MOST_CROSSINGS:.0f} times as large, or take fabric: flow",
        )


class _Queues:
    """The state of one run. A chunk is (flow, its path, its bytes, how far it has come)."""

    def __init__(self, flows: Flows, topology: Topology, chunk: float) -> None:
        refuse_chunk(chunk)
        check_crossings(flows, chunk)
        self.flows, self.topology, self.chunk = flows, topology, chunk
        self.dependencies = Dependencies(flows)
        self.pending = np.bincount(flows.coflow, minlength=len(flows.start)).tolist()
        order = np.argsort(flows.coflow, kind="stable")
        self.members = [each.tolist() for each in np.split(order, np.cumsum(self.pending)[:-1])]
        self.moving = ((np.diff(flows.pointer) > 0) & (flows.size > 0)).tolist()
        self.paths, self.sizes, self.coflow = Paths(topology).of(flows), flows.size.tolist(), flows.coflow.tolist()
        self.chunks: list[tuple[int, list[int], float]] = []
        self.waiting = [0] * len(flows)  # chunks of each flow that have not arrived
        self.calendar: list[tuple[float, int, int, int]] = []  # seconds, order, chunk, links behind it
        self.free = [0.0] * topology.links
        self.carried = [0.0] * topology.links
        self.arrival = [0] * len(flows)
        self.start, self.finish = [0] * len(flows.start), [0] * len(flows.start)

    def run(self) -> Arrivals:
        crossings = order = 0
        bandwidth, latency = self.topology.bandwidth.tolist(), self.topology.latency.tolist()
        while self.calendar or self.dependencies.next_start() < NEVER:
            due = self.dependencies.next_start()
            if not self.calendar or due <= self.calendar[0][0] * PICOSECONDS:
                order = self._start(due, order)
                continue
            now, _, chunk, hop = heappop(self.calendar)
            flow, path, size = self.chunks[chunk]
            if hop == len(path):
                self._arrive(flow, now)
                continue
            link, crossings, order = path[hop], crossings + 1, order + 1
            self.free[link] = max(now, self.free[link]) + size / bandwidth[link]
            self.carried[link] += size
            heappush(self.calendar, (self.free[link] + latency[link], order, chunk, hop + 1))
        times = [np.array(column, dtype=np.int64) for column in (self.arrival, self.start, self.finish)]
        return Arrivals(times[0], times[1], times[2], np.array(self.carried), crossings)

    def _start(self, now: int, order: int) -> int:
        """Queues the chunks of all coflows that are due; returns the order of the last event."""
        for index in self.dependencies.starting(now):
            self.start[index] = self.finish[index] = now
            queued = []
            for flow in self.members[index]:
                if self.moving[flow]:
                    queued += [(place, flow, path, size) for place, (path, size) in enumerate(self._pieces(flow))]
                else:
                    self._flow_done(flow, now + round(float(self.flows.latency[flow]) * PICOSECONDS))
            for _, flow, path, size in sorted(queued, key=lambda each: each[:2]):
                order += 1
                heappush(self.calendar, (now / PICOSECONDS, order, len(self.chunks), 0))
                self.chunks.append((flow, path, size))
            if not self.members[index]:
                self.dependencies.arrived(index, now)
        return order

    def _pieces(self, flow: int) -> list[tuple[list[int], float]]:
        """Path and bytes of each chunk of a flow."""
        found = divided(self.sizes[flow], self.chunk, self.paths[flow])
        self.waiting[flow] = len(found)
        return found

    def _arrive(self, flow: int, now: float) -> None:
        self.waiting[flow] -= 1
        if not self.waiting[flow]:
            self._flow_done(flow, round(now * PICOSECONDS))

    def _flow_done(self, flow: int, now: int) -> None:
        index = self.coflow[flow]
        self.arrival[flow] = now
        self.finish[index] = max(self.finish[index], now)
        self.pending[index] -= 1
        if not self.pending[index]:
            self.dependencies.arrived(index, self.finish[index])
