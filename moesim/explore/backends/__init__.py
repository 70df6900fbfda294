"""Where points are computed: on this machine's processors, or by an engine that spreads them over many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Literal, Protocol, get_args

from moesim.explore.points import Job, Outcome
from moesim.spec.errors import MoesimError
from moesim.spec.library import did_you_mean

BackendName = Literal["local", "dask", "ray"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)


class Backend(Protocol):
    """Takes jobs, and gives their outcomes in the order in which they finish."""

    @property
    def slots(self) -> int:
        """Jobs under way that keep every worker busy."""

    def submit(self, number: int, work: Job) -> None: ...

    def finished(self) -> list[tuple[int, Outcome]]:
        """Waits for a job that is under way; at least one, where there is any. A job whose worker dies is computed
        again by another, and fails only where that dies too."""

    def close(self) -> None:
        """Gives up whatever is under way."""


def make_backend(name: str, address: str | None, workers: int | None, jobs: int) -> Backend:
    """The backend of a name.

    Args:
        address: of the scheduler of an engine; None starts one on this machine.
        workers: processes to start here; None: one per processor.
        jobs: at most so many are worth a process.

    Raises:
        MoesimError: there is none of this name, its package is not installed, or nobody answers at the address.
    """
    if name not in BACKENDS:
        fix = did_you_mean(name, BACKENDS) or f"choose one of {', '.join(BACKENDS)}"
        raise MoesimError(f"there is no backend {name!r}", fix=fix)
    if workers is not None and workers < 1:
        raise MoesimError(f"{workers} workers compute nothing", fix="use 1 or more")
    processes = max(1, min(workers or processors(), jobs))
    if name == "dask":
        from moesim.explore.backends.dask import DaskBackend

        return DaskBackend(address, processes)
    if name == "ray":
        from moesim.explore.backends.ray import RayBackend

        return RayBackend(address, processes)
    if processes == 1:
        from moesim.explore.backends.local import Serial

        return Serial()
    from moesim.explore.backends.local import Processes

    return Processes(processes)


def processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def outcomes(backend: Backend, jobs: Iterable[tuple[int, Job]]) -> Iterator[tuple[int, Outcome]]:
    """The outcomes of all jobs, as they finish. Jobs are made as workers become free for them."""
    with closing(backend):
        under_way = 0
        for number, work in jobs:
            backend.submit(number, work)
            under_way += 1
            while under_way >= backend.slots:
                for done in backend.finished():
                    under_way -= 1
                    yield done
        while under_way:
            for done in backend.finished():
                under_way -= 1
                yield done
