"""An experiment that was run: its results, and what ran it."""

from __future__ import annotations

from typing import NamedTuple

from moesim.explore.metrics import machine_metrics
from moesim.results import Results, from_record, from_training, manifest
from moesim.results.metrics import numbers
from moesim.serving.build import Deployment
from moesim.serving.simulate import Simulation
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.loading import LoadedExperiment
from moesim.spec.marked import display
from moesim.training.outcome import simulate_training


class Made(NamedTuple):
    """deployments: one, or that of each pool; none of a training step."""

    experiment: LoadedExperiment
    results: Results
    deployments: tuple[Deployment, ...]

    @property
    def spec(self) -> ExperimentSpec:
        return self.experiment.spec

    @property
    def metrics(self) -> dict[str, float]:
        """Of the run and of the machine, by dotted name; NaN where not defined."""
        return numbers(self.results.summary) | machine_metrics(self.spec)


def made(experiment: LoadedExperiment) -> Made:
    """Run it once.

    Raises:
        MoesimError: it cannot run.
        KeyboardInterrupt: it was interrupted; half a run compares with nothing.
    """
    spec, source = experiment.spec, experiment.source
    options = {"experiment": None if source is None else display(source), "set": list(experiment.overrides)}
    about = manifest(seed=spec.seed, options=options)
    with experiment.placing():
        if spec.training is not None:
            trained = simulate_training(spec)
            return Made(experiment, from_training(trained, experiment.document, about), ())
        simulation = Simulation(spec)
        record = simulation.run()
    if record.partial:
        raise KeyboardInterrupt
    return Made(experiment, from_record(record, experiment.document, about, spec.slo), simulation.deployments)
