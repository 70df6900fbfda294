"""The machine: what its devices do, and how full its links are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.report.machine import Placed, link_widths, machine_places
from moesim.report.overtime import DOING, MOST_BARS, draw_bars, draw_strip
from moesim.report.style import COLUMN, GREY, blank

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from moesim.hardware.machine import Machine


def utilisation(table: pd.DataFrame, width: float = COLUMN["single"]) -> Figure:
    """What each device does with the run's time; `table`: device, and shares computing, communicating, idle."""
    devices = [str(name) for name in table["device"]]
    shares = {name: table[name].to_numpy(dtype=float) for name in DOING}
    bars = len(devices) <= MOST_BARS
    figure = blank(width, 0.6 + (0.19 * max(2, len(devices)) if bars else 0.9))
    axes = figure.add_subplot()
    if bars:
        draw_bars(axes, devices, shares)
    else:
        bar = figure.colorbar(draw_strip(axes, shares), ax=axes, pad=0.02, ticks=[0, 50, 100])
        bar.ax.set_yticklabels(["0", "50 %", "100 %"])
        bar.outline.set_visible(False)
    return figure


def topology(table: pd.DataFrame, width: float = COLUMN["double"], *, machine: Machine) -> Figure:
    """The machine's graph, its links coloured by their use of the run.

    `table`: link ("a -> b"), level, bandwidth, bytes, utilisation (the larger of both directions is drawn).
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    placed = machine_places(machine)
    loads = link_loads(table, placed)
    figure = blank(width, 0.46 * width + 0.4)
    axes = figure.add_subplot()
    axes.set_axis_off()
    top = max([*(value for value in loads.values() if np.isfinite(value)), 1e-9])
    colours, norm = colormaps["cividis_r"], Normalize(0, top)
    edges = list(placed.graph.edges(data=True))
    ends = [(placed.places[a], placed.places[b]) for a, b, _ in edges]
    paint = [colours(norm(value)) if np.isfinite(value := loads[a, b]) else "#D5D5D5" for a, b, _ in edges]
    axes.add_collection(LineCollection(ends, colors=paint, linewidths=link_widths(placed), zorder=1))
    placed.draw_vertices(axes, scale=0.45, crowd=3)
    handles = [handle for handle in axes.get_legend_handles_labels()[0] if handle.get_offsets().size]  # type: ignore[attr-defined]
    figure.legend(handles, [str(handle.get_label()) for handle in handles], loc="outside upper left", ncols=6)
    axes.margins(0.08, 0.14)
    if any(np.isfinite(value) for value in loads.values()):
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, shrink=0.7, pad=0.01)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        bar.set_label("use of the link over the run", color=GREY)
        bar.outline.set_visible(False)
    return figure


def link_loads(table: pd.DataFrame, placed: Placed) -> dict[tuple[str, str], float]:
    """By edge of the drawing, the larger utilisation of its two directions; NaN where nothing was counted."""
    found: dict[frozenset[str], float] = {}
    for name, value in zip(table["link"], table["utilisation"], strict=True):
        for edge in _edges(placed, *str(name).split(" -> ")):
            found[edge] = max(found.get(edge, 0.0), float(value))
    return {(a, b): found.get(frozenset((a, b)), float("nan")) for a, b in placed.graph.edges()}


def _edges(placed: Placed, first: str, second: str) -> list[frozenset[str]]:
    """The edges that a counted link stands for: its own, or, where a port was counted, those from the device (and its
    network interface) to the switch or host that the port leads to."""
    graph = placed.graph
    if graph.has_edge(first, second):
        return [frozenset((first, second))]
    is_device = first in graph and graph.nodes[first]["kind"] == "device"
    device, port = (first, second) if is_device else (second, first)
    if device not in graph:
        return []  # of a node that is not drawn
    for begin in (device, f"{device}/nic"):
        for other in graph.adj.get(begin, ()):
            if other.rpartition("/")[2].startswith(port):
                ends = [frozenset((begin, other))]
                return ends if begin == device else [frozenset((device, begin)), *ends]
    return []
