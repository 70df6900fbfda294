"""A worker process: jobs in on standard input, outcomes out on standard output (`local.Processes`)."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection

from moesim.explore.points import Job, Outcome, evaluate
from moesim.spec.errors import MoesimError


def main() -> None:
    """Works until nobody asks any more. Ctrl-C is for the process that asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = Connection(os.dup(0), writable=False)
    answers = Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # what a library prints must not come between the answers
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    # A thread takes jobs in at once: the asking process never waits for a pipe that is full.
    threading.Thread(target=_take, args=(asked, jobs), daemon=True).start()
    while True:
        try:
            answers.send(_answer(jobs.get()))
        except OSError:  # nobody listens any more
            os._exit(0)


def _take(asked: Connection, jobs: queue.SimpleQueue[Job]) -> None:
    while True:
        try:
            jobs.put(asked.recv())
        except (EOFError, OSError):
            sys.stderr.flush()
            os._exit(0)


def _answer(work: Job) -> Outcome | MoesimError:
    try:
        return evaluate(work)
    except MoesimError as error:
        return MoesimError(error.what, fix=error.fix)


if __name__ == "__main__":
    main()
