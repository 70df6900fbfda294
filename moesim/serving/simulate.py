"""A serving run: requests arrive, replicas serve them, and a record of everything remains."""

from __future__ import annotations

import gc
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from moesim.engine.clock import Clock, StoppedError
from moesim.engine.record import RunRecord
from moesim.serving.build import Deployment
from moesim.serving.conservation import check_record
from moesim.serving.notes import borrowed_profile, load_notes
from moesim.serving.pools.service import PooledService
from moesim.serving.requests import Requests, Sender, make_requests
from moesim.serving.requests.sending import stages
from moesim.serving.router import ROUTERS
from moesim.serving.scales import NOMINAL, Scales
from moesim.serving.sequences import RequestState
from moesim.serving.service import Service
from moesim.serving.slo import check_classes, unreachable
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.step.graph import PICOSECONDS

#: Components with random streams of their own, in the order in which they are spawned; append only.
_STREAMS = ("requests", "routing", "draws", "drafts")

Progress = Callable[[int, int], None]


def simulate(spec: ExperimentSpec, progress: Progress | None = None) -> RunRecord:
    """Run an experiment to the last token of its last request.

    Args:
        progress: called with (finished, all) requests now and then.

    Returns:
        The record; marked partial where the run was interrupted (Ctrl-C). It then ends between two events, with every
        executed step counted in full; a second Ctrl-C abandons it.

    Raises:
        MoesimError: the experiment cannot run.
        KeyboardInterrupt: the run was interrupted before its first event, or abandoned.
    """
    return Simulation(spec).run(progress)


class Simulation:
    """A run that is ready to start: its requests are read, its machine stands, its model fits into the memory."""

    def __init__(
        self, spec: ExperimentSpec, scales: Scales = NOMINAL, before: Simulation | None = None
    ) -> None:  # fmt: skip
        """Raises MoesimError where the experiment cannot run.

        Args:
            before: a simulation that has run, of an experiment without pools, at the bound, that differs in its
                requests alone; what it tabulated and drew is taken over, which changes nothing but the time it takes.
        """
        children = np.random.SeedSequence(spec.seed).spawn(len(_STREAMS))
        streams = dict(zip(_STREAMS, children, strict=True))
        self._spec = spec
        if spec.requests is None:
            raise MoesimError("the experiment is a training step, and nothing is served", key="training",
                              fix="give requests instead")  # fmt: skip
        self._requests = make_requests(
            spec.requests, spec.library.mixes, spec.model.context, _block_size(spec), streams["requests"]
        )
        check_classes(spec.slo, self._requests)
        service: Service | None = None if before is None else before._run.service
        self._run: _Run = _Run(spec, self._requests, streams, scales, service)

    @property
    def deployment(self) -> Deployment:
        """Of the replicas that see a request first."""
        return self._run.service.entry

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Of all replicas: one, or that of each pool."""
        return tuple(self._run.service.deployments)

    def run(self, progress: Progress | None = None) -> RunRecord:
        """As `simulate`; a simulation runs once."""
        spec, requests, run = self._spec, self._requests, self._run
        run.progress = progress
        partial = False
        try:
            with _stopping(run.clock), _uncollected():
                run.clock.run()
        except StoppedError:
            partial = run.finished < len(requests)
        # Cancelled timers may lie behind the last event that happened.
        end = int(run.clock.now) if partial else max((r.worked_until for r in run.service.replicas), default=0)
        record = run.service.record(requests, run.states, end, partial)
        record.requests.update(requests.labels(run.rows))
        record.stages = stages(requests, run.sender.begins) if requests.staged else []
        record.overloaded = run.sender.overdue is not None
        record.closed = frozenset(phase.stage for phase in requests.phases if phase.concurrency)
        record.notes.extend(load_notes(requests, run.sender, run.states))
        record.notes.extend(unreachable(spec.slo, record, run.service.deployments))
        record.notes.extend(borrowed_profile(spec))
        check_record(record, run.service.deployments)
        return record


@contextmanager
def _stopping(clock: Clock) -> Iterator[None]:
    """Makes the first Ctrl-C stop the clock; the second one finds the handler that was there before."""
    before = signal.getsignal(signal.SIGINT)
    # Signals reach the main thread alone; who ignores them (a job in the background) goes on doing so.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        clock.stop()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No cyclic garbage collection: events leave no cycles behind, and looking for them takes its time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _block_size(spec: ExperimentSpec) -> int:
    """Tokens of the smallest text that whole KV blocks hold in all pools."""
    engines = (spec.engine,) if spec.pools is None else (spec.pool("prefill").engine, spec.pool("decode").engine)
    return math.lcm(*(engine.block_size for engine in engines))


class _Run:
    """Arrivals, routing and completions."""

    def __init__(
        self,
        spec: ExperimentSpec,
        requests: Requests,
        streams: dict[str, np.random.SeedSequence],
        scales: Scales,
        before: Service | None,
    ) -> None:
        self.clock = Clock()
        #: In the order in which they were sent, and their rows in the table of requests.
        self.states: list[RequestState] = []
        self.rows: list[int] = []
        self._requests, self.finished = requests, 0
        self.progress: Progress | None = None
        make = Service if spec.pools is None else PooledService
        self.service = make(spec, requests, self.clock, streams, self._on_finish, scales, before)
        self._targets = [(r, rank) for r in self.service.entry.replicas for rank in range(r.scheduler.ranks)]
        self._router = ROUTERS.make(spec.router)
        self._no_loads = np.zeros(len(self._targets), dtype=np.int64)
        self._latency = round(spec.engine.frontend_latency * PICOSECONDS)
        self.sender = Sender(requests, self.clock, self._send, self._stop)
        self.sender.begin()

    def _send(self, row: int) -> None:
        """A request is sent now, and reaches a replica when the front end has passed it on."""
        requests = self._requests
        state = RequestState(
            len(self.states),
            int(self.clock.now),
            int(requests.input_tokens[row]),
            int(requests.output_tokens[row]),
            requests.blocks[row] if requests.blocks is not None else (),
            requests.sessions.left[row] if requests.sessions is not None else (),
        )
        self.states.append(state)
        self.rows.append(row)
        if self._latency:
            self.clock.call_in(self._latency, lambda: self._route(state))
        else:
            self._route(state)

    def _route(self, state: RequestState) -> None:
        loads = self._no_loads
        if self._router.needs_load and len(self._targets) > 1:
            loads = np.array([load for replica in self.service.entry.replicas for load in replica.load()])
        replica, rank = self._targets[self._router.choose(loads)]
        state.replica, state.rank = replica.index, rank
        replica.accept(state)

    def _stop(self) -> None:
        for replica in self.service.replicas:
            replica.stop()

    def _on_finish(self, state: RequestState) -> None:
        self.finished += 1
        self.sender.finished(self.rows[state.request])
        if self.progress is not None and self.finished % 100 == 0:
            self.progress(self.finished, len(self._requests))
