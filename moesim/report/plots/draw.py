"""The figures by name: drawn and saved, each with the table that it shows beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.report.names import label
from moesim.report.plots import experts, kernels, latency, machine, tables, trade
from moesim.report.plots.tornado import tornado
from moesim.report.sources import Sources
from moesim.report.style import COLUMN, printed, save
from moesim.spec.errors import MoesimError
from moesim.spec.marked import display

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from moesim.hardware.machine import Machine

FORMATS = ("pdf", "svg", "png")


@dataclass(frozen=True)
class Plot:
    """A figure: the table that it shows, of results and the metrics asked for, and how to draw that in a width
    (inches)."""

    table: Callable[[Sources, Sequence[str]], pd.DataFrame]
    draw: Callable[..., Figure]


PLOTS: dict[str, Plot] = {
    "latency-cdf": Plot(tables.latency_cdf, latency.latency_cdf),
    "throughput-latency": Plot(tables.throughput_latency, latency.load_curve),
    "goodput": Plot(tables.goodput, latency.goodput_curve),
    "roofline": Plot(tables.roofline, kernels.roofline),
    "cap-radar": Plot(tables.cap_radar, trade.cap_radar),
    "pareto": Plot(tables.pareto, trade.pareto),
    "speedup": Plot(tables.speedup, trade.speedup),
    "breakdown": Plot(tables.breakdown, kernels.breakdown),
    "utilisation": Plot(tables.utilisation, machine.utilisation),
    "expert-load": Plot(tables.expert_load, experts.expert_load),
    "co-activation": Plot(tables.co_activation, experts.co_activation),
    "topology": Plot(tables.topology, machine.topology),
    "tornado": Plot(tables.tornado, tornado),
    "gantt": Plot(tables.gantt, kernels.gantt),
}


def plot_name(text: str) -> str:
    """The name of a figure, underscores allowed.

    Raises:
        MoesimError: there is none; suggests the nearest.
    """
    name = text.strip().lower().replace("_", "-").replace(" ", "-")
    if name in PLOTS:
        return name
    near = get_close_matches(name, PLOTS, n=1)
    fix = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(PLOTS)}"
    raise MoesimError(f"there is no figure {text!r}", fix=fix)


def formats_of(text: str) -> tuple[str, ...]:
    """("pdf", "png") of "pdf,png".

    Raises:
        MoesimError: one is unknown.
    """
    formats = tuple(dict.fromkeys(part.strip().lower().lstrip(".") for part in text.split(",") if part.strip()))
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        what = f"there is no format {unknown[0]!r}" if unknown else "--format names no format"
        raise MoesimError(what, fix=f"give some of {','.join(FORMATS)}")
    return formats


def draw_plots(
    sources: Sources,
    names: Sequence[str],
    output: Path,
    *,
    formats: Sequence[str] = FORMATS,
    width: str = "single",
    metrics: Sequence[str] = (),
) -> tuple[list[Path], list[str]]:
    """Draw the figures of these names (all that the results can feed, where none is named) into `output`, with a CSV of
    the table beside each.

    Returns: the files, and what is missing for the figures that were left out.

    Raises:
        MoesimError: a named figure cannot be fed, or a file cannot be written. Nothing is drawn then.
    """
    found, missing = _tables(sources, names, metrics)
    paths: list[Path] = []
    try:
        output.mkdir(parents=True, exist_ok=True)
        with printed():
            for name, table in found.items():
                figure = _draw(name, table, COLUMN[width], sources, metrics)
                paths += save(figure, output / name, formats)
                paths.append(output / f"{name}.csv")
                table.to_csv(paths[-1], index=False)
    except OSError as error:
        what = f"cannot write figures to {display(output)}: {error.strerror}"
        raise MoesimError(what, fix="name another --output") from None
    return paths, missing


def _tables(
    sources: Sources, names: Sequence[str], metrics: Sequence[str]
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    found: dict[str, pd.DataFrame] = {}
    missing: dict[str, list[str]] = {}  # figures by what they lack
    for name in names or PLOTS:
        try:
            found[name] = PLOTS[name].table(sources, metrics if names else ())
        except MoesimError as error:
            if names:
                raise
            missing.setdefault(str(error).removeprefix(f"the figure {name} "), []).append(name)
    if not found:
        raise MoesimError("these results feed no figure", fix=_by_reason(missing)[0])
    return found, _by_reason(missing)


def _by_reason(missing: Mapping[str, Sequence[str]]) -> list[str]:
    """'roofline, gantt: needs ...'."""
    return [f"{', '.join(names)}: {reason}" for reason, names in missing.items()]


def _draw(name: str, table: pd.DataFrame, width: float, sources: Sources, metrics: Sequence[str]) -> Figure:
    if name == "topology":
        return machine.topology(table, width, machine=_machine(sources))
    if name == "tornado":
        return tornado(table, width, metric=label(str(table["metric"].iloc[0])) if len(table) else "the metric")
    return PLOTS[name].draw(table, width)


def _machine(sources: Sources) -> Machine:
    from moesim.hardware.machine import assemble
    from moesim.spec.loading import load_experiment

    spec = load_experiment(dict(next(iter(sources.runs.values())).spec), check_traces=False).spec
    return assemble(spec.machine, spec.library)
