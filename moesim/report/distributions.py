"""The latency figure: cumulative distributions of TTFT, TPOT and ITL, and E2E."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.report.series import thin
from moesim.report.style import BLUE, GREY, HEADER, INK, ORANGE, canvas, note, panel, time_unit
from moesim.report.text import percent, short_time
from moesim.results.metrics import weighted_percentiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moesim.results import Results

Array = NDArray[np.float64]
MARKED = (50, 90, 99)


@dataclass(frozen=True)
class Curve:
    """A weighted sample of times, ascending, and how to draw it."""

    label: str
    values: Array
    counts: NDArray[np.int64]
    colour: str

    @property
    def marks(self) -> Array:
        return weighted_percentiles(self.values, self.counts, MARKED)


def _curve(label: str, values: Array, colour: str, counts: NDArray[np.int64] | None = None) -> Curve:
    known = ~np.isnan(values)
    weights = np.ones(len(values), np.int64) if counts is None else counts
    order = np.argsort(values[known], kind="stable")
    return Curve(label, values[known][order], weights[known][order], colour)


def latency(results: Results) -> Figure:
    """Three panels: how long until the first token, between tokens, and until the last; with the SLO where given."""
    requests, itl = results.requests, results.itl
    height = 4.4
    finished, total = results.summary["requests"]["finished"], results.summary["requests"]["total"]
    figure = canvas(10.2, height, "Latency", f"{results.name} · {finished:,} of {total:,} requests finished")
    panels: tuple[tuple[str, str, list[Curve]], ...] = (
        ("Time to first token", "ttft", [_curve("TTFT", requests["ttft"].to_numpy(), BLUE)]),
        (
            "Time per output token",
            "tpot",
            [
                _curve("TPOT", requests["tpot"].to_numpy(), BLUE),
                _curve("ITL", itl["duration"].to_numpy(), ORANGE, itl["count"].to_numpy()),
            ],
        ),
        ("End to end", "e2e", [_curve("E2E", requests["e2e"].to_numpy(), BLUE)]),
    )
    goodput = results.summary["goodput"]
    for index, (title, name, curves) in enumerate(panels):
        axes = panel(figure, 0.85 + 3.15 * index, 1.25, 2.8, height - 1.25 - HEADER - 0.45)
        axes.set_title(title, pad=17)
        limit = goodput["slo"].get(name)
        _draw(axes, [curve for curve in curves if len(curve.values)], limit, goodput["attainment"].get(name))
        if index:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel("share of requests")
    return figure


def _draw(axes: Axes, curves: list[Curve], limit: float | None, share: float | None) -> None:
    if not curves:
        note(axes, "none measured")
        return
    low, high, logarithmic = _range(curves, limit)
    factor, unit = time_unit(float(curves[0].marks[0]) if logarithmic else high)
    axes.set_xscale("log" if logarithmic else "linear")
    for curve in curves:
        x, y = ecdf(curve.values, curve.counts)
        axes.plot(x * factor, y, color=curve.colour, label=curve.label)
        axes.plot(curve.marks * factor, np.array(MARKED) / 100, "o", color=curve.colour, markersize=4.5, mec="white")
    axes.set(xlim=(low * factor, high * factor), ylim=(0, 1.005), xlabel=unit)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 0.99], ["0", "25 %", "50 %", "75 %", "90 %", "99 %"])
    if logarithmic:
        _plain_log_ticks(axes, decades=float(np.log10(high / low)))
    if limit is not None:
        _slo(axes, limit, share, (low, high), factor)
    _percentile_table(axes, curves)


def _range(curves: list[Curve], limit: float | None) -> tuple[float, float, bool]:
    """What the panel shows: the body of the samples, the p99 marks, and the SLO unless it is far away; logarithmic
    where the sample spans more than a factor of thirty."""
    points = np.array([weighted_percentiles(curve.values, curve.counts, (0.3, 10, 99, 99.7)) for curve in curves])
    low, tenth = points[:, :2].min(axis=0).tolist()
    p99, high = points[:, 2:].max(axis=0).tolist()
    if limit is not None and low - 0.5 * (high - low) <= limit <= high + 0.5 * (high - low):
        low, high = min(low, limit), max(high, limit)
    if tenth > 0 and p99 / tenth > 30:
        low = max(low, tenth / 3) / 1.2
        return low, high * 1.25, True
    # Equal values differ by rounding only: show them in the middle, not their noise.
    margin = 0.06 * (high - low) if high - low > 0.02 * high else 0.1 * high or 1e-3
    return max(0.0, low - margin), high + margin, False


def ecdf(values: Array, counts: NDArray[np.int64]) -> tuple[Array, Array]:
    """The empirical distribution function of a weighted sample as a polyline (values, shares): stairs for few values, a
    line through some hundreds of many. NaN is left out."""
    known = ~np.isnan(values)
    order = np.argsort(values[known], kind="stable")
    ordered, cumulative = values[known][order], np.cumsum(counts[known][order])
    share = cumulative / cumulative[-1]
    if len(ordered) <= 60:
        return np.repeat(ordered, 2), np.concatenate([[0.0], np.repeat(share, 2)[:-1]])
    # Evenly spaced in probability, and again in the values' order so that sparse tails keep their shape.
    keep = np.union1d(thin(ordered, 300), np.searchsorted(share, np.linspace(0, 1, 300)).clip(max=len(share) - 1))
    return np.append(ordered[0], ordered[keep]), np.append(0.0, share[keep])


def _plain_log_ticks(axes: Axes, decades: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    steps = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=steps, numticks=9))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _slo(axes: Axes, limit: float, share: float | None, view: tuple[float, float], factor: float) -> None:
    """The objective as a line with its share met, or in words where it lies outside the panel."""
    met = "" if share is None else f" · met by {percent(share)}"
    factor_shown, shown = time_unit(limit) if limit < 1 else (1.0, "s")
    text = f"SLO {limit * factor_shown:g} {shown}{met}"
    options: dict[str, Any] = {"fontsize": 8, "color": INK, "va": "bottom", "transform": axes.transAxes}
    if not view[0] <= limit <= view[1]:
        axes.text(0.0, 1.015, f"{text} (off scale)", ha="left", **options)
        return
    axes.axvline(limit * factor, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    at = float(axes.transAxes.inverted().transform(axes.transData.transform((limit * factor, 0)))[0])
    side = "left" if at < 0.35 else "right" if at > 0.65 else "center"
    axes.text(at, 1.015, text, ha=side, **options)


#: The percentile table below a panel, in inches from its lower edge: its first line, and from line to line.
TABLE_TOP, TABLE_LINE = 0.62, 0.19


def _percentile_table(axes: Axes, curves: list[Curve]) -> None:
    """The marked values below the panel, a line per curve, whose names are the legend."""
    columns = np.linspace(0.42, 1.0, len(MARKED))
    for x, percentile in zip(columns, MARKED, strict=True):
        _entry(axes, x, 0, f"p{percentile}", color=GREY)
    for line, curve in enumerate(curves, 1):
        _entry(axes, 0.0, line, curve.label, ha="left", color=curve.colour, fontweight="bold")
        for x, mark in zip(columns, curve.marks, strict=True):
            _entry(axes, x, line, short_time(float(mark)), color=curve.colour)


def _entry(axes: Axes, x: float, line: int, text: str, *, ha: str = "right", **options: Any) -> None:
    drop = -72 * (TABLE_TOP + TABLE_LINE * line)
    axes.annotate(
        text, (x, 0), (0, drop), xycoords="axes fraction", textcoords="offset points", ha=ha, fontsize=8,
        annotation_clip=False, **options,
    )  # fmt: skip
