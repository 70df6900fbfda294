"""Latencies: their distributions, and how they and goodput move with the load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moesim.report.distributions import ecdf
from moesim.report.names import label, scaled
from moesim.report.plots.axes import band, legend, rows_of, series_style
from moesim.report.style import COLUMN, GREY, blank, time_unit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

TITLES = {
    "ttft": "Time to first token", "tpot": "Time per output token", "itl": "Inter-token latency", "e2e": "End to end",
}  # fmt: skip


def cdf_table(samples: Mapping[str, Mapping[str, Array | tuple[Array, NDArray[np.int64]]]]) -> pd.DataFrame:
    """Columns run, latency, seconds, share: the empirical distribution of each latency of each run, thinned to some
    hundreds of points. A sample is its values, or values with their counts."""
    import pandas as pd

    parts = []
    for run, latencies in samples.items():
        for name, sample in latencies.items():
            values, counts = sample if isinstance(sample, tuple) else (sample, np.ones(len(sample), np.int64))
            if np.isfinite(values).any():
                seconds, share = ecdf(values, counts)
                parts.append(pd.DataFrame({"run": run, "latency": name, "seconds": seconds, "share": share}))
    return (
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["run", "latency", "seconds", "share"])
    )


def latency_cdf(table: pd.DataFrame, width: float = COLUMN["double"]) -> Figure:
    """Cumulative distributions, a panel per latency and a line per run; `table` as `cdf_table` gives it."""
    names, runs = list(dict.fromkeys(table["latency"])), list(dict.fromkeys(table["run"]))
    figure, panels = rows_of(width, len(names), height=1.75)
    for axes, name in zip(panels, names, strict=True):
        mine = table[table["latency"] == name]
        low, high = _view(mine)
        wide = low > 0 and high / low > 30
        factor, unit = time_unit(low * 3 if wide else high)
        for run, part in mine.groupby("run", sort=False):
            look = series_style(runs.index(run), markers=False)
            axes.plot(part["seconds"] * factor, part["share"], label=str(run), **look)
        axes.set_xscale("log" if wide else "linear")
        margin = 0.04 * (high - low)
        axes.set_xlim(
            (low / 1.15 if wide else max(0.0, low - margin)) * factor, (high * 1.15 if wide else high + margin) * factor
        )
        axes.set(title=TITLES.get(name, name), xlabel=unit, ylim=(0, 1.01))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        if wide:
            _plain(axes)
    panels[0].set_ylabel("share of requests")
    legend(figure, panels[0], len(runs))
    return figure


def _view(table: pd.DataFrame) -> tuple[float, float]:
    """What a panel shows: all but the outermost of each run."""
    inner = table[(table["share"] >= 0.003) & (table["share"] <= 0.997)]
    shown = inner if len(inner) else table
    low, high = float(shown["seconds"].min()), float(shown["seconds"].max())
    return (low, high) if high > low * 1.02 else (0.9 * low, 1.1 * high or 1e-3)


def _plain(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0), numticks=7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def load_curve(table: pd.DataFrame, width: float = COLUMN["double"]) -> Figure:
    """Latencies against throughput, a panel per latency and a line per series.

    `table`: a row per load, with `series`, a first metric (the throughput), and further ones (the latencies), each with
    its 80 % interval in `METRIC.low` and `METRIC.high` where that is known.
    """
    first, *others = metrics_of(table)
    series = list(dict.fromkeys(table["series"]))
    figure, panels = rows_of(width, len(others), height=1.95)
    across, x_label = scaled(first, table[first])
    for axes, metric in zip(panels, others, strict=True):
        values, y_label = scaled(metric, table[metric])
        for index, name in enumerate(series):
            mine = np.flatnonzero((table["series"] == name).to_numpy())
            mine = mine[np.argsort(across[mine], kind="stable")]
            axes.plot(across[mine], values[mine], label=str(name), **series_style(index))
            band(axes, table.iloc[mine], metric, across[mine], index)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        if len(values) > 1 and np.nanmin(values) > 0 and np.nanmax(values) / np.nanmin(values) > 20:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    legend(figure, panels[0], len(series))
    return figure


def metrics_of(table: pd.DataFrame) -> list[str]:
    """The metrics of a table in their order."""
    others = ("series", "load")
    return [name for name in table.columns if name not in others and not name.endswith((".low", ".high"))]


def goodput_curve(table: pd.DataFrame, width: float = COLUMN["single"]) -> Figure:
    """Requests per second that meet the SLO against those that are sent; `table`: series, load (requests per second),
    goodput.requests, and its interval."""
    metric = "goodput.requests"
    series = list(dict.fromkeys(table["series"]))
    figure = blank(width, 0.62 * min(width, COLUMN["single"]) + 0.3)
    axes = figure.add_subplot()
    most = float(table["load"].max())
    axes.plot([0, most], [0, most], color=GREY, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
    axes.annotate(
        "all meet the SLO", (most, most), (-3, -2), textcoords="offset points", ha="right", va="bottom", color=GREY,
        fontsize=6, rotation_mode="anchor",
    )  # fmt: skip
    for index, name in enumerate(series):
        mine = table[table["series"] == name].sort_values("load", kind="stable")
        axes.plot(mine["load"], mine[metric], label=str(name), **series_style(index))
        band(axes, mine, metric, mine["load"].to_numpy(dtype=float), index)
    axes.set(xlabel="requests sent per second", ylabel=f"{label(metric)} (requests/s)")
    axes.set_xlim(0, most * 1.05)
    axes.set_ylim(bottom=0)
    legend(figure, axes, len(series))
    return figure
