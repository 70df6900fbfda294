"""Points on this machine: in this process, or in worker processes that live as long as the sweep.

A worker is an interpreter of its own (`worker.py`) that reads jobs from its standard input and writes outcomes to its
standard output. It does not import the caller's main module, so that a script needs no guard around it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from moesim.explore.points import Job, Outcome, evaluate
from moesim.spec.errors import MoesimError

#: Jobs that a worker has in hand: the next one is there when it has done one.
_IN_HAND = 2
#: Deaths of its worker after which a job is given up.
_DEATHS = 2


class Serial:
    """One job after the other, in this process."""

    slots = 1

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Job]] = deque()

    def submit(self, number: int, work: Job) -> None:
        self._waiting.append((number, work))

    def finished(self) -> list[tuple[int, Outcome]]:
        number, work = self._waiting.popleft()
        return [(number, evaluate(work))]

    def close(self) -> None:
        self._waiting.clear()


class _Worker:
    """One process, and the numbers of the jobs that it has in hand, the one that it computes first."""

    def __init__(self) -> None:
        path = os.pathsep.join(each for each in sys.path if each)
        threads = {name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moesim.explore.backends.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **threads, "PYTHONPATH": path},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._to = Connection(os.dup(self.process.stdin.fileno()), readable=False)
        self.answers = Connection(os.dup(self.process.stdout.fileno()), writable=False)
        self.process.stdin.close()
        self.process.stdout.close()
        self.jobs: deque[int] = deque()

    def send(self, number: int, work: Job) -> None:
        self.jobs.append(number)
        with suppress(OSError):  # it has died; who waits for its answers will see
            self._to.send(work)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._to.close()
        self.answers.close()


class Processes:
    """Worker processes. One that dies is replaced; the job that it computed is tried once more."""

    def __init__(self, workers: int) -> None:
        self._workers = [_Worker() for _ in range(workers)]
        self._jobs: dict[int, Job] = {}
        self._deaths: dict[int, int] = {}

    @property
    def slots(self) -> int:
        return _IN_HAND * len(self._workers)

    @property
    def processes(self) -> list[int]:
        """Ids of the worker processes."""
        return [worker.process.pid for worker in self._workers]

    def submit(self, number: int, work: Job) -> None:
        self._jobs[number] = work
        self._send(number)

    def _send(self, number: int) -> None:
        min(self._workers, key=lambda worker: len(worker.jobs)).send(number, self._jobs[number])

    def finished(self) -> list[tuple[int, Outcome]]:
        done: list[tuple[int, Outcome]] = []
        while not done:
            ready = set(wait([worker.answers for worker in self._workers if worker.jobs]))
            for worker in [each for each in self._workers if each.answers in ready]:
                done += self._answer(worker)
        return done

    def _answer(self, worker: _Worker) -> list[tuple[int, Outcome]]:
        try:
            answer = worker.answers.recv()
        except (EOFError, OSError):
            return self._replace(worker)
        if isinstance(answer, MoesimError):
            raise answer
        number = worker.jobs.popleft()
        del self._jobs[number]
        return [(number, answer)]

    def _replace(self, dead: _Worker) -> list[tuple[int, Outcome]]:
        """Another worker in its place, which gets its jobs; an outcome for the one that killed two."""
        dead.end()
        self._workers[self._workers.index(dead)] = fresh = _Worker()
        computed = dead.jobs.popleft()
        deaths = self._deaths[computed] = self._deaths.get(computed, 0) + 1
        failed: list[tuple[int, Outcome]] = []
        if deaths < _DEATHS:
            fresh.send(computed, self._jobs[computed])
        else:
            del self._jobs[computed]
            failed = [(computed, Outcome("failed", f"its worker process died {deaths} times (out of memory?)", ()))]
        for number in dead.jobs:
            fresh.send(number, self._jobs[number])
        return failed

    def close(self) -> None:
        for worker in self._workers:
            worker.end()
