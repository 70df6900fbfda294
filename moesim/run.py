"""Run an experiment and keep what it leaves: the results folder with tables, summary, figures and timeline."""

from __future__ import annotations

import time
from pathlib import Path

from moesim.results import Results
from moesim.serving.simulate import Progress
from moesim.spec.loading import LoadedExperiment
from moesim.spec.marked import display


def run(
    experiment: LoadedExperiment,
    output: Path,
    *,
    overwrite: bool = False,
    figures: bool = True,
    progress: Progress | None = None,
) -> Results:
    """Simulate and write the results folder, whole or not at all.

    Args:
        figures: also draw the figures and write the timeline.
        progress: called with (finished, all) requests now and then.

    Raises:
        MoesimError: the experiment cannot run, or its results cannot be written; nothing is left behind.
    """
    from moesim.results import from_record, manifest, prepare, write
    from moesim.serving.simulate import Simulation

    spec = experiment.spec
    begin = time.perf_counter()
    with experiment.placing():
        simulation = Simulation(spec)
    prepare(output, overwrite=overwrite)  # what is wrong with the experiment is said first
    with experiment.placing():
        record = simulation.run(progress)
    simulated = time.perf_counter() - begin
    about = manifest(
        seed=spec.seed,
        partial=record.partial,
        options={
            "experiment": None if experiment.source is None else display(experiment.source),
            "set": list(experiment.overrides),
            "figures": figures,
        },
        timing={"simulation": simulated},
    )
    results = from_record(record, experiment.document, about, spec.slo)
    extras = []
    if figures:
        from moesim.report import draw, write_timeline

        extras = [
            lambda folder: draw(results, folder / "figures"),
            lambda folder: write_timeline(record, folder / "timeline.json.gz", spec.name, spec.seed),
        ]
    return write(output, results, overwrite=overwrite, extras=extras)
