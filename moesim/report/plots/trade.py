"""Runs against each other: the CAP radar, the Pareto front, speed-ups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.report.names import label, more_is_better, scaled
from moesim.report.plots.axes import legend, rows_of, series_style
from moesim.report.style import BLUE, COLUMN, GREY, INK, MARKERS, SERIES, blank

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


def cap_radar(table: pd.DataFrame, width: float = COLUMN["single"]) -> Figure:
    """Cost and performance of each run around a circle, further out is better (after MoE-CAP, arXiv 2412.07067; a
    simulator knows nothing of accuracy).

    `table`: run, axis, value, shown (0 to 1; utilisations as they are, others over the best run), known in the order
    of the axes.
    """
    axes_names, runs = list(dict.fromkeys(table["axis"])), list(dict.fromkeys(table["run"]))
    side = min(width, COLUMN["single"])
    figure = blank(width, 0.82 * side + 0.16 * (len(runs) > 1))
    axes = figure.add_subplot(projection="polar")
    angle = np.linspace(0, 2 * np.pi, len(axes_names), endpoint=False)
    for index, run in enumerate(runs):
        mine = table[table["run"] == run].set_index("axis").reindex(axes_names)
        values = np.nan_to_num(mine["shown"].to_numpy(dtype=float))
        look = series_style(index)
        axes.plot(np.append(angle, angle[0]), np.append(values, values[0]), label=run, clip_on=False, **look)
        axes.fill(angle, values, color=look["color"], alpha=0.12)
    axes.set(ylim=(0, 1), xticks=angle)
    axes.set_xticklabels([name.replace(" per ", "\nper ") for name in axes_names])
    axes.set_yticks([0.25, 0.5, 0.75, 1.0], ["", "50 %", "", "100 %"], color=GREY, fontsize=5.5)
    axes.set_theta_offset(np.pi / 2)  # type: ignore[attr-defined]
    axes.set_theta_direction(-1)  # type: ignore[attr-defined]
    axes.spines["polar"].set_visible(False)
    for text, at in zip(axes.get_xticklabels(), angle, strict=True):
        across = np.sin(at)
        text.set_horizontalalignment("center" if abs(across) < 0.2 else "left" if across > 0 else "right")
    legend(figure, axes, len(runs))
    return figure


def on_front(first: Array, second: Array, first_more: bool, second_more: bool) -> NDArray[np.bool_]:
    """Whether no other point is better in one metric and as good in the other; equal points are all on the front.
    Points with NaN are not."""
    x, y = (-first if first_more else first), (-second if second_more else second)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    order = np.lexsort((y, x))
    before = np.concatenate([[np.inf], np.minimum.accumulate(y[order])[:-1]])
    best = order[y[order] < before]
    found = np.zeros(len(known), dtype=bool)
    found[known] = np.isin(x + 1j * y, x[best] + 1j * y[best])
    return found


def pareto(table: pd.DataFrame, width: float = COLUMN["single"]) -> Figure:
    """Points in two metrics, with the front that no other point beats.

    `table`: series, point, two metrics (the last two columns but for intervals), front (whether it is on it).
    """
    first, second = (name for name in table.columns if name not in ("series", "point", "front"))
    x, x_label = scaled(first, table[first])
    y, y_label = scaled(second, table[second])
    series = list(dict.fromkeys(table["series"]))
    figure = blank(width, 0.68 * min(width, COLUMN["single"]) + 0.3)
    axes = figure.add_subplot()
    front = table["front"].to_numpy(dtype=bool)
    at = np.flatnonzero(front)[np.argsort(x[front], kind="stable")]
    # Between two points of the front one has the second's value at the worse of them.
    corner = "steps-pre" if more_is_better(first) else "steps-post"
    axes.plot(x[at], y[at], color=INK, linewidth=0.9, drawstyle=corner, zorder=2)
    for index, name in enumerate(series):
        mine = (table["series"] == name).to_numpy()
        look: dict[str, Any] = {"marker": MARKERS[index % len(MARKERS)], "color": SERIES[index % len(SERIES)]}
        axes.scatter(x[mine & ~front], y[mine & ~front], s=9, alpha=0.35, linewidths=0, zorder=1, **look)
        look |= {"edgecolors": "white", "linewidths": 0.5, "label": str(name)}
        axes.scatter(x[mine & front], y[mine & front], s=18, zorder=3, **look)
    axes.set(xlabel=x_label, ylabel=y_label)
    _better(axes, more_is_better(first), more_is_better(second))
    if len(at) <= 8:
        _labels(axes, table, x, y, at)
    legend(figure, axes, len(series))
    return figure


def _better(axes: Axes, right: bool, up: bool) -> None:
    """An arrow into the corner where one would like to be."""
    x, y = (0.98 if right else 0.02), (0.98 if up else 0.03)
    shift = (-14 if right else 14, -11 if up else 11)
    axes.annotate(
        "better", (x, y), shift, xycoords="axes fraction", textcoords="offset points", color=GREY, fontsize=6,
        ha="right" if right else "left", va="top" if up else "bottom", arrowprops={"arrowstyle": "->", "color": GREY},
    )  # fmt: skip


def _labels(axes: Axes, table: pd.DataFrame, x: Array, y: Array, at: NDArray[np.int64]) -> None:
    for i in at:
        axes.annotate(
            str(table["point"].iloc[i]), (x[i], y[i]), (4, -6), textcoords="offset points", fontsize=5.5, color=GREY
        )


def speedup(table: pd.DataFrame, width: float = COLUMN["single"]) -> Figure:
    """How many times better each run is than the first, with 80 % intervals, a panel per metric.

    `table`: run, metric, ratio (above 1 is better), low, high (NaN where not known).
    """
    metrics, runs = list(dict.fromkeys(table["metric"])), list(dict.fromkeys(table["run"]))
    figure, panels = rows_of(width, len(metrics), height=0.45 + 0.17 * len(runs))
    for place, (axes, metric) in enumerate(zip(panels, metrics, strict=True)):
        mine = table[table["metric"] == metric].set_index("run").reindex(runs)
        ratio, low, high = (mine[name].to_numpy(dtype=float) for name in ("ratio", "low", "high"))
        position = np.arange(len(runs))
        colours = [GREY if index == 0 else BLUE for index in range(len(runs))]
        axes.barh(position, np.nan_to_num(ratio), height=0.66, color=colours)
        ends = np.nan_to_num(np.stack([ratio - low, high - ratio])).clip(min=0)
        if ends.any():
            axes.errorbar(ratio, position, xerr=ends, fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.8)
        right = float(np.nanmax([np.nanmax(ratio), np.nanmax(high) if np.isfinite(high).any() else 0.0, 1.0]))
        for y, value in enumerate(ratio):
            if np.isfinite(value):
                text = f"{value:.2f}×" if value < 10 else f"{value:.1f}×"
                end = max(value, high[y]) if np.isfinite(high[y]) else value
                axes.text(end + 0.03 * right, y, text, va="center", fontsize=6, color=GREY)
        axes.axvline(1, color=INK, linewidth=0.6)
        axes.set(yticks=position, ylim=(len(runs) - 0.4, -0.6), xlim=(0, 1.25 * right), title=label(metric))
        axes.set_yticklabels(runs if place == 0 or width <= COLUMN["single"] else [])
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        axes.locator_params(axis="x", nbins=4)
    return figure
