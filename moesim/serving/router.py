"""Which replica, and which DP rank of it, takes an arriving request."""

from __future__ import annotations

from typing import Protocol

from moesim.registry import Registry
from moesim.step.graph import IntArray


class Router(Protocol):
    """Chooses one of several targets; holds whatever state it needs."""

    #: Whether `choose` looks at the loads; they are not computed otherwise.
    needs_load: bool

    def choose(self, loads: IntArray) -> int:
        """Args: loads: unfinished requests per target. Returns the target's index."""
        ...


#: Routers by name; other packages add theirs under the entry points `moesim.router`.
ROUTERS: Registry[Router] = Registry("router", "router")


@ROUTERS.register("round-robin")
class RoundRobin:
    """Targets in turn, whatever their load."""

    needs_load = False

    def __init__(self) -> None:
        self._next = 0

    def choose(self, loads: IntArray) -> int:
        target = self._next % len(loads)
        self._next += 1
        return target


@ROUTERS.register("least-loaded")
class LeastLoaded:
    """The target with the fewest unfinished requests; among equals, the one after the last choice, in turn."""

    needs_load = True

    def __init__(self) -> None:
        self._last = -1

    def choose(self, loads: IntArray) -> int:
        equals = (loads == loads.min()).nonzero()[0].tolist()
        self._last = next((target for target in equals if target > self._last), equals[0])
        return self._last
