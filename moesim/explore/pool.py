"""Many simulations: one after the other, or in processes of this machine."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from moesim.explore.metrics import machine_metrics
from moesim.results.metrics import numbers, summarise
from moesim.results.training import training_summary
from moesim.serving.scales import Scales
from moesim.serving.simulate import Simulation
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.training.outcome import simulate_training

Metrics = dict[str, float]


class Job(NamedTuple):
    spec: ExperimentSpec
    scales: Scales


def measured(job: Job) -> Metrics | None:
    """The metrics of a run; None where it cannot run.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    try:
        if job.spec.training is not None:
            return numbers(training_summary(simulate_training(job.spec))) | machine_metrics(job.spec)
        record = Simulation(job.spec, job.scales).run()
    except MoesimError:
        return None
    if record.partial:
        raise KeyboardInterrupt
    return numbers(summarise(record, job.spec.slo)) | machine_metrics(job.spec)


def all_measured(
    jobs: Sequence[Job], *, workers: int = 1, progress: Callable[[int], None] | None = None
) -> list[Metrics | None]:
    """The metrics of every job, in their order; the same for any number of workers.

    Args:
        progress: called with the number of those that are finished.
    """
    found: list[Metrics | None] = []
    for metrics in map(measured, jobs) if workers == 1 else _shared(jobs, workers):
        found.append(metrics)
        if progress is not None:
            progress(len(found))
    return found


def _shared(jobs: Sequence[Job], workers: int) -> Iterator[Metrics | None]:
    pool = ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn"), initializer=_deaf)
    try:
        yield from pool.map(measured, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def _deaf() -> None:
    """A worker does not hear Ctrl-C; whoever started it ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
