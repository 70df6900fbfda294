"""What the collectives of an executed step travel over: ports and links of its own, or those of the whole machine."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from typing import Any, Protocol

import simpy

from moesim.engine.clock import Clock
from moesim.fabric.links import GroupLinks
from moesim.fabric.rounds import Network, round_flows
from moesim.fabric.transfer import Group, Phase


class Wires(Protocol):
    """Moves one round of a phase of a transfer of a single size."""

    def round(self, phase: Phase, group: Group, members: Sequence[int]) -> simpy.Event:
        """Comes when the round is over. members: the lanes of the graph that the group's lanes are."""
        ...


class OwnWires:
    """Ports and links of one step alone; each serves one transfer after the other, a latency and its bytes long."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._links: dict[Hashable, simpy.Resource] = {}  # as they come into use

    def round(self, phase: Phase, group: Group, members: Sequence[int]) -> simpy.Event:
        uses = phase.uses(group, members)
        if not uses:  # the call is made although there is nothing to move
            return self.clock.timeout(phase.pause(group))
        return self.clock.all_of([self.clock.process(self._move(*use)) for use in uses])

    def _move(self, resource: Hashable, took: int) -> Generator[simpy.Event, Any, None]:
        if resource not in self._links:
            self._links[resource] = simpy.Resource(self.clock)
        with self._links[resource].request() as turn:
            yield turn
            yield self.clock.timeout(took)


class SharedWires:
    """The links of a machine, which all steps in progress share. No round is faster than latency and busiest link."""

    def __init__(self, clock: Clock, network: Network) -> None:
        self.clock, self.network = clock, network

    def round(self, phase: Phase, group: Group, members: Sequence[int]) -> simpy.Event:
        assert isinstance(group, GroupLinks)
        least = self.clock.timeout(int(phase.round_picoseconds(group)))
        flows = round_flows(phase, group)
        if not len(flows):
            return least
        arrived = self.clock.event()

        def done() -> None:
            arrived.succeed()

        self.network.send(flows, done)
        return self.clock.all_of([least, arrived])
