"""What the figures for publication share: panels, series, intervals, a legend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.report.names import scaled
from moesim.report.style import COLUMN, MARKERS, SERIES, blank

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

#: A column narrower than this takes one panel beside another only up to two.
_NARROW = 0.5 * (COLUMN["single"] + COLUMN["double"])


def rows_of(width: float, panels: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels of so many inches' height: side by side across a page, one above the other in a column."""
    across = panels if width > _NARROW else 1
    down = -(-panels // across)
    figure = blank(width, 0.25 + height * down * (1.0 if width > _NARROW else 0.92))
    grid = figure.subplots(down, across, squeeze=False)
    return figure, list(grid.ravel()[:panels])


def series_style(index: int, *, markers: bool = True) -> dict[str, Any]:
    """Colour and mark of a series by its place; more than there are colours begin again, dashed."""
    look: dict[str, Any] = {"color": SERIES[index % len(SERIES)]}
    look["linestyle"] = ("-", (0, (4, 2)), (0, (1.2, 1.2)))[min(index // len(SERIES), 2)]
    if not markers and index and index < len(SERIES):
        look["linestyle"] = ("-", (0, (4, 1.5)))[index % 2]
    return look | ({"marker": MARKERS[index % len(MARKERS)], "mec": "white", "mew": 0.4} if markers else {})


def band(axes: Axes, table: pd.DataFrame, metric: str, across: Array, index: int) -> None:
    """The interval of a metric around a line, where it is known."""
    if f"{metric}.low" not in table:
        return
    # In the unit of the values themselves.
    values, _ = scaled(metric, table[metric])
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.nanmedian(values / table[metric].to_numpy(dtype=float)) if len(table) else 1.0
    low, high = (factor * table[f"{metric}.{end}"].to_numpy(dtype=float) for end in ("low", "high"))
    if np.isfinite(low).any():
        axes.fill_between(across, low, high, color=SERIES[index % len(SERIES)], alpha=0.18, linewidth=0)


def legend(figure: Figure, axes: Axes, entries: int) -> None:
    """Above the panels, where there is more than one series."""
    if entries > 1:
        handles, labels = axes.get_legend_handles_labels()
        columns = max(1, min(entries, int(figure.get_size_inches()[0] * 14 / (4 + max(map(len, labels))))))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.2)
