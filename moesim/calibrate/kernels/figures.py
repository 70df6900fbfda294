"""Figures of calibrated kernels: measured against predicted, residuals by size, and each class under its roofline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.fitting import errors
from moesim.calibrate.kernels.fits import predict, regimes
from moesim.calibrate.kernels.groups import KernelGroup
from moesim.calibrate.kernels.library import all_groups
from moesim.calibrate.kernels.scores import CLASSES, shipped
from moesim.kernels.forms import Times
from moesim.report.style import (
    BLUE,
    GREEN,
    GREY,
    HEADER,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    canvas,
    panel,
    save,
    styled,
)  # fmt: skip
from moesim.spec.errors import MoesimError
from moesim.spec.kernels import KernelFit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

#: Most points that a panel draws; the statistics are over all.
MOST_POINTS = 4000

_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
_REGIMES = {"compute": VERMILION, "memory": BLUE, "latency": "#9A9A9A"}
WIDTH, HEIGHT = 7.4, 4.4


@dataclass(frozen=True)
class Scored:
    """A group's scored half: measured seconds, and what its terms say."""

    group: KernelGroup
    measured: FloatArray
    times: Times

    @property
    def label(self) -> str:
        group = self.group
        return " ".join(filter(None, (group.stack, group.format, group.implementation)))


def draw_report(data: Path, out: Path, device: str | None = None) -> list[Path]:
    """Three figures (PDF and PNG) per device and class into a folder: OUT/DEVICE-CLASS-{predicted,residuals,roofline}.

    Args:
        data: folder of tidy tables. device: of this one alone.

    Raises:
        MoesimError: there are no calibrated measurements, or the folder cannot be written.
    """
    parts = list(_parts(data, device))
    if not parts:
        fix = "`moesim calibrate fit` writes them; name its --out in MOESIM_PATH if that is not the library"
        raise MoesimError(f"no kernels measured in {data} have coefficients", fix=fix)
    written: list[Path] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        with styled():
            for name, title, scored in parts:
                stem = f"{name}-{title.replace(',', '').replace(' ', '-')}"
                for kind, figure in (("predicted", predicted), ("residuals", residuals), ("roofline", roofline)):
                    written += save(figure(name, title, scored), out / f"{stem}-{kind}")
    except OSError as error:
        raise MoesimError(f"cannot write to {out}: {error.strerror}") from None
    return written


def _parts(data: Path, device: str | None) -> Iterator[tuple[str, str, list[Scored]]]:
    """The scored halves by device and class."""
    groups = [group for group in all_groups(data) if device in (None, group.device)]
    for name in dict.fromkeys(group.device for group in groups):
        for title, belongs in CLASSES.items():
            chosen = [group for group in groups if group.device == name and belongs(group)]
            found = [(group, shipped(group)) for group in chosen]
            scored = [_scored(group, fit) for group, fit in found if fit is not None]
            if scored:
                yield name, title, scored


def _scored(group: KernelGroup, fit: KernelFit) -> Scored:
    rows = np.flatnonzero(~group.fitted)
    return Scored(group, group.seconds[rows], predict(group, fit.terms, rows))


def predicted(device: str, title: str, scored: Sequence[Scored]) -> Figure:
    """Predicted against measured time, a colour per group."""
    figure, axes = _frame(f"{title} on {device}: predicted against measured", _summary(scored))
    low = min(float(each.measured.min()) for each in scored)
    high = max(float(each.measured.max()) for each in scored)
    ends = np.array([low / 1.5, high * 1.5])
    axes.fill_between(ends, ends / 1.2, ends * 1.2, color="#EDEDED", linewidth=0, zorder=0.5)
    axes.plot(ends, ends, color=GREY, linewidth=0.9)
    for each, colour in _coloured(scored):
        rows = _thinned(each.measured)
        axes.scatter(each.measured[rows], each.times.seconds[rows], s=5, color=colour, alpha=0.5, linewidth=0)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="measured", ylabel="predicted")
    _time_axis(axes.xaxis)
    _time_axis(axes.yaxis)
    _groups_key(figure, scored)
    return figure


def residuals(device: str, title: str, scored: Sequence[Scored]) -> Figure:
    """Measured over predicted time against the predicted one: all points, and the middle 80 % of each stretch."""
    figure, axes = _frame(f"{title} on {device}: residuals by size", _summary(scored))
    time = np.concatenate([each.times.seconds for each in scored])
    ratio = np.concatenate([each.measured / each.times.seconds for each in scored])
    for each, colour in _coloured(scored):
        rows = _thinned(each.measured)
        shown = np.clip(each.measured[rows] / each.times.seconds[rows], 0.32, 3.1)
        axes.scatter(each.times.seconds[rows], shown, s=5, color=colour, alpha=0.4, linewidth=0)
    edges = np.unique(np.quantile(time, np.linspace(0, 1, 11)))
    if len(edges) > 2:
        place = np.clip(np.searchsorted(edges, time, side="right") - 1, 0, len(edges) - 2)
        bands = np.array([np.percentile(ratio[place == i], (10, 50, 90)) for i in range(len(edges) - 1)])
        middle = np.sqrt(edges[:-1] * edges[1:])
        axes.fill_between(middle, bands[:, 0], bands[:, 2], color=INK, alpha=0.12, linewidth=0)
        axes.plot(middle, bands[:, 1], color=INK, linewidth=1.4)
    axes.axhline(1.0, color=GREY, linewidth=0.9)
    axes.set(xscale="log", yscale="log", ylim=(0.3, 3.3), xlabel="predicted time", ylabel="measured / predicted")
    axes.set_yticks([0.33, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0], ["0.33", "0.5", "0.7", "1", "1.4", "2", "3"])
    axes.minorticks_off()
    _time_axis(axes.xaxis)
    _groups_key(figure, scored)
    return figure


def roofline(device: str, title: str, scored: Sequence[Scored]) -> Figure:
    """The roofline, normalised: achieved share of the peak of arithmetic against intensity over the ridge's.

    Kernels that only stream have no arithmetic: their achieved share of bandwidth against the predicted time.
    """
    compute, memory, seconds, measured = (
        np.concatenate(columns)
        for columns in zip(
            *((e.times.compute, e.times.memory, e.times.seconds, e.measured) for e in scored), strict=True
        )
    )
    regime = np.concatenate([regimes(each.times) for each in scored])
    streams = bool((compute < memory * 1e-4).all())
    figure, axes = _frame(f"{title} on {device}: under the roofline", _summary(scored))
    place = seconds if streams else compute / np.maximum(memory, compute * 1e-4)
    share = (memory if streams else compute) / measured
    rows = _thinned(share)
    for name, colour in _REGIMES.items():
        part = rows[regime[rows] == name]
        label = "overhead" if name == "latency" else name
        axes.scatter(place[part], share[part], s=6, color=colour, alpha=0.45, linewidth=0, label=label)
    ends = np.geomspace(place.min() / 1.5, place.max() * 1.5, 200)
    axes.plot(ends, np.ones_like(ends) if streams else np.minimum(ends, 1.0), color=INK, linewidth=1.2)
    axes.set(xscale="log", yscale="log", xlim=(ends[0], ends[-1]))
    axes.set_ylim(max(float(np.percentile(share, 2)) / 2, 1e-6), 2.0)
    if streams:
        axes.set(xlabel="predicted time", ylabel="achieved / peak bandwidth")
        _time_axis(axes.xaxis)
    else:
        axes.set(xlabel="arithmetic intensity / that of the ridge", ylabel="achieved / peak of arithmetic")
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.03, 1.0), alignment="left", title="most time goes to", markerscale=2.5,
        handletextpad=0.2,
    )  # fmt: skip
    return figure


def _frame(title: str, subtitle: str) -> tuple[Figure, Axes]:
    figure = canvas(WIDTH, HEIGHT, title, subtitle)
    return figure, panel(figure, 0.8, 0.62, 4.1, HEIGHT - 0.62 - HEADER - 0.15)


def _summary(scored: Sequence[Scored]) -> str:
    rows = sum(len(each.measured) for each in scored)
    return f"{rows:,} measurements of shapes that the terms were not fitted to"


def _coloured(scored: Sequence[Scored]) -> list[tuple[Scored, str]]:
    """The largest groups have a colour each, the others grey; the largest are drawn last."""
    order = sorted(scored, key=lambda each: -len(each.measured))
    named = [(each, _COLOURS[i] if i < len(_COLOURS) else "#B0B0B0") for i, each in enumerate(order)]
    return named[::-1]


def _groups_key(figure: Figure, scored: Sequence[Scored]) -> None:
    """Beside the panel: each group with its error."""
    y = 1 - (HEADER + 0.12) / HEIGHT
    for each, colour in _coloured(scored)[::-1][: len(_COLOURS)]:
        median, p90 = errors(each.times.seconds, each.measured)
        x = 5.2 / WIDTH
        figure.text(x, y, "●", color=colour, fontsize=8, va="top")
        figure.text(x + 0.14 / WIDTH, y, _folded(each.label), fontsize=7.5, va="top", linespacing=1.25)
        lines = _folded(each.label).count("\n") + 1
        y -= (0.145 * lines + 0.01) / HEIGHT
        figure.text(x + 0.14 / WIDTH, y, f"median {median:.1f} %, P90 {p90:.0f} %", fontsize=7.5, va="top", color=GREY)
        y -= 0.22 / HEIGHT
    if len(scored) > len(_COLOURS):
        figure.text(
            5.2 / WIDTH,
            y,
            f"and {len(scored) - len(_COLOURS)} smaller groups (grey)",
            fontsize=7.5,
            va="top",
            color=GREY,
        )


def _folded(label: str, width: int = 32) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(label, width, break_on_hyphens=False)[:2])


def _thinned(column: FloatArray) -> NDArray[np.int64]:
    """Evenly spread rows, at most as many as a panel draws."""
    return np.unique(np.linspace(0, len(column) - 1, min(len(column), MOST_POINTS)).astype(np.int64))


def _time_axis(axis: object) -> None:
    """Decades as 1 µs, 10 µs, 1 ms."""
    from matplotlib.ticker import FuncFormatter

    def label(value: float, _: int) -> str:
        for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if value >= scale * 0.999:
                return f"{value / scale:g} {unit}"
        return f"{value * 1e9:g} ns"

    axis.set_major_formatter(FuncFormatter(label))  # type: ignore[attr-defined]
