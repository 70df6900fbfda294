"""Sends the requests of a run: an open loop at its arrivals, a closed loop as others finish, the next turn of a
conversation when its user has thought, the next phase when the one before has drained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moesim.engine.clock import LATEST, SENDING, Clock, Timer
from moesim.serving.requests.table import Phase, Requests
from moesim.step.graph import PICOSECONDS


class Sender:
    """Drives the arrivals of a run on its clock.

    What sets off an arrival is a finish, and all that finish in one instant react together, in the order of their rows:
    the tables do not depend on the order in which replicas report.

    Args:
        send: called with the row of a request at the time at which it is sent.
        give_up: called when a phase has not drained in time; nothing is sent any more.

    Attributes:
        begins: when each phase began, in picoseconds.
        overdue: the phase that did not drain in time.
    """

    def __init__(
        self, requests: Requests, clock: Clock, send: Callable[[int], None], give_up: Callable[[], None]
    ) -> None:  # fmt: skip
        self.begins: list[int] = []
        self.overdue: Phase | None = None
        self._clock, self._send, self._give_up = clock, send, give_up
        self._phases = requests.phases or (Phase(0, len(requests)),)
        self._arrivals = np.rint(requests.arrival * PICOSECONDS).astype(np.int64)
        sessions = requests.sessions
        self._think = None if sessions is None else np.rint(sessions.think * PICOSECONDS).astype(np.int64)
        #: Where each conversation begins, and the end of all.
        self._starts = [*requests.first_turns().tolist(), len(requests)]
        self._next = 0  # conversation to begin
        self._open = 0  # conversations under way
        self._continues = np.ones(len(requests), dtype=bool)
        self._continues[np.array(self._starts[1:], dtype=np.int64) - 1] = False
        self._reacts = requests.reacts
        self._finished: list[int] = []
        self._deadline: Timer | None = None

    def begin(self) -> None:
        """Begin the next phase."""
        if self.overdue is not None:
            return
        self.begins.append(int(self._clock.now))
        phase = self._phase
        if not phase.concurrency:
            self._await_arrival()
            return
        while self._open < phase.concurrency and self._remaining:
            self._begin_conversation()

    def finished(self, row: int) -> None:
        """A request has its last token, now."""
        if not self._reacts:
            self._end_conversation()
            return
        if not self._finished:
            Timer(self._clock, int(self._clock.now), self._react, SENDING)
        self._finished.append(row)

    @property
    def _phase(self) -> Phase:
        return self._phases[len(self.begins) - 1]

    @property
    def _remaining(self) -> bool:
        """Whether conversations of this phase have not begun."""
        return bool(self._starts[self._next] < self._phase.last)

    def _await_arrival(self) -> None:
        """One pending event at a time keeps the calendar small."""
        at = self.begins[-1] + int(self._arrivals[self._starts[self._next]])
        self._clock.call_at(at, self._arrive)

    def _arrive(self) -> None:
        if self.overdue is not None:
            return
        self._begin_conversation()
        if self._remaining:
            self._await_arrival()
        else:
            self._set_deadline()

    def _begin_conversation(self) -> None:
        row = self._starts[self._next]
        self._next += 1
        self._open += 1
        self._send(row)

    def _react(self) -> None:
        """To all that finished in this instant."""
        rows, self._finished = sorted(self._finished), []
        if self.overdue is not None:
            return
        for row in rows:
            if self._continues[row]:
                self._think_about(row + 1)
                continue
            self._end_conversation()
            if self._phase.concurrency and self._remaining:
                self._begin_conversation()

    def _think_about(self, row: int) -> None:
        assert self._think is not None
        self._clock.call_in(int(self._think[row]), lambda: self._send(row) if self.overdue is None else None)

    def _end_conversation(self) -> None:
        self._open -= 1
        if self._open or self._remaining:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        if len(self.begins) < len(self._phases):
            pause = round(self._phases[len(self.begins)].pause * PICOSECONDS)
            self._clock.call_in(pause, self.begin)

    def _set_deadline(self) -> None:
        at = self._clock.now + self._phase.patience * PICOSECONDS
        if at <= LATEST:
            self._deadline = self._clock.call_at(round(at), self._stop)

    def _stop(self) -> None:
        self.overdue = self._phase
        self._give_up()


def stages(requests: Requests, begins: list[int]) -> list[tuple[int, float]]:
    """Number and begin in seconds of each phase that began."""
    phases = requests.phases[: len(begins)]
    return [(phase.stage, begin / PICOSECONDS) for phase, begin in zip(phases, begins, strict=True)]
