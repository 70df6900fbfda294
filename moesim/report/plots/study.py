"""A metric along an axis of a study, a line or bar for each value of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from moesim.report.names import label, scaled
from moesim.report.plots.axes import band, legend, series_style
from moesim.report.style import BLUE, COLUMN, GREY, INK, blank

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def study_lines(table: pd.DataFrame, x_label: str, metric: str, width: float = COLUMN["single"]) -> Figure:
    """`table`: series, x (numbers), the metric, and `metric.low`, `metric.high` (80 % intervals) where they are known.
    Call it within `printed()`."""
    series = list(dict.fromkeys(table["series"]))
    figure = blank(width, 0.62 * min(width, COLUMN["single"]) + 0.2 + 0.14 * ((len(series) + 1) // 2))
    axes = figure.add_subplot()
    _, y_label = scaled(metric, table[metric])
    for index, name in enumerate(series):
        mine = table[table["series"] == name].sort_values("x")
        x = mine["x"].to_numpy(dtype=float)
        band(axes, mine, metric, x, index)
        axes.plot(x, scaled(metric, mine[metric])[0], label=str(name), **series_style(index))
    known = table["x"].to_numpy(dtype=float)
    if len(known) and known.min() > 0 and known.max() / known.min() > 8:
        axes.set_xscale("log")
        values = sorted(set(known.tolist()))
        axes.set_xticks(values, _apart(values))
        axes.minorticks_off()
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_ylim(bottom=0)
    legend(figure, axes, len(series))
    return figure


def study_bars(table: pd.DataFrame, metric: str, width: float = COLUMN["single"]) -> Figure:
    """`table`: name, the metric, and its interval as above; a bar per row. Call it within `printed()`."""
    values, axis_label = scaled(metric, table[metric])
    factor = np.nanmedian(values / table[metric].to_numpy(dtype=float)) if np.nanmax(values) else 1.0
    figure = blank(width, 0.5 + 0.19 * len(table))
    axes = figure.add_subplot()
    position = np.arange(len(table))
    axes.barh(position, np.nan_to_num(values), height=0.66, color=BLUE)
    if f"{metric}.low" in table:
        low, high = (factor * table[f"{metric}.{end}"].to_numpy(dtype=float) for end in ("low", "high"))
        ends = np.nan_to_num(np.stack([values - low, high - values])).clip(min=0)
        axes.errorbar(values, position, xerr=ends, fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.8)
    axes.set(yticks=position, ylim=(len(table) - 0.4, -0.6), xlabel=axis_label or label(metric))
    axes.set_yticklabels(table["name"].astype(str).tolist())
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(False, axis="y")
    axes.xaxis.label.set_color(GREY)
    return figure


def _apart(values: Sequence[float]) -> list[str]:
    """Labels of rising values on a logarithmic axis, empty where one would run into the one before."""
    labels, last = [], 0.0
    room = (values[-1] / values[0]) ** 0.075
    for value in values:
        shown = value >= last * room
        labels.append(f"{value:g}" if shown else "")
        last = value if shown else last
    return labels
