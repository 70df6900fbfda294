"""One change against its base: every metric with its difference and interval, and where the difference comes from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.explore.causes import causes, divided
from moesim.explore.choice import chosen
from moesim.explore.made import Made, made
from moesim.explore.metrics import machine_metrics
from moesim.explore.written import document, tables
from moesim.results import Results, write_contents, write_whole
from moesim.running import worthwhile
from moesim.serving.pools.service import POOLS
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.loading import LoadedExperiment
from moesim.uncertainty.intervals import ENDS, LEVEL
from moesim.uncertainty.repeats import check_repeats, repeat, repeatable
from moesim.uncertainty.sources import error_sources

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
Progress = Callable[[int, int], None]

#: Share of a value below which a difference is rounding.
ROUNDING = 1e-11

#: The file that only folders of comparisons hold.
MARK = "whatif.json"

#: Of the table of metrics.
COLUMNS = ("metric", "base", "change", "difference", "relative", "low", "high", "clear")


@dataclass(frozen=True, repr=False)
class WhatIf:
    """A base and a change of it, side by side.

    base, change: the results of both. metrics: a row per metric with `base`, `change`, `difference`, `relative`
    (difference over base; NaN where that is 0), `low` and `high` (the 10th and 90th percentile of the differences of
    the repeats) and `clear` (whether these are on one side of 0); SI units. causes: see `moesim.explore.causes`.
    draws: a row per repeat, a column per metric: the change's value less the base's. shared, apart: sources of error
    that base and change have in common, and those that are drawn for each by itself. asked: repeats that were wanted.
    """

    base: Results
    change: Results
    overrides: tuple[str, ...]
    metrics: pd.DataFrame
    causes: pd.DataFrame
    draws: pd.DataFrame
    shared: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    asked: int = 0

    @property
    def repeats(self) -> int:
        return len(self.draws)

    @property
    def level(self) -> float:
        """Share of the repeats within an interval."""
        return LEVEL

    def write(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a folder: `whatif.json`, the tables `metrics`, `causes` and `draws` as Parquet and CSV, and the results
        folders `base` and `change`. Returns the folder.

        Raises:
            MoesimError: it exists (without `overwrite`), or cannot be written; nothing is left behind.
        """
        frames = {"metrics": self.metrics, "causes": self.causes, "draws": self.draws}
        about = {
            "moesim": self.base.manifest["moesim"], "experiment": self.base.manifest["options"]["experiment"],
            "base": self.base.manifest["options"]["set"], "change": list(self.overrides), "repeats": self.repeats,
            "asked": self.asked, "level": self.level, "shared": list(self.shared), "apart": list(self.apart),
        }  # fmt: skip
        contents = [
            tables(frames),
            lambda folder: write_contents(folder / "base", self.base),
            lambda folder: write_contents(folder / "change", self.change),
            document(MARK, about),
        ]
        return write_whole(path, contents, overwrite=overwrite, mark=MARK)

    def __repr__(self) -> str:
        return f"WhatIf({self.base.name!r}, {', '.join(self.overrides) or 'no change'}, {len(self.metrics)} metrics)"


def whatif(
    base: LoadedExperiment,
    change: LoadedExperiment,
    *,
    metrics: Sequence[str] = (),
    repeats: int = 32,
    workers: int = 1,
    progress: Progress | None = None,
) -> WhatIf:
    """Run both, and both again `repeats` times, in pairs: repeat k of both has the same seed, and the same error of
    whatever they have in common (the same device's kernels, library, fabric and engine); another device's error is its
    own.

    Args:
        metrics: names of metrics, or their first parts; all without any.
        repeats: 0 for none, and no intervals; training steps are not repeated.
        workers: processes to share the repeats.
        progress: called with (finished, all) simulations.

    Raises:
        MoesimError: one of them cannot run, or a metric does not exist.
    """
    if not (repeatable(base.spec) and repeatable(change.spec)):
        repeats = 0
    if repeats:
        check_repeats(repeats)
    begin = time.perf_counter()
    first, second = made(base), made(change)
    workers = worthwhile((time.perf_counter() - begin) * repeats, workers)
    names = chosen(metrics, dict.fromkeys((*first.metrics, *second.metrics)))
    drawn = _paired(first, second, repeats, workers, progress) if repeats else _Drawn()
    table = _table(names, first.metrics, second.metrics, drawn.differences)
    why = causes(divided(first.results, base.spec), divided(second.results, change.spec))
    draws = _frame({name: drawn.differences[name] for name in names if name in drawn.differences})
    own = overrides_beyond(base.overrides, change.overrides)
    return WhatIf(first.results, second.results, own, table, why, draws, drawn.shared, drawn.apart, repeats)


def overrides_beyond(base: Sequence[str], change: Sequence[str]) -> tuple[str, ...]:
    """What a change sets that its base does not."""
    begins = tuple(change[: len(base)]) == tuple(base)
    return tuple(change[len(base) :]) if begins else tuple(change)


class _Drawn(NamedTuple):
    """differences: [repeats] by metric, change less base."""

    differences: dict[str, FloatArray] = {}
    shared: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()


def _paired(base: Made, change: Made, repeats: int, workers: int, progress: Progress | None) -> _Drawn:
    """The repeats of both that finished, in pairs."""
    apart = apart_sources(base, change)

    def report(before: int) -> Progress | None:
        return None if progress is None else lambda done, _: progress(before + done, 2 * repeats)

    with base.experiment.placing():
        one = repeat(base.spec, base.deployments, repeats, workers=workers, progress=report(0))
    if one.stopped:
        return _Drawn()
    with change.experiment.placing():
        other = repeat(
            change.spec, change.deployments, repeats, workers=workers, progress=report(repeats), apart=apart
        )  # fmt: skip
    pairs = len(other.number)
    if pairs < 2:
        return _Drawn()
    none = np.full(pairs, np.nan)
    differences = {
        name: _less(other.metrics.get(name, none), one.metrics.get(name, none)[:pairs])
        for name in dict.fromkeys((*one.metrics, *other.metrics))
    }
    machines = machine_metrics(base.spec), machine_metrics(change.spec)  # the same in every repeat
    differences |= {name: np.full(pairs, machines[1][name] - machines[0][name]) for name in machines[0]}
    labels = {source.label for source in one.sources} & {source.label for source in other.sources}
    return _Drawn(differences, tuple(sorted(labels - apart)), tuple(sorted(apart)))


def apart_sources(base: Made, change: Made) -> frozenset[str]:
    """Labels of the change's sources of error that are not the base's, although some are called alike: terms measured
    on another device or in another stack, overheads of another engine."""
    known = {source.label: source.origin for source in error_sources(base.spec, base.deployments)}
    other_engine = _engines(base.spec) != _engines(change.spec)
    return frozenset(
        source.label
        for source in error_sources(change.spec, change.deployments)
        if known.get(source.label) != source.origin or (source.what == "engine" and other_engine)
    )


def _engines(spec: ExperimentSpec) -> set[str]:
    return {spec.engine.name} if spec.pools is None else {spec.pool(name).engine.name for name in POOLS}


def _table(
    names: Sequence[str], base: dict[str, float], change: dict[str, float], differences: dict[str, FloatArray]
) -> pd.DataFrame:  # fmt: skip
    import pandas as pd

    rows = []
    for name in names:
        before, after = base.get(name, math.nan), change.get(name, math.nan)
        low, high = interval(differences.get(name, np.zeros(0)))
        difference = float(_less(np.array(after), np.array(before)))
        rows.append((name, before, after, difference, relative(before, difference), low, high, low > 0 or high < 0))
    return pd.DataFrame(rows, columns=[*COLUMNS])


def _less(after: FloatArray, before: FloatArray) -> FloatArray:
    """The difference; none where only the order of additions, or the time of day that is taken off, differs."""
    same = np.abs(after - before) <= ROUNDING * np.maximum(np.abs(after), np.abs(before))
    less: FloatArray = np.where(same, 0.0, after - before)
    return less


def interval(values: FloatArray) -> tuple[float, float]:
    """The 10th and 90th percentile of those that are defined; NaN of less than two."""
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, ENDS) if len(known) > 1 else (math.nan, math.nan)
    return float(low), float(high)


def relative(before: float, difference: float) -> float:
    """The difference as a share of what was before; NaN where that is 0, unless nothing changed."""
    return difference / abs(before) if before else (math.nan if difference else 0.0)


def _frame(columns: dict[str, FloatArray]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns)
