"""An experiment that was run: its results, and what ran it."""

from __future__ import annotations

from typing import NamedTuple

from moesim.results import Results, from_record, manifest
from moesim.results.metrics import numbers
from moesim.serving.build import Deployment
from moesim.serving.simulate import Simulation
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.loading import LoadedExperiment
from moesim.spec.marked import display


class Made(NamedTuple):
    experiment: LoadedExperiment
    results: Results
    deployment: Deployment

    @property
    def spec(self) -> ExperimentSpec:
        return self.experiment.spec

    @property
    def metrics(self) -> dict[str, float]:
        """By dotted name, NaN where not defined."""
        return numbers(self.results.summary)


def made(experiment: LoadedExperiment, what: str = "") -> Made:
    """Run it once.

    Args:
        what: to say of errors, such as "with the change".

    Raises:
        MoesimError: it cannot run.
        KeyboardInterrupt: it was interrupted; half a run compares with nothing.
    """
    spec = experiment.spec
    try:
        with experiment.placing():
            simulation = Simulation(spec)
            record = simulation.run()
    except MoesimError as error:
        if what:
            raise MoesimError(f"{what}: {error.what}", where=error.where, key=error.key, fix=error.fix) from None
        raise
    if record.partial:
        raise KeyboardInterrupt
    source = None if experiment.source is None else display(experiment.source)
    about = manifest(seed=spec.seed, options={"experiment": source, "set": list(experiment.overrides)})
    return Made(experiment, from_record(record, experiment.document, about, spec.slo), simulation.deployment)
