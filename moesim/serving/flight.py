"""A block of steps that a replica executes."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from moesim.engine.clock import Timer
from moesim.serving.sequences import RequestState
from moesim.step.pricing import Executable


@dataclass(eq=False)
class Flight:
    """A block being executed: `ends[k]` is when its k-th step ends."""

    block: Executable
    start: int
    ends: list[int]
    steps: int  # of the block that will be executed, lowered when it is cut
    waiting: int  # requests still queued when it began
    rested: bool = False  # the devices were idle before it
    timer: Timer | None = None
    arrivals: list[int] = field(default_factory=list)
    #: Sequences whose first step here it is, after their prompt was computed elsewhere.
    joined: list[RequestState] = field(default_factory=list)

    def in_progress(self, now: int) -> int:
        """Which of its steps is."""
        return bisect_left(self.ends, now, 0, min(self.steps, len(self.ends)))

    def step_began(self, now: int) -> int:
        """When the step in progress did."""
        step = self.in_progress(now)
        return self.ends[step - 1] if step else self.start
