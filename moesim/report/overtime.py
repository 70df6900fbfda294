"""Figures over the time of the run: throughput and batch, utilisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moesim.report.series import rate, time_edges
from moesim.report.style import COLOURS, GREEN, GREY, HEADER, canvas, key, note, panel, whole_numbers
from moesim.report.text import count as counted
from moesim.report.text import percent
from moesim.results.tables import replica_count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from moesim.results import Results

Array = NDArray[np.float64]
#: More devices than this are drawn as a strip of cells instead of bars.
MOST_BARS = 16


def _replicas(results: Results) -> str:
    devices, replicas = counted(len(results.devices), "device"), _replica_count(results.devices)
    return f"{devices}, {replicas} replicas" if replicas > 1 else devices


def _replica_count(devices: pd.DataFrame) -> int:
    return replica_count({"replica": devices["replica"].to_numpy()})


def throughput(results: Results) -> Figure:
    """Four panels over time: tokens per second, requests in the batch and in the queue, use of the KV cache."""
    steps, duration = results.iterations, float(results.summary["duration"])
    subtitle = f"{results.name} · {counted(len(steps), 'step')} · {_replicas(results)}"
    heights, bottoms = (1.6, 0.9, 0.9, 0.7), (4.12, 2.83, 1.54, 0.5)
    figure = canvas(10.2, bottoms[0] + heights[0] + HEADER + 0.35, "Throughput and batch", subtitle)
    panels = [panel(figure, 0.85, y, 9.1, h) for y, h in zip(bottoms, heights, strict=True)]
    if not len(steps):
        for axes in panels:
            note(axes, "no step was executed")
        return figure
    edges = time_edges(duration, len(steps))
    _tokens(panels[0], steps, edges)
    _mean(panels[1], steps, edges, "sequences", "running", "Requests in the batch")
    _mean(panels[2], steps, edges, "waiting", "waiting", "Requests in the queue")
    _cache(panels[3], steps, edges)
    for axes in panels:
        axes.set(xlim=(edges[0], edges[-1]))
        axes.set_ylim(bottom=0)
    for axes in panels[:-1]:
        axes.set_xticklabels([])
    panels[-1].set_xlabel("time (s)")
    return figure


def _columns(steps: pd.DataFrame, *names: str) -> list[Array]:
    return [steps[name].to_numpy(dtype=float) for name in names]


def _tokens(axes: Axes, steps: pd.DataFrame, edges: Array) -> None:
    start, end, prefill, decode = _columns(steps, "start", "end", "prefill_tokens", "decode_tokens")
    below = rate(start, end, decode, edges).clip(min=0)
    above = below + rate(start, end, prefill, edges).clip(min=0)
    axes.stairs(above, edges, baseline=below, fill=True, color=COLOURS["prefill"], alpha=0.85, label="prefill")
    axes.stairs(below, edges, fill=True, color=COLOURS["decode"], label="decode")
    axes.set_title("Tokens processed per second", pad=5)
    whole_numbers(axes)
    key(axes)


def _mean(axes: Axes, steps: pd.DataFrame, edges: Array, column: str, colour: str, title: str) -> None:
    """Time-average of a count, summed over the replicas; zero while no step runs."""
    start, end, value = _columns(steps, "start", "end", column)
    mean = rate(start, end, value * (end - start), edges).clip(min=0)
    axes.stairs(mean, edges, fill=True, color=COLOURS[colour], alpha=0.85)
    axes.set_title(title, pad=5)
    axes.set_ylim(top=max(1.0, 1.08 * float(mean.max())))
    whole_numbers(axes)


def _cache(axes: Axes, steps: pd.DataFrame, edges: Array) -> None:
    replicas = max(1, steps["replica"].nunique())
    start, end, used = _columns(steps, "start", "end", "kv_used")
    covered = rate(start, end, end - start, edges)
    # The cache keeps its blocks between steps: average over the time in steps only, where there is any.
    use = rate(start, end, used * (end - start), edges)
    mean = np.divide(use, covered, out=np.zeros_like(use), where=covered > 1e-9 / replicas)
    axes.stairs(100 * mean.clip(0, 1), edges, fill=True, color=GREEN, alpha=0.8)
    axes.set_title("KV cache in use", pad=5)
    axes.set(ylim=(0, 100), yticks=[0, 50, 100])
    axes.set_yticklabels(["0", "50 %", "100 %"])


def utilisation(results: Results) -> Figure:
    """What each device does with the run's time, and what kind of step runs when."""
    devices, steps = results.devices, results.iterations
    bars = 0 < len(devices) <= MOST_BARS
    body = max(1.7, 0.3 * len(devices)) if bars else 1.9
    height = body + HEADER + 1.05
    figure = canvas(10.2, height, "Utilisation", f"{results.name} · {_replicas(results)}")
    labels = device_labels([str(name) for name in devices["name"]])
    margin = 0.3 + 0.075 * max(map(len, labels), default=0) if bars else 1.05
    left = panel(figure, margin, 0.5, (5.0 if bars else 4.3) - margin, body)
    left.set_title("Time of the devices", pad=17)
    shares = device_shares(devices)
    if not len(devices):
        note(left, "no devices")
    elif bars:
        draw_bars(left, labels, shares)
    else:
        _strip_bar(figure, left, draw_strip(left, shares))
    right = panel(figure, 5.75, 0.5, 4.2, body)
    right.set_title("Steps over time", pad=17)
    _kinds(right, steps, float(results.summary["duration"]), _replica_count(devices))
    return figure


def device_labels(names: list[str]) -> list[str]:
    """Without the node where there is only one."""
    nodes = {name.rpartition("/")[0] for name in names}
    return [name.rpartition("/")[2] for name in names] if len(nodes) == 1 else names


#: What a device does, and the colour of that; "compute" in other figures is a bound, not what is done.
DOING = {"computing": "computing", "communicating": "network", "idle": "idle"}
_ROWS = ("computing", "communi-\ncating", "idle or\nwaiting")


def device_shares(devices: pd.DataFrame) -> dict[str, Array]:
    """Shares of the run per device. Where computing and communicating overlap they are scaled to fill it."""
    compute, network = _columns(devices, "compute_utilisation", "network_utilisation")
    whole = np.maximum(1.0, compute + network)
    return {"computing": compute / whole, "communicating": network / whole, "idle": 1 - (compute + network) / whole}


def draw_bars(axes: Axes, labels: list[str], shares: dict[str, Array]) -> None:
    at, position = np.zeros(len(labels)), np.arange(len(labels))
    room = 0.36 * axes.figure.dpi / axes.bbox.width  # what a number needs
    for name, share in shares.items():
        words = "idle or waiting" if name == "idle" else name
        axes.barh(position, share, left=at, height=0.72, color=COLOURS[DOING[name]], label=words)
        ink = GREY if name == "idle" else "white"
        for y, part in enumerate(share.tolist()):
            if part > room:
                axes.text(at[y] + part / 2, y, percent(part, 0), ha="center", va="center", color=ink, fontsize="small")
        at = at + share
    axes.set(yticks=position, yticklabels=labels, xlim=(0, 1), ylim=(len(labels) - 0.4, -0.6))
    axes.grid(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    key(axes, handleheight=0.8)


def draw_strip(axes: Axes, shares: dict[str, Array]) -> AxesImage:
    """One cell per device, three rows."""
    image = axes.imshow(
        100 * np.array(list(shares.values())), aspect="auto", cmap="cividis", vmin=0, vmax=100,
        extent=(-0.5, len(shares["idle"]) - 0.5, 2.5, -0.5),
    )  # fmt: skip
    axes.set(yticks=[0, 1, 2], yticklabels=_ROWS, xlabel="device")
    axes.grid(False)
    return image


def _strip_bar(figure: Figure, axes: Axes, image: AxesImage) -> None:
    box, width = axes.get_position(), figure.get_size_inches()[0]
    place = (box.x1 + 0.08 / width, box.y0, 0.1 / width, box.height)
    bar = figure.colorbar(image, cax=figure.add_axes(place), ticks=[0, 50, 100])
    bar.ax.set_yticklabels(["0", "50 %", "100 %"])
    bar.outline.set_visible(False)


def _kinds(axes: Axes, steps: pd.DataFrame, duration: float, replicas: int) -> None:
    """Shares of time in prefill, mixed and decode steps, averaged over the replicas."""
    if not len(steps):
        note(axes, "no step was executed")
        return
    start, end, prefill, decode = _columns(steps, "start", "end", "prefill_tokens", "decode_tokens")
    kinds = {"prefill": (prefill > 0) & (decode == 0), "mixed": (prefill > 0) & (decode > 0), "decode": prefill == 0}
    edges = time_edges(duration, len(steps), most=120)
    base = np.zeros(len(edges) - 1)
    for name, chosen in kinds.items():
        share = rate(start, end, np.where(chosen, end - start, 0.0), edges).clip(min=0) / replicas
        axes.stairs(base + share, edges, baseline=base, fill=True, color=COLOURS[name], label=name)
        base = base + share
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, max(1.0, float(base.max()))), xlabel="time (s)")
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    key(axes, handleheight=0.8)
