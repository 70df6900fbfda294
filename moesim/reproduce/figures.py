"""A figure of a paper, drawn from our results: lines or bars, and what was published beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moesim.report.style import BLUE, GREEN, HEADER, INK, ORANGE, PURPLE, SKY, VERMILION, canvas, panel, save, styled
from moesim.reproduce.systems import FigureSpec, System
from moesim.validate.cases import Setting
from moesim.validate.kinds.experiments import series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, INK)
_MARKS = "osD^vPX"
_WIDTH, _HEIGHT = 6.4, 3.9


class Curve:
    """A series as it is drawn, in the units of the axis: ours, and the paper's with NaN where it shows nothing."""

    def __init__(self, label: str, ours: Sequence[float], published: Sequence[float | None] | None) -> None:
        self.label = label
        self.ours = np.asarray(ours, float)
        shown = [np.nan if value is None else value for value in published or [None] * len(ours)]
        self.published: NDArray[np.float64] = np.asarray(shown, float)


def curves(figure: FigureSpec, setting: Setting) -> list[Curve]:
    """Every series computed.

    Raises:
        MoesimError: one cannot be.
    """
    return [
        Curve(
            each.label,
            [value / each.scale for value in series(setting, each.kind, each.inputs, each.along)],
            each.published,
        )
        for each in figure.series
    ]


def draw_figures(system: System, computed: Sequence[Sequence[Curve]], folder: Path) -> list[Path]:
    """Draw the figures of a system into a folder, PDF and PNG. Returns the files."""
    paths: list[Path] = []
    with styled():
        for spec, lines in zip(system.spec.figures, computed, strict=True):
            figure = canvas(_WIDTH, _HEIGHT, spec.title, spec.subtitle or system.spec.paper)
            axes = panel(figure, 0.75, 0.62, _WIDTH - 0.95, _HEIGHT - 0.62 - HEADER - 0.3)
            _axes(axes, spec, lines)
            paths += save(figure, folder / spec.name)
    return paths


def _axes(axes: Axes, spec: FigureSpec, lines: Sequence[Curve]) -> None:
    axes.set_xlabel(spec.x)
    axes.set_ylabel(spec.y)
    values = spec.series[0].along.values
    numeric = spec.form == "lines" and not spec.ticks and all(isinstance(value, (int, float)) for value in values)
    (_bars if spec.form == "bars" else _lines)(axes, spec, lines, numeric)
    if not numeric:
        most = max(len(each.ours) for each in lines)
        names = spec.ticks or [f"{value:,}" if isinstance(value, int) else str(value) for value in values]
        axes.set_xticks(np.arange(most), names[:most])
    if "x" in spec.logarithmic:
        _powers(axes, sorted({float(value) for each in spec.series for value in each.along.values}))
    if "y" in spec.logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=axes.get_ylim()[1] * 1.05)
    if len(lines) > 1 or np.isfinite(lines[0].published).any():
        _legend(axes)


def _powers(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis whose ticks are the values."""
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:,.0f}" if value >= 1 else f"{value:g}" for value in values])
    axes.set_xticks([], minor=True)


def _lines(axes: Axes, spec: FigureSpec, lines: Sequence[Curve], numeric: bool) -> None:
    for index, each in enumerate(lines):
        values = spec.series[index].along.values
        across = np.asarray(values, float) if numeric else np.arange(len(values), dtype=float)
        colour, mark = _COLOURS[index % len(_COLOURS)], _MARKS[index % len(_MARKS)]
        axes.plot(across, each.ours, color=colour, marker=mark, markersize=4.5, label=each.label)
        if np.isfinite(each.published).any():
            axes.plot(across, each.published, linestyle="none", marker=mark, markersize=7.5, markerfacecolor="none",
                      markeredgecolor=colour, label="_published")  # fmt: skip


def _bars(axes: Axes, spec: FigureSpec, lines: Sequence[Curve], numeric: bool) -> None:
    width = 0.8 / len(lines)
    axes.grid(visible=False, axis="x")
    for index, each in enumerate(lines):
        across = np.arange(len(each.ours)) + (index - (len(lines) - 1) / 2) * width
        axes.bar(across, each.ours, width * 0.92, color=_COLOURS[index % len(_COLOURS)], label=each.label)
        if np.isfinite(each.published).any():
            axes.plot(across, each.published, linestyle="none", marker="_", markersize=260 * width / len(each.ours),
                      markeredgewidth=2, color=INK, label="_published")  # fmt: skip


def _legend(axes: Axes) -> None:
    """Our series, and one entry for all that is published."""
    from matplotlib.lines import Line2D

    handles, labels = axes.get_legend_handles_labels()
    published = [line for line in axes.get_lines() if line.get_label() == "_published"]
    if published:
        bar = published[0].get_marker() == "_"
        handles.append(Line2D([], [], linestyle="none", marker="_" if bar else "o", color=INK, markerfacecolor="none"))
        labels.append("published")
    columns = 4 if sum(map(len, labels)) < 70 else 2
    axes.legend(handles, labels, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns, columnspacing=1.2)
