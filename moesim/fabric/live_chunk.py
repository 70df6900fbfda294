"""Chunks in progress on a simulation's clock: links store and forward them, first come, first served.

The rules are those of moesim.fabric.chunk; messages may come at any time, from several senders that do not know of each
other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moesim.fabric.chunk import Paths, check_crossings, divided, refuse_chunk
from moesim.fabric.flow import Flows
from moesim.fabric.live import Calendar
from moesim.fabric.topology import FloatArray, Topology
from moesim.fabric.transfer import PICOSECONDS, picoseconds


@dataclass(eq=False)
class _Message:
    """Flows that were sent together, and how many of their chunks have not arrived."""

    pending: int
    done: Callable[[], None]


class LiveChunks:
    """The links of a topology, and the chunks of at most `chunk` bytes on them.

    Raises:
        MoesimError: chunks of no bytes.
    """

    def __init__(self, clock: Calendar, topology: Topology, chunk: float) -> None:
        refuse_chunk(chunk)
        self.clock, self.topology, self.chunk = clock, topology, chunk
        #: [M] bytes over each link so far.
        self.carried: FloatArray = np.zeros(topology.links)
        self._paths = Paths(topology)
        self._bandwidth = topology.bandwidth.tolist()
        self._latency = picoseconds(topology.latency).tolist()
        self._free = [0] * topology.links

    def send(self, flows: Flows, done: Callable[[], None]) -> None:
        """Queues all chunks at their first links now, the first of every flow before the second of any; `done` is
        called when the last one has arrived. Flows that cross no link arrive after their latency.

        Raises:
            MoesimError: the chunks are too small for the bytes.
        """
        check_crossings(flows, self.chunk)
        queued: list[list[tuple[list[int], float]]] = []
        message = _Message(0, done)
        for size, latency, ways in zip(flows.size.tolist(), flows.latency, self._paths.of(flows), strict=True):
            if ways and size:
                queued.append(divided(size, self.chunk, ways))
                message.pending += len(queued[-1])
            else:
                message.pending += 1
                due = self.clock.now + int(picoseconds(latency))
                self.clock.call_at(due, lambda: self._arrive(message), what="a message")
        for place in range(max(map(len, queued), default=0)):
            for chunks in queued:
                if place < len(chunks):
                    self._cross(message, *chunks[place], 0)

    def _arrive(self, message: _Message) -> None:
        message.pending -= 1
        if not message.pending:
            message.done()

    def _cross(self, message: _Message, path: list[int], size: float, hop: int) -> None:
        """The chunk has come to the end of `hop` links of its path."""
        if hop == len(path):
            self._arrive(message)
            return
        link = path[hop]
        start = max(self.clock.now, self._free[link])
        self._free[link] = start + round(size / self._bandwidth[link] * PICOSECONDS)
        self.carried[link] += size
        there = self._free[link] + self._latency[link]
        self.clock.call_at(there, lambda: self._cross(message, path, size, hop + 1), what="a chunk on a link")
