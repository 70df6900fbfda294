"""The tornado: what each parameter changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.report.style import BLUE, COLUMN, GREY, INK, VERMILION, blank

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Parameters drawn; the others are counted below.
MOST = 14


def tornado(
    table: pd.DataFrame, width: float = COLUMN["single"], *, metric: str = "the metric", step: str = ""
) -> Figure:  # fmt: skip
    """How far a metric moves with each parameter, the largest on top.

    Args:
        table: a row per parameter with `parameter`, and `low` and `high`, the relative change of the metric (0.05 is
            5 % more) where the parameter is lowered and where it is raised; NaN where that was not tried. Where there
            are `interval_low` and `interval_high`, they are drawn around `high`.
        width: inches.
        metric: what moves, for the axis. step: how far parameters are moved, for the legend ("10 %").

    Call it within `printed()`.
    """
    sizes = table[["low", "high"]].abs().max(axis=1).fillna(0.0)
    order = np.argsort(-sizes.to_numpy(), kind="stable")
    moving = [i for i in order.tolist() if sizes.iloc[i] > 0]
    # Bars that nobody would see are counted instead.
    seen = [i for i in moving if sizes.iloc[i] > 0.005 * sizes.max()]
    rows = table.iloc[seen[:MOST]]
    figure = blank(width, 0.62 + 0.17 * max(2, len(rows)))
    axes = figure.add_subplot()
    position = np.arange(len(rows))
    for name, colour, word in (("low", VERMILION, "less"), ("high", BLUE, "more")):
        values = 100 * rows[name].to_numpy(dtype=float)
        if np.isfinite(values).any():
            axes.barh(position, np.nan_to_num(values), height=0.7, color=colour, label=f"{step} {word}".strip())
    if "interval_low" in rows:
        _intervals(axes, position, rows)
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.set(yticks=position, yticklabels=rows["parameter"], ylim=(max(1, len(rows)) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g} %" if value else "0")
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(f"change of {metric}")
    axes.margins(x=0.08)
    if len(rows):
        axes.legend(loc="lower right", handleheight=0.8)
    hidden = len(table) - len(rows)
    if hidden:
        still = len(table) - len(moving)
        text = f"{hidden} more without effect" if still == hidden else f"{hidden} more with less effect"
        axes.set_title(text, color=GREY, fontweight="normal", fontsize=6.5)
    return figure


def _intervals(axes: Axes, position: np.ndarray, rows: pd.DataFrame) -> None:
    at, low, high = (100 * rows[name].to_numpy(dtype=float) for name in ("high", "interval_low", "interval_high"))
    ends = np.stack([at - low, high - at]).clip(min=0)
    axes.errorbar(at, position, xerr=np.nan_to_num(ends), fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.8)
