"""Where work goes: the load of the experts, the time of the operators."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.report.style import BLUE, COLOURS, GREY, HEADER, canvas, note, panel
from moesim.report.text import count, percent, short_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from moesim.results import Results

Array = NDArray[np.float64]
MOST_OPERATORS = 14
BOUNDS = {
    "compute": "compute", "memory": "memory bandwidth", "network": "network", "overhead": "overhead (launch, host)",
}  # fmt: skip


def experts(results: Results) -> Figure:
    """Tokens per layer and expert relative to the layer's mean, and how unequal the experts are."""
    layers, load = relative_load(results)
    rows = len(layers)
    body = float(np.clip(0.07 * rows, 1.3, 4.4))
    subtitle = f"{results.name} · {count(rows, 'MoE layer')} of {load.shape[1]} experts" if rows else results.name
    figure = canvas(10.2, body + HEADER + 0.95, "Expert load", subtitle)
    if not rows:
        note(panel(figure, 0.6, 0.3, 9.0, body), "no tokens were routed: the model has no MoE layers, or no step ran")
        return figure
    main = panel(figure, 0.75, 0.5, 6.75, body)
    main.set_title("Tokens routed, relative to the layer's mean", pad=6)
    image = heat_map(main, load)
    layer_ticks(main, layers)
    main.set(xlabel="expert", ylabel="layer")
    _ratio_bar(figure, image, (7.62, 0.5, 0.13, body))
    _skew(panel(figure, 8.62, 0.5, 1.4, body), load)
    return figure


def _skew(axes: Axes, load: Array) -> None:
    """How far apart the experts are: their loads from the fullest to the emptiest, over all layers, and what share of
    the tokens the fullest tenth has."""
    ordered = -np.sort(-load, axis=1)
    rank = np.arange(1, load.shape[1] + 1)
    axes.fill_between(rank, ordered.min(axis=0), ordered.max(axis=0), color=BLUE, alpha=0.2, linewidth=0, step="mid")
    axes.plot(rank, ordered.mean(axis=0), color=BLUE, drawstyle="steps-mid")
    axes.axhline(1, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
    first = max(1, round(load.shape[1] / 10))
    share = float(ordered[:, :first].sum() / ordered.sum())
    text = f"fullest {first}:\n{percent(share, 0)} of tokens"
    axes.text(0.97, 0.95, text, transform=axes.transAxes, ha="right", va="top", fontsize=8, color=GREY)
    axes.set_title("By rank", pad=6)
    axes.set(xlabel="fullest to emptiest", ylabel="× mean", xlim=(1, load.shape[1]), ylim=(0, None))


def relative_load(results: Results) -> tuple[NDArray[np.int64], Array]:
    """Layer numbers with any load, and their [layer, expert] tokens over the layer's mean."""
    table = results.experts
    layers = np.unique(table["layer"].to_numpy())
    if not len(layers):
        return layers, np.zeros((0, 0))
    tokens = table["tokens"].to_numpy(dtype=float).reshape(len(layers), -1)
    used = tokens.sum(axis=1) > 0
    return layers[used], tokens[used] / tokens[used].mean(axis=1, keepdims=True)


def heat_map(axes: Axes, load: Array) -> AxesImage:
    """Twice the mean is as far from white as half of it: the logarithm decides the colour."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    limit = float(2.0 ** np.clip(np.ceil(np.log2(max(1.01, np.percentile(load, 99)))), 1, 3))
    colours = colormaps["PuOr_r"]
    colours = colours.with_extremes(bad=colours(0.0))  # an expert without tokens
    norm: Any = LogNorm(1 / limit, limit, clip=True)
    image = axes.imshow(np.where(load > 0, load, np.nan), aspect="auto", cmap=colours, norm=norm)
    axes.grid(False)
    return image


def _ratio_bar(figure: Figure, image: AxesImage, place: tuple[float, float, float, float]) -> None:
    axes = panel(figure, *place)
    ratio_ticks(figure.colorbar(image, cax=axes), image)


def ratio_ticks(bar: Colorbar, image: AxesImage) -> None:
    """Powers of two on the bar of a `heat_map`."""
    from matplotlib.ticker import NullLocator

    most = round(math.log2(image.get_clim()[1] or 2.0))
    powers = range(-most, most + 1)
    names = [f"{2**p}×" if p >= 0 else f"1/{2**-p}×" for p in powers]
    names[-1] += " +"  # the ends of the scale hold what lies beyond
    bar.set_ticks([2.0**p for p in powers], labels=names)
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.outline.set_visible(False)


def layer_ticks(axes: Axes, layers: NDArray[np.int64]) -> None:
    """Every so many layers, by their number in the model."""
    every = max(1, int(np.ceil(len(layers) / 8)))
    at = np.arange(0, len(layers), every)
    axes.set_yticks(at, [str(layers[i]) for i in at])


def operators(results: Results) -> Figure:
    """The critical path of all steps by operator, coloured by what bounds it."""
    names, seconds = _operator_seconds(results)
    total = float(sum(column.sum() for column in seconds.values()))
    body = 0.29 * max(3, len(names))
    height = body + HEADER + 1.5
    subtitle = f"{results.name} · {short_time(total)} on the critical path of {count(results.summary['steps'], 'step')}"
    figure = canvas(10.2, height, "Step time by operator", subtitle)
    if total <= 0:
        note(panel(figure, 0.6, 0.3, 9.0, body), "no step was executed")
        return figure
    margin = 0.35 + 0.075 * max(map(len, names))
    summary = panel(figure, margin, height - HEADER - 0.62, 9.95 - margin, 0.27)
    _sum_bar(summary, {name: float(column.sum()) / total for name, column in seconds.items()})
    axes = panel(figure, margin, 0.5, 9.95 - margin, body)
    at, position = np.zeros(len(names)), np.arange(len(names))
    for name, column in seconds.items():
        axes.barh(position, column / total, left=at, height=0.72, color=COLOURS[name])
        at = at + column / total
    for y, share in enumerate(at):
        text = f"{percent(share)}  {short_time(share * total)}"
        inside = share > 0.85  # no room for it beside the bar
        colour, side = ("white", "right") if inside else (GREY, "left")
        axes.text(share, y, f" {text} ", ha=side, va="center", fontsize=8, color=colour)
    axes.set(yticks=position, yticklabels=names, ylim=(len(names) - 0.4, -0.6), xlim=(0, 1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.set_xlabel("share of step time")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    return figure


def _operator_seconds(results: Results) -> tuple[list[str], dict[str, Array]]:
    """The largest operators by name, the rest as one row, and the seconds of each by what bounds it."""
    table = results.operators.sort_values("seconds", ascending=False, kind="stable")
    names = [str(name) for name in table["name"]]
    seconds = {bound: table[f"{bound}_seconds"].to_numpy(dtype=float) for bound in BOUNDS}
    if len(names) > MOST_OPERATORS:
        rest = len(names) - MOST_OPERATORS + 1
        cut = MOST_OPERATORS - 1
        names = [*names[:cut], f"{rest} others"]
        seconds = {bound: np.append(column[:cut], column[cut:].sum()) for bound, column in seconds.items()}
    return names, seconds


def _sum_bar(axes: Axes, shares: dict[str, float]) -> None:
    """All operators together, as one bar that is also the legend."""
    left = 0.0
    for name, share in shares.items():
        axes.barh(0, share, left=left, height=1.0, color=COLOURS[name], label=BOUNDS[name])
        if share > 0.045:
            axes.text(left + share / 2, 0, percent(share, 0), ha="center", va="center", color="white", fontsize=8)
        left += share
    axes.set(xlim=(0, 1), ylim=(-0.5, 0.5), yticks=[0], yticklabels=["all, bound by"])
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, columnspacing=1.4, handleheight=0.8)
