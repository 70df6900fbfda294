"""One point: a resolved experiment, simulated to its metrics. What workers do."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Literal, NamedTuple

from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec

Status = Literal["ok", "infeasible", "failed"]


class Outcome(NamedTuple):
    """What became of a point. `infeasible`: it cannot run, for the `reason`; `failed`: the simulator, or the process
    that ran it, broke. `rows`: metrics by name, of the run itself and then of its repeats."""

    status: Status
    reason: str
    rows: tuple[dict[str, float], ...]


class Job(NamedTuple):
    """A point as it travels: the pickled experiment, the repeats, and the version of the code that wrote it."""

    experiment: bytes
    repeats: int
    version: str


def job(spec: ExperimentSpec, repeats: int, version: str) -> Job:
    return Job(pickle.dumps(spec, protocol=5), repeats, version)


def reason(error: MoesimError) -> str:
    """Why a point cannot run: without the place, which another machine's paths would change."""
    return f"{error.what}; {error.fix}" if error.fix else error.what


def evaluate(work: Job) -> Outcome:
    """Simulate a point.

    Raises:
        KeyboardInterrupt: Ctrl-C stopped it.
        MoesimError: this worker runs other code than the process that asks.
    """
    from moesim.explore.version import code_version

    if code_version() != work.version:
        raise MoesimError("a worker runs another version of moesim", fix="install the same one on all machines")
    try:
        return Outcome("ok", "", tuple(_rows(pickle.loads(work.experiment), work.repeats)))
    except MoesimError as error:
        return Outcome("infeasible", reason(error), ())
    except Exception as error:  # one broken point must not take the others with it
        return Outcome("failed", f"{type(error).__name__}: {' '.join(str(error).split())}", ())


def _rows(spec: ExperimentSpec, repeats: int) -> Iterator[dict[str, float]]:
    from moesim.explore.metrics import machine_metrics
    from moesim.results.metrics import numbers, summarise
    from moesim.results.training import training_summary
    from moesim.serving.simulate import Simulation
    from moesim.training.outcome import simulate_training
    from moesim.uncertainty.repeats import repeat, repeatable

    if spec.training is not None:
        yield numbers(training_summary(simulate_training(spec))) | machine_metrics(spec)
        return
    simulation = Simulation(spec)
    record = simulation.run()
    if record.partial:
        raise KeyboardInterrupt
    machine = machine_metrics(spec)
    yield numbers(summarise(record, spec.slo)) | machine
    if repeats and repeatable(spec):
        found = repeat(spec, simulation.deployments, repeats)
        if found.stopped:
            raise KeyboardInterrupt
        for k in range(repeats):
            yield {name: float(values[k]) for name, values in found.metrics.items()} | machine
