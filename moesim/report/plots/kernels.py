"""Where the time of steps goes: the roofline with its kernels, the breakdown, one step operator by operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.report.style import COLOURS, COLUMN, GREY, INK, MARKERS, blank, time_unit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Parts of a step, by what computes them; P. Tol's muted scheme (2021), which keeps apart under colour vision
#: deficiencies, beside the palette of what bounds the time.
PARTS = {
    "experts": "#DDCC77", "attention": "#882255", "GEMMs": "#332288", "other kernels": "#88CCEE",
    "communication": COLOURS["network"], "host": COLOURS["overhead"],
}  # fmt: skip
_KINDS = {
    "experts": "experts",
    "attention": "attention",
    "gemm": "GEMMs",
    "collective": "communication",
    "host": "host",
}

#: Operators of a share below this are marked without their names.
_NAMED = 0.03


def part_of(kind: str) -> str:
    """The part of a step to which a kind of operator belongs."""
    return _KINDS.get(kind, "other kernels")


def roofline(table: pd.DataFrame, width: float = COLUMN["single"]) -> Figure:
    """FLOP/s of each kind of kernel against its FLOP per byte, under the roof of the device.

    `table`: run, operator, kind, flops, memory_bytes, device_seconds (over all devices), share (of their time),
    peak_flops and peak_bandwidth (of one device).
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    shown = table[(table["flops"] > 0) & (table["memory_bytes"] > 0)]
    figure = blank(width, 0.72 * min(width, COLUMN["single"]) + 0.35)
    axes = figure.add_subplot(xscale="log", yscale="log")
    intensity = (shown["flops"] / shown["memory_bytes"]).to_numpy(dtype=float)
    rate = (shown["flops"] / shown["device_seconds"]).to_numpy(dtype=float)
    runs = list(dict.fromkeys(shown["run"]))
    roofs = shown.drop_duplicates(["peak_flops", "peak_bandwidth"])
    ridge = (roofs["peak_flops"] / roofs["peak_bandwidth"]).to_numpy(dtype=float)
    low, high = 0.5 * min(intensity.min(), ridge.min()), 6 * max(intensity.max(), ridge.max())
    for _, roof in roofs.iterrows():
        across = np.geomspace(low, high, 100)
        top = np.minimum(across * roof["peak_bandwidth"], roof["peak_flops"])
        axes.plot(across, top, color=INK, linewidth=0.9, zorder=1)
    for part, colour in PARTS.items():
        for index, run in enumerate(runs):
            mine = np.flatnonzero(((shown["kind"].map(part_of) == part) & (shown["run"] == run)).to_numpy())
            size = 8 + 90 * np.sqrt(shown["share"].to_numpy(dtype=float)[mine])
            if not len(mine):
                continue
            label = part if part not in axes.get_legend_handles_labels()[1] else None
            axes.scatter(
                intensity[mine], rate[mine], s=size, color=colour, marker=MARKERS[index], label=label, alpha=0.9,
                edgecolors="white", linewidths=0.5, zorder=3,
            )  # fmt: skip
    _names(axes, shown, intensity, rate, runs)
    axes.set(xlim=(low, high), xlabel="FLOP per byte of memory traffic", ylabel="FLOP/s of a device")
    axes.set_ylim(bottom=rate[rate > 0].min() / 3, top=3 * float(roofs["peak_flops"].max()))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _prefixed(value)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for side in (axes.xaxis, axes.yaxis):
        side.set_minor_formatter(NullFormatter())
    _key(figure, axes)
    return figure


def _prefixed(value: float) -> str:
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:g} {prefix}"
    return f"{value:g}"


def _names(axes: Axes, table: pd.DataFrame, intensity: np.ndarray, rate: np.ndarray, runs: list[str]) -> None:
    """The names of the operators that take most of the time, of the first run."""
    order = np.argsort(-table["share"].to_numpy(dtype=float))
    for place, i in enumerate(order[:5]):
        row = table.iloc[i]
        if row["run"] == runs[0] and row["share"] >= _NAMED:
            shift = (6, -7) if place % 2 else (-6, 6)
            axes.annotate(
                str(row["operator"]).replace("_", " "), (intensity[i], rate[i]), shift, textcoords="offset points",
                fontsize=6, color=GREY, ha="left" if place % 2 else "right",
            )  # fmt: skip


def _key(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        columns = 3 if figure.get_size_inches()[0] < 5 else 6
        drawn = figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.0)
        for handle in drawn.legend_handles:
            if handle is not None and hasattr(handle, "set_sizes"):
                handle.set_sizes([18.0])


def breakdown(table: pd.DataFrame, width: float = COLUMN["single"]) -> Figure:
    """The mean step of each run by what computes, a stacked bar per run; `table`: run, part, seconds (of a step),
    share."""
    runs = list(dict.fromkeys(table["run"]))
    figure = blank(width, 0.75 + 0.26 * max(2, len(runs)))
    axes = figure.add_subplot()
    longest = float(table.groupby("run")["seconds"].sum().max())
    factor, unit = time_unit(longest)
    left = np.zeros(len(runs))
    for part, colour in PARTS.items():
        mine = table[table["part"] == part].set_index("run").reindex(runs)
        values = np.nan_to_num(mine["seconds"].to_numpy(dtype=float)) * factor
        if not values.any():
            continue
        axes.barh(np.arange(len(runs)), values, left=left, height=0.7, color=colour, label=part)
        for y, (value, share) in enumerate(zip(values, np.nan_to_num(mine["share"]), strict=True)):
            if value > 0.07 * longest * factor:
                ink = "white" if part in ("attention", "GEMMs", "communication") else INK
                axes.text(
                    left[y] + value / 2, y, f"{100 * share:.0f}%", ha="center", va="center", color=ink, fontsize=6
                )
        left = left + values
    axes.set(yticks=range(len(runs)), yticklabels=runs, ylim=(len(runs) - 0.4, -0.6), xlabel=f"mean step ({unit})")
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1.02 * float(left.max()))
    _key(figure, axes)
    return figure


#: Layers that the printed Gantt shows; the whole step is in the table.
_WINDOW = 3


def gantt(table: pd.DataFrame, width: float = COLUMN["double"]) -> Figure:
    """One step operator by operator: a row per device and resource, three layers from its middle.

    `table`: device, resource, operator, kind, layer, start, end (seconds from the begin of the step).
    """
    rows = list(dict.fromkeys(zip(table["device"], table["resource"], strict=True)))
    layers = np.unique(table["layer"][table["layer"] >= 0])
    first = layers[max(0, (len(layers) - _WINDOW) // 2)] if len(layers) else 0
    window = table[(table["layer"] >= first) & (table["layer"] < first + _WINDOW)] if len(layers) else table
    begin, end = float(window["start"].min()), float(window["end"].max())
    shown = table[(table["end"] > begin) & (table["start"] < end)]
    figure = blank(width, 0.85 + 0.24 * len(rows))
    axes = figure.add_subplot()
    factor, unit = time_unit(float(table["end"].max()))
    for part, colour in PARTS.items():
        mine = shown[shown["kind"].map(part_of) == part]
        at = [rows.index(row) for row in zip(mine["device"], mine["resource"], strict=True)]
        if len(mine):
            axes.barh(
                at, (mine["end"] - mine["start"]) * factor, left=mine["start"] * factor, height=0.78, color=colour,
                label=part, edgecolor="white", linewidth=0.25,
            )  # fmt: skip
    axes.set(yticks=range(len(rows)), yticklabels=[f"{device} {what}" for device, what in rows])
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(begin * factor, end * factor))
    total = float(table["end"].max()) * factor
    number = f"layers {first} to {first + _WINDOW - 1} of {len(layers)}" if len(layers) else "the step"
    axes.set_xlabel(
        f"time since the step began ({unit})\n{number}; the whole step takes {total:.3g} {unit}", loc="right"
    )
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    _key(figure, axes)
    return figure
