"""What each number is worth: elasticities of metrics, what 10 % of it buys, and the order in which resources bind.

The elasticity of a metric m to a number p is d ln m / d ln p: -1 where twice the bandwidth halves the time. It is taken
between runs with p a tenth higher and p a tenth lower (p x 1.1 and p / 1.1), with the same arrivals, lengths and
routing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moesim.explore.choice import chosen
from moesim.explore.knobs import Knob, knobs
from moesim.explore.ladder import ladder
from moesim.explore.made import Made, made
from moesim.explore.pool import Job, Metrics, all_measured
from moesim.explore.whatif import interval
from moesim.explore.written import document, tables
from moesim.results import Results, write_whole
from moesim.running import worthwhile
from moesim.serving.scales import Scales
from moesim.spec.errors import MoesimError
from moesim.spec.loading import LoadedExperiment
from moesim.uncertainty.repeats import MOST_REPEATS, factors, repeatable, seeds
from moesim.uncertainty.sources import error_sources, varied

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int], None]

#: How far a number is moved.
STEP = 1.1
#: Explained where nobody says what.
METRICS = (
    "tpot.mean", "ttft.mean", "throughput.output_tokens", "energy.per_output_token",
    "training.step_time", "training.tokens_per_second", "energy.per_token", "cost.per_million_tokens",
)  # fmt: skip
#: The file that only folders of explanations hold.
MARK = "explanation.json"
#: Changes below this share of a metric are rounding.
ROUNDING = 1e-9


@dataclass(frozen=True, repr=False)
class Explanation:
    """What the numbers of an experiment are worth.

    metrics: that are explained, by dotted name. elasticities: a row per number and metric: `knob` (as `--set` takes
    it), `label`, `group`, `metric`, `elasticity`, `low` and `high` (relative change of the metric with the number a
    tenth lower and higher), `gain` (the one of these that is the better number: more of rates and capacities, less of
    times, energies and prices), and with repeats `interval_low` and `interval_high` of the elasticity. ladder: what
    binds `metrics[0]`, see `moesim.explore.ladder`. without: names of the numbers that change none of the metrics.
    """

    base: Results
    metrics: tuple[str, ...]
    elasticities: pd.DataFrame
    ladder: pd.DataFrame
    without: tuple[str, ...]
    repeats: int = 0

    def table(self, metric: str | None = None) -> pd.DataFrame:
        """The elasticities of one metric (the first), the largest gain first."""
        rows = self.elasticities[self.elasticities["metric"] == (metric or self.metrics[0])]
        order = np.argsort(-rows["gain"].abs().fillna(-1.0).to_numpy(), kind="stable")
        return rows.iloc[order].reset_index(drop=True)

    def write(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a folder: `explanation.json`, the tables `elasticities` and `ladder` as Parquet and CSV, and a tornado
        figure per metric. Returns the folder.

        Raises:
            MoesimError: it exists (without `overwrite`), or cannot be written; nothing is left behind.
        """
        about = {
            "moesim": self.base.manifest["moesim"], "experiment": self.base.manifest["options"]["experiment"],
            "set": self.base.manifest["options"]["set"], "metrics": list(self.metrics), "step": STEP,
            "repeats": self.repeats, "without": list(self.without),
        }  # fmt: skip
        contents = [
            tables({"elasticities": self.elasticities, "ladder": self.ladder}),
            lambda folder: draw(self, folder),
            document(MARK, about),
        ]
        return write_whole(path, contents, overwrite=overwrite, mark=MARK)

    def __repr__(self) -> str:
        return f"Explanation({self.base.name!r}, {', '.join(self.metrics)})"


def explain(
    experiment: LoadedExperiment,
    *,
    metrics: Sequence[str] = (),
    repeats: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
) -> Explanation:
    """Turn every number of the hardware and the engine, and relieve what binds, again and again.

    Args:
        metrics: dotted names, or first parts of them; METRICS without any.
        repeats: repeat all this with drawn errors and seeds, for intervals of the elasticities; 0 for none. Training
            steps are not repeated.
        workers: processes to share the runs.
        progress: called with (finished, all) runs.

    Raises:
        MoesimError: the experiment cannot run, or a metric does not exist.
    """
    if not 0 <= repeats <= MOST_REPEATS or repeats == 1:
        raise MoesimError(f"{repeats} repeats give no interval", fix="ask for 2 or more, or for none")
    repeats = repeats if repeatable(experiment.spec) else 0
    begin = time.perf_counter()
    base = made(experiment)
    names = chosen(metrics, base.metrics) if metrics else [name for name in METRICS if name in base.metrics]
    known = knobs(base.spec, base.deployments)
    runs = (2 * len(known)) * (1 + repeats)
    workers = worthwhile((time.perf_counter() - begin) * runs, workers)
    report = _Report(progress, runs)
    settings = [_nominal(base), *_drawn(base, repeats)]
    turned = [_turned(setting, known, workers, report) for setting in settings]
    effects = [_effect(turned[0], names, i) for i in range(len(known))]
    table = _table(known, names, turned)
    without = tuple(knob.name for knob, moves in zip(known, effects, strict=True) if not moves)
    climbed = ladder(settings[0], known, base.metrics, names[0], workers=workers)
    return Explanation(base.results, tuple(names), table, climbed, without, repeats)


class _Report:
    """Tells the progress of several batches of runs as one."""

    def __init__(self, progress: Progress | None, runs: int) -> None:
        self._progress, self._runs, self._before = progress, runs, 0

    def batch(self, size: int) -> Callable[[int], None]:
        before = self._before
        self._before += size
        return lambda done: self._progress(before + done, self._runs) if self._progress else None


def _nominal(base: Made) -> Job:
    """The experiment itself; relatives of unmeasured devices stay those that they are."""
    return Job(base.spec, Scales(relatives=dict(base.spec.library.devices)))


def _drawn(base: Made, repeats: int) -> list[Job]:
    """The experiment with drawn errors and seeds, as `moesim run --uncertainty` repeats it."""
    if not repeats:
        return []
    spec, sources = base.spec, error_sources(base.spec, base.deployments)
    drawn, numbers = factors(spec.seed, sources, repeats), seeds(spec.seed, repeats)
    found = []
    for k in range(repeats):
        other, scales = varied(spec, sources, drawn[k].tolist(), int(numbers[k]))
        found.append(Job(other, Scales(scales.kernels, scales.collectives, relatives=dict(spec.library.devices))))
    return found


class _Turn(NamedTuple):
    """The metrics of a run with a knob at `factor`; None where it cannot run."""

    factor: float
    metrics: Metrics | None


class _Turned(NamedTuple):
    base: Metrics
    lower: list[_Turn]
    higher: list[_Turn]


def _turned(setting: Job, known: Sequence[Knob], workers: int, report: _Report) -> _Turned:
    sides = []
    jobs = [Job(*setting)]
    for factor in (1 / STEP, STEP):
        applied = [knob.apply(setting.spec, setting.scales, factor) for knob in known]
        sides.append([ratio for _, _, ratio in applied])
        jobs += [Job(spec, scales) for spec, scales, _ in applied]
    found = all_measured(jobs, workers=workers, progress=report.batch(len(jobs)))
    base, lower, higher = found[0], found[1 : 1 + len(known)], found[1 + len(known) :]
    assert base is not None
    return _Turned(base, *(list(map(_Turn, *side)) for side in ((sides[0], lower), (sides[1], higher))))


def _effect(turned: _Turned, names: Sequence[str], i: int) -> bool:
    """Whether a knob changes one of the metrics."""
    for turn in (turned.lower[i], turned.higher[i]):
        if turn.metrics is None:
            return True
        for name in names:
            before, after = turned.base.get(name, math.nan), turn.metrics.get(name, math.nan)
            if abs(after - before) > ROUNDING * abs(before):
                return True
    return False


def _table(known: Sequence[Knob], names: Sequence[str], turned: Sequence[_Turned]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for i, knob in enumerate(known):
        for name in names:
            low, high = (_change(turned[0].base, side[i], name) for side in (turned[0].lower, turned[0].higher))
            row = {
                "knob": knob.name, "label": knob.label, "group": knob.group, "metric": name,
                "elasticity": _elasticity(turned[0], i, name), "low": low, "high": high,
                "gain": low if knob.less else high,
            }  # fmt: skip
            if len(turned) > 1:
                ends = interval(np.array([_elasticity(each, i, name) for each in turned[1:]]))
                row |= dict(zip(("interval_low", "interval_high"), ends, strict=True))
            rows.append(row)
    return pd.DataFrame(rows)


def _change(base: Metrics, turn: _Turn, name: str) -> float:
    """Relative; NaN where the run is not possible, the number cannot be moved this way, or the metric is 0."""
    before, after = base.get(name, math.nan), (turn.metrics or {}).get(name, math.nan)
    if turn.factor == 1.0 or not before:
        return math.nan
    change = after / before - 1.0
    return 0.0 if abs(change) <= ROUNDING else change


def _elasticity(turned: _Turned, i: int, name: str) -> float:
    """Between the two sides; of one and the base where the other is not possible."""
    points = [(0.0, turned.base.get(name, math.nan))]
    points += [
        (math.log(turn.factor), turn.metrics.get(name, math.nan))
        for turn in (turned.lower[i], turned.higher[i])
        if turn.metrics is not None and turn.factor != 1.0
    ]
    usable = sorted((x, value) for x, value in points if value > 0)
    if len(usable) < 2:
        return math.nan
    (first, low), (last, high) = usable[0], usable[-1]
    return 0.0 if abs(high / low - 1.0) <= ROUNDING else math.log(high / low) / (last - first)


def draw(found: Explanation, folder: Path) -> None:
    """A tornado figure per metric, with its data beside it."""
    from moesim.report.names import label
    from moesim.report.plots.tornado import tornado
    from moesim.report.style import printed, save

    for metric in found.metrics:
        rows = found.table(metric)
        data = rows.rename(columns={"label": "parameter"})[["parameter", "low", "high"]]
        stem = folder / f"tornado-{metric.replace('.', '-')}"
        data.to_csv(f"{stem}.csv", index=False)
        with printed():
            save(tornado(data, metric=label(metric), step=f"{100 * (STEP - 1):.0f} %"), stem)
