"""One replica at work: it asks its scheduler for a batch, prices it, and applies it when its time has come.

Decode steps that nothing can change are priced as a block and applied together. An arrival that could change the next
step cuts the block at the end of the step in progress, so that the tables do not show whether blocks were used.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

import numpy as np

from moesim.engine.clock import LATEST, STARTING, Clock, Timer
from moesim.engine.invariants import InvariantError
from moesim.engine.recorder import StepRecorder
from moesim.serving.flight import Flight
from moesim.serving.holding import held_tokens
from moesim.serving.pools.base import Pool
from moesim.serving.scheduler import ContinuousBatching
from moesim.serving.sequences import RequestState
from moesim.step.batch import Batch
from moesim.step.graph import IntArray
from moesim.step.pricing import Block, Executable, StepPricer

#: Longest block of decode steps; the horizon adapts to how many of them are used. Where steps are priced when they are
#: asked for, so many at first.
_LONGEST, _PRICED_FIRST = 256, 4

_ONE = np.ones(1, dtype=np.int64)


class Replica:
    """A replica of the model with its queues, pricer and step records.

    Args:
        run_ahead: price several decode steps at once.
        keep: called with every executed batch (replica, batch, when its first two steps began).
        on_finish: called with each request that has its last token.
        pool: what the replica tells of the requests that it shares with another pool; None where it serves them alone.
    """

    def __init__(
        self,
        index: int,
        clock: Clock,
        scheduler: ContinuousBatching,
        pricer: StepPricer,
        recorder: StepRecorder,
        *,
        run_ahead: bool,
        keep: Callable[[int, Batch, tuple[int, ...]], None],
        on_finish: Callable[[RequestState], None],
        pool: Pool | None = None,
    ) -> None:
        self.index, self.clock, self.scheduler, self.pricer, self.recorder = index, clock, scheduler, pricer, recorder
        self._on_finish, self._keep, self._pool = on_finish, keep, pool
        # Whether something may happen in the very instant in which a step ends that the next one takes account of.
        self._reacts = scheduler.reacts or pool is not None
        # Where every step draws its own routing, a step that is priced but not executed costs too much.
        reuses = pricer.routed is None or pricer.routed.reuses
        prefills = pool is not None and pool.prefills
        self._run_ahead = run_ahead and reuses and pricer.layout.pp == 1 and not pricer.single_steps and not prefills
        self._horizon = pricer.shortest_block
        self._flights: list[Flight] = []
        self._stage_free = np.zeros(pricer.layout.pp, dtype=np.int64)
        self._starting: Timer | None = None
        self._stopped = False
        self._steps = self._worked_until = 0
        # The engine decides on a step when the one before begins; in a pipeline several steps are ahead in any case.
        self._decides_ahead = scheduler.engine.asynchronous_scheduling and pricer.layout.pp == 1
        # Whether a sequence's steps follow each other without a pause.
        self._steady = pricer.layout.pp == 1 and not scheduler.prompts_alone
        self._late: list[RequestState] = []  # arrived since then
        self._leaving: list[RequestState] = []  # ended since then

    def accept(self, state: RequestState) -> None:
        """A request arrives now, or the KV entries of one that has blocks for them."""
        now, comes = int(self.clock.now), state.request not in self.scheduler.incoming
        if self._decides_ahead and self._flights and self._flights[0].step_began(now) < now:
            self._accept_late(state, self._flights[0], now)
        elif self.scheduler.enqueue(state):
            for flight in self._flights:
                self._cut(flight, now)
            self._wake(max(now, int(self._stage_free[0])) if self._flights else now)
            self._reserve(now)
        if comes and state.request not in self.scheduler.incoming:
            for flight in self._flights:
                flight.arrivals.append(now)

    def load(self) -> list[int]:
        """Unfinished requests per DP rank, as of now."""
        running = self.scheduler.running
        load = self.scheduler.load()
        for state in self._late:
            load[state.rank] += state.request not in self.scheduler.incoming
        for flight in self._flights:
            if done := flight.in_progress(int(self.clock.now)):
                for rank in running.rank[running.rounds <= done].tolist():
                    load[rank] -= 1
        return load

    def stop(self) -> None:
        """End with the steps in progress."""
        self._stopped = True
        for flight in self._flights:
            self._cut(flight, int(self.clock.now))

    @property
    def worked_until(self) -> int:
        """When the last step that has ended did."""
        return self._worked_until

    def _cut(self, flight: Flight, now: int, ahead: int = 0) -> None:
        """Stop a block at the end of the step in progress, or of one `ahead` of it."""
        steps = flight.in_progress(now) + 1 + ahead
        if steps < flight.steps:
            flight.steps = steps
            if steps > len(flight.ends):
                flight.ends = flight.block.ends(flight.start, steps)
            if flight.timer is not None:
                flight.timer.cancel()
            flight.timer = self.clock.call_at(flight.ends[steps - 1], lambda: self._end(flight), last=True)

    def _accept_late(self, state: RequestState, flight: Flight, now: int) -> None:
        """A request that the next step does not see any more. When that begins, the engine decides on the one after it,
        and gives blocks to those whose KV entries are to come."""
        if self._pool is not None:
            self._cut(flight, now)
        if flight.in_progress(now) + 1 == flight.steps:
            self._late.append(state)
        elif self.scheduler.enqueue(state):
            self._cut(flight, now, ahead=1)

    def _wake(self, time: int) -> None:
        """Look for work at `time`, after everything else of that instant."""
        if len(self._flights) < len(self._stage_free) and (self._starting is None or not self._starting.pending):
            if self._reacts:
                self._starting = Timer(self.clock, time, self._launch, STARTING)
            else:
                self._starting = self.clock.call_at(time, self._launch, last=True)

    def _launch(self) -> None:
        if len(self._flights) == len(self._stage_free) or self._stopped:
            return
        now = int(self.clock.now)
        changes = self._late or (self._leaving and self.scheduler.waiting_count)
        batch = self.scheduler.next_batch(now, self._horizon if self._run_ahead and not changes else 1, self._steps)
        if self._pool is not None:
            self._pool.admitted(self, self.scheduler.admitted)
        if batch is None:
            if self._late or self._leaving:
                self._catch_up()
                self._launch()
            return
        rested = not self._flights and (now > self._worked_until or not self._steps)
        block = self.pricer.block(batch, rested)
        self._steps += batch.steps
        self._catch_up()
        flight = Flight(block, now, [LATEST], batch.steps, self.scheduler.waiting_count, rested)
        flight.joined = self.scheduler.joined
        self._flights.append(flight)
        if len(self._stage_free) > 1:
            self._mark(batch, 1)
        self._execute(flight)

    def _catch_up(self) -> None:
        """Tell the scheduler of what came and went during the last step, now that it has decided on this one."""
        for state in self._leaving:
            self._release(state)
        for state in self._late:
            self.scheduler.enqueue(state)
        self._leaving, self._late = [], []
        self._reserve(int(self.clock.now))

    def _reserve(self, now: int) -> None:
        """Blocks for KV entries that are to come: of them nothing is computed, so that they have these when the engine
        decides, and not when the step begins that it decides on."""
        if self._decides_ahead and self._pool is not None:
            self._pool.admitted(self, self.scheduler.reserve(now))

    def _execute(self, flight: Flight) -> None:
        """See to it that the block ends when it should, and that the next one is looked for."""
        flight.ends = self._ends(flight.block, flight.start)
        flight.timer = self.clock.call_at(flight.ends[-1], lambda: self._reached(flight), last=True)
        if len(self._stage_free) > 1:
            self._wake(max(flight.start, int(self._stage_free[0])))

    def _reached(self, flight: Flight) -> None:
        """The last step that is priced has ended, and perhaps the block."""
        if len(flight.ends) >= flight.steps:
            self._end(flight)
            return
        flight.ends = flight.block.ends(flight.start, min(2 * len(flight.ends), flight.steps))
        flight.timer = self.clock.call_at(flight.ends[-1], lambda: self._reached(flight), last=True)

    def _ends(self, block: Executable, now: int) -> list[int]:
        """When each step ends that is priced. In a pipeline, a batch enters a stage when the one before it has left."""
        if len(self._stage_free) == 1:
            return block.ends(now, min(_PRICED_FIRST, block.batch.steps))
        assert isinstance(block, Block)
        at = now
        for stage, seconds in enumerate(block.stages[:, 0].tolist()):
            at = max(at, int(self._stage_free[stage])) + seconds
            self._stage_free[stage] = at
        return [at + int(block.host[0])]

    def _mark(self, batch: Batch, busy: int) -> None:
        members = np.concatenate([batch.request, np.array([c.request for c in batch.chunks], dtype=np.int64)])
        running = self.scheduler.running
        running.busy[np.isin(running.request, members)] = busy

    def _end(self, flight: Flight) -> None:
        """Apply the steps of a block that were executed."""
        self._flights.remove(flight)
        if len(self._stage_free) > 1:
            self._mark(flight.block.batch, 0)
        executed = flight.steps
        self._steps -= flight.block.batch.steps - executed
        self._adapt(flight)
        self.pricer.record(flight.block, executed, self._busy(flight))
        self._keep(self.index, flight.block.batch, (flight.start, flight.ends[0])[: flight.steps])
        self._advance(flight, self._complete_prompts(flight))
        if self._reacts and not self._decides_ahead:
            # Who comes in answer to what has ended takes part in the step that begins now.
            Timer(self.clock, int(self.clock.now), self._launch, STARTING)
        else:
            self._launch()

    def _busy(self, flight: Flight) -> int:
        """Picoseconds that the block adds to those in which the replica works; batches in a pipeline overlap."""
        begin, end = max(flight.start, self._worked_until), flight.ends[flight.steps - 1]
        self._worked_until = max(end, self._worked_until)
        return max(end - begin, 0)

    def _adapt(self, flight: Flight) -> None:
        if flight.block.batch.chunks and flight.block.batch.steps == 1:
            return
        # A block that was not cut may have been too short.
        self._horizon = min(_LONGEST, max(self.pricer.shortest_block, 2 * flight.steps))

    def _complete_prompts(self, flight: Flight) -> int:
        """Count the computed prompt tokens; prompts that are complete emit a token. Returns the tokens emitted."""
        running, end, emitted = self.scheduler.running, flight.ends[0], 0
        for chunk in flight.block.batch.chunks:
            index = int((running.request == chunk.request).argmax())
            state = running.states[index]
            running.computed[index] = chunk.cached + chunk.tokens
            if running.computed[index] < state.known:
                continue
            emitted += 1
            running.decoding[index] = 1
            running.advance(np.array([index]), _ONE, _ONE)
            if state.first_token < 0:
                state.first_token = end
            else:
                self.recorder.add_gap(end - state.last_token)
            state.last_token = end
        return emitted

    def _advance(self, flight: Flight, emitted: int) -> None:
        """Apply the executed decode steps: grow, record, finish."""
        running, batch, steps = self.scheduler.running, flight.block.batch, flight.steps
        # In a pipeline other batches change the columns meanwhile; else the decoding rows stand as they were scheduled.
        rows = batch.rows if len(self._stage_free) == 1 else np.flatnonzero(np.isin(running.request, batch.request))
        taken, tokens = batch.taken(steps)
        before = running.computed[rows]
        after = before + tokens
        running.computed[rows] = after
        running.advance(rows, tokens, taken)
        self._grow(rows, before, after)
        self._record(flight, rows, emitted)
        if not self._steady:
            self._record_gaps(flight, rows, taken)
        self._finish(flight, rows)
        if self._pool is not None and self._pool.prefills:
            self._pass_on(flight)

    def _grow(self, rows: IntArray, before: IntArray, after: IntArray) -> None:
        """Take the blocks that sequences have begun to fill."""
        size = self.scheduler.engine.block_size
        begun = (after - 1) // size > (before - 1) // size
        if self.scheduler.grow(rows[begun], after[begun]) is not None:
            raise InvariantError(f"replica {self.index}: a request outgrew the KV cache in a step")

    def _pass_on(self, flight: Flight) -> None:
        """Sequences whose prompt is complete go on elsewhere; their blocks stay until `vacate`."""
        running = self.scheduler.running
        rows = running.decoding.nonzero()[0].tolist()
        states = [running.states[row] for row in rows]
        running.remove(rows)
        tokens = {chunk.request: chunk.tokens for chunk in flight.block.batch.chunks}
        for state in states:
            state.generated = 1
            assert self._pool is not None
            self._pool.prefilled(self, state, tokens[state.request], flight.ends[0] - flight.start)

    def vacate(self, state: RequestState) -> None:
        """The KV entries of a sequence that was passed on are no longer needed."""
        self._release(state)
        if self.scheduler.waiting_count:
            self._wake(max(int(self.clock.now), int(self._stage_free[0])) if self._flights else int(self.clock.now))

    def _record(self, flight: Flight, rows: IntArray, emitted: int) -> None:
        block, steps = flight.block, flight.steps
        chunks, ends = block.batch.chunks, flight.ends[:steps]
        waiting = [flight.waiting] * steps
        if flight.arrivals:
            starts = (flight.start, *ends[:-1])
            waiting = [flight.waiting + bisect_right(flight.arrivals, start) for start in starts]
        self.recorder.add(
            replica=self.index,
            begin=flight.start,
            end=ends,
            decodes=block.decoding(steps),
            waiting=waiting,
            kv_tokens=held_tokens(self.scheduler, block, rows, steps),
            prefill_tokens=sum(chunk.tokens for chunk in chunks),
            prefill_sequences=len(chunks),
            emitted=emitted,
            gaps=self._steady,
            joined=self._join_gaps(flight),
            drafts=self.scheduler.drafts,
            accepted=block.batch.accepted(steps),
        )

    def _join_gaps(self, flight: Flight) -> int:
        """Those who joined waited for their second token since their first one came elsewhere; returns how many."""
        if not self._steady:
            return 0
        for state in flight.joined:
            self.recorder.add_gap(flight.ends[0] - state.last_token)
        return len(flight.joined)

    def _record_gaps(self, flight: Flight, rows: IntArray, taken: IntArray) -> None:
        """Inter-token latencies of the first step where sequences pause between their steps: in a pipeline, and where
        prompts go first."""
        first = flight.ends[0]
        for row, steps in zip(rows.tolist(), taken.tolist(), strict=True):
            state = self.scheduler.running.states[row]
            self.recorder.add_gap(first - state.last_token)
            state.last_token = flight.ends[steps - 1]

    def _finish(self, flight: Flight, rows: IntArray) -> None:
        """Requests without tokens to come leave, in the order in which they ended."""
        running = self.scheduler.running
        if running.left.all():
            return
        # Who is not in the batch's columns has ended with its prompt.
        over = (running.left == 0).nonzero()[0].tolist()
        mine = (running.left[rows] == 0).nonzero()[0]
        last = dict(zip(rows[mine].tolist(), flight.block.batch.left[mine].tolist(), strict=True))
        ended = sorted((last.get(row, 1), row) for row in over)
        for at, row in ended:
            state = running.states[row]
            state.finish = flight.ends[at - 1]
            state.generated = state.output_tokens
            if self._decides_ahead and at == flight.steps:
                self._leaving.append(state)
            else:
                self._release(state)
            self._on_finish(state)
        running.remove([row for _, row in ended])

    def _release(self, state: RequestState) -> None:
        """A request that has ended gives its blocks back."""
        cache = self.scheduler.caches[state.rank]
        if state.left:
            cache.name(state.request, state.left, self.scheduler.block_tokens, state.known - 1)
        cache.release(state.request)
        self.scheduler.blocked[state.rank] = False
