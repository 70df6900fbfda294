"""Sweeps in Python: a study in, a DataFrame out."""

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
