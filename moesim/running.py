"""Run an experiment and keep what it leaves: tables and summary, in a folder with figures and timeline."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.results import Results
from moesim.serving.simulate import Progress, Simulation
from moesim.spec.errors import MoesimError
from moesim.spec.loading import LoadedExperiment
from moesim.spec.marked import display

if TYPE_CHECKING:
    from moesim.uncertainty import Repeats

#: Seconds of work for which another process is worth its start, which takes one.
WORTH_A_PROCESS = 10.0


@dataclass(frozen=True)
class Uncertainty:
    """How often to repeat a run, for intervals of its metrics; by how many processes at most; whom to tell of the
    progress."""

    repeats: int = 32
    workers: int = 1
    progress: Progress | None = None


def run(
    experiment: LoadedExperiment,
    output: Path | None = None,
    *,
    overwrite: bool = False,
    figures: bool = True,
    progress: Progress | None = None,
    uncertainty: Uncertainty | None = None,
) -> Results:
    """Simulate, and write the results folder, whole or not at all.

    Args:
        output: the folder; None keeps the results in memory.
        figures: also draw the figures and write the timeline.
        progress: called with (finished, all) requests now and then.
        uncertainty: repeat the run with times, overheads and seeds that might as well be (`moesim.uncertainty`): the
            summary then has `intervals`, and there is a table of the repeats. All else stays the same.

    Raises:
        MoesimError: the experiment cannot run, or its results cannot be written; nothing is left behind.
    """
    from moesim.results import from_record, manifest, prepare, with_repeats, write
    from moesim.uncertainty import check_repeats, intervals, repeat_columns

    spec = experiment.spec
    if spec.training is not None:
        return _train(experiment, output, overwrite=overwrite, figures=figures, repeated=uncertainty is not None)
    if uncertainty is not None:
        check_repeats(uncertainty.repeats)
    begin = time.perf_counter()
    with experiment.placing():
        simulation = Simulation(spec)
    if output is not None:
        prepare(output, overwrite=overwrite)  # what is wrong with the experiment is said first
    with experiment.placing():
        record = simulation.run(progress)
    timing = {"simulation": time.perf_counter() - begin}
    repeats = None
    if uncertainty is not None and not record.partial:
        repeats = _repeat(experiment, simulation, uncertainty, timing)
    about = manifest(
        seed=spec.seed,
        partial=record.partial or (repeats is not None and repeats.stopped),
        options={
            "experiment": None if experiment.source is None else display(experiment.source),
            "set": list(experiment.overrides),
            "figures": figures,
            **({} if uncertainty is None else {"uncertainty": uncertainty.repeats}),
        },
        timing=timing,
    )
    results = from_record(record, experiment.document, about, spec.slo)
    if repeats is not None and len(repeats.number) > 1:  # Ctrl-C may leave too few for an interval
        results = with_repeats(results, repeat_columns(repeats), intervals(repeats))
    if output is None:
        return results
    extras = []
    if figures:
        from moesim.report import draw, write_timeline

        extras = [
            lambda folder: draw(results, folder / "figures"),
            lambda folder: write_timeline(record, folder / "timeline.json.gz", spec.name, spec.seed),
        ]
    return write(output, results, overwrite=overwrite, extras=extras)


def _train(
    experiment: LoadedExperiment, output: Path | None, *, overwrite: bool, figures: bool, repeated: bool
) -> Results:
    """The same for a training step."""
    from moesim.results import from_training, manifest, prepare, write
    from moesim.training.outcome import simulate_training

    if repeated:
        raise MoesimError("a training step is not repeated for intervals", fix="leave --uncertainty out")
    spec, begin = experiment.spec, time.perf_counter()
    if output is not None:
        prepare(output, overwrite=overwrite)
    with experiment.placing():
        record = simulate_training(spec)
    about = manifest(
        seed=spec.seed,
        options={
            "experiment": None if experiment.source is None else display(experiment.source),
            "set": list(experiment.overrides),
            "figures": figures,
        },
        timing={"simulation": time.perf_counter() - begin},
    )
    results = from_training(record, experiment.document, about)
    if output is None:
        return results
    extras = []
    if figures:
        from moesim.report import draw, write_training_timeline

        extras = [
            lambda folder: draw(results, folder / "figures"),
            lambda folder: write_training_timeline(record, folder / "timeline.json.gz", spec.name, spec.seed),
        ]
    return write(output, results, overwrite=overwrite, extras=extras)


def _repeat(
    experiment: LoadedExperiment, simulation: Simulation, wanted: Uncertainty, timing: dict[str, float]
) -> Repeats:
    from moesim.uncertainty import repeat

    begin = time.perf_counter()
    workers = worthwhile(timing["simulation"] * wanted.repeats, wanted.workers)
    with experiment.placing():
        repeats = repeat(
            experiment.spec, simulation.deployments, wanted.repeats, workers=workers, progress=wanted.progress
        )
    timing["repeats"] = time.perf_counter() - begin
    return repeats


def worthwhile(work: float, workers: int) -> int:
    """How many of the processes that there might be at most are worth their start, for so many seconds of work."""
    return max(1, min(workers, int(work / WORTH_A_PROCESS)))
