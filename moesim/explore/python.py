"""Sweeps and searches in Python: a study in, a DataFrame out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from moesim.explore.sweep import Progress


def sweep(
    study: str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    axes: Mapping[str, Any] | None = None,
    sample: Mapping[str, Any] | None = None,
    repeats: int | None = None,
    backend: str = "local",
    address: str | None = None,
    workers: int | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Simulate all points of a study.

    Args:
        study: a study or an experiment: a file, a name, or the document itself.
        overrides: "a.b.c=value", of the experiment, for all points.
        axes: values by key, in place of the study's: {"parallelism.ep": [1, 2, 4]}.
        sample: {"method": "sobol", "points": 64, "seed": 0} instead of the whole grid.
        repeats: of every point, for intervals.
        backend: "local", "dask" or "ray". address: of its scheduler; None starts one here. workers: processes here.
        cache: the folder that remembers points; None: `MOESIM_CACHE`, or the user's cache folder.
        progress: called with (finished, all) points.

    Returns:
        A row per point (and repeat): `point`, a column per axis, `repeat`, `status`, `reason`, and every metric in SI
        units by dotted name. Points that cannot run are rows with status "infeasible" and the reason.

    Raises:
        MoesimError: the study makes no sense, or the backend does not answer.
        KeyboardInterrupt: Ctrl-C; finished points are in the cache.
    """
    from moesim.explore.sweep import Resources, sweep_points
    from moesim.explore.table import frame, table
    from moesim.spec.study import load_study, refuse_experiment

    given = {"axes": axes, "sample": sample, "repeats": repeats}
    loaded = load_study(study, overrides, {key: value for key, value in given.items() if value is not None})
    refuse_experiment(loaded)
    resources = Resources(backend, address, workers, None if cache is None else Path(cache))
    swept = sweep_points(loaded, resources, progress)
    if swept.interrupted:
        raise KeyboardInterrupt
    return frame(table(swept.points, swept.outcomes, loaded.spec.repeats > 0))


def search(
    study: str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    axes: Mapping[str, Any] | None = None,
    objectives: Sequence[str] | None = None,
    constraints: Sequence[str] | None = None,
    trials: int | None = None,
    seed: int | None = None,
    journal: str | Path | None = None,
    storage: str | None = None,
    backend: str = "local",
    address: str | None = None,
    workers: int | None = 1,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Search a space for the points that no other beats.

    Args:
        study, overrides, axes, backend, address, workers, cache, progress: as of `sweep`; with one worker (the default)
            the same seed gives the same trials.
        objectives: in place of the study's: latency, throughput, cost, energy, power, area, or "maximise METRIC".
        constraints: in place of the study's, like "ttft.p99 <= 2 s".
        trials, seed: in place of the study's.
        journal: a file in which trials are kept, so that a later call goes on; None: they are forgotten.
        storage: a database URL instead of it, for many machines.

    Returns:
        A row per trial: as of `sweep`, and the `fidelity` that it reached (1: all requests), whether it is on the
        `front`, and the `hypervolume` up to it. `attrs["importance"]`: by objective, the share of each axis.

    Raises:
        MoesimError: the study makes no sense, or no backend or storage answers.
        KeyboardInterrupt: Ctrl-C; finished trials are in the journal.
    """
    import tempfile

    from moesim.explore.search import goals, search_points
    from moesim.explore.sweep import Resources
    from moesim.explore.table import frame
    from moesim.explore.trials import trials_table
    from moesim.spec.study import load_study, refuse_experiment, searched_with

    given = {"axes": axes, "objectives": objectives, "constraints": constraints}
    loaded = load_study(study, overrides, {key: value for key, value in given.items() if value is not None})
    loaded = searched_with(loaded, trials, seed)
    refuse_experiment(loaded)
    resources = Resources(backend, address, workers, None if cache is None else Path(cache))
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "journal.log" if journal is None else Path(journal)
        searched = search_points(loaded, resources, kept, storage, progress)
    if searched.interrupted:
        raise KeyboardInterrupt
    table = frame(trials_table(searched, goals(loaded.spec)))
    table.attrs["importance"] = searched.importance
    return table
