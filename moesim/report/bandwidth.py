"""Time and bus bandwidth of a collective against its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.report.style import BLUE, GREEN, GREY, HEADER, INK, ORANGE, PURPLE, VERMILION, canvas, key, panel, styled
from moesim.report.text import short_quantity, short_time
from moesim.spec.errors import MoesimError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, VERMILION)
FORMATS = (".pdf", ".png", ".svg")


@dataclass(frozen=True)
class SizeCurve:
    """One way to compute a collective's time: seconds, and bus bandwidth (bytes/s), by size (bytes, ascending)."""

    label: str
    size: Array
    seconds: Array
    bus_bandwidth: Array


def bus_bandwidth(
    title: str,
    subtitle: str,
    curves: Sequence[SizeCurve],
    *,
    bound: SizeCurve | None = None,
    peak: float | None = None,
) -> Figure:
    """Two panels: time on logarithmic axes, bus bandwidth on a linear one.

    Args:
        bound: the least time that any algorithm needs, dashed. peak: bytes per second of the links that every byte has
            to cross, drawn as a line.
    """
    width, height = 10.2, 3.9
    figure = canvas(width, height, title, subtitle)
    tall = height - 0.6 - HEADER - 0.3
    time = panel(figure, 0.85, 0.6, 4.0, tall)
    rate = panel(figure, 5.9, 0.6, 4.0, tall)
    time.set_title("Time", pad=6)
    rate.set_title("Bus bandwidth", pad=6)
    for curve, colour in zip(curves, _COLOURS, strict=False):
        marker: dict[str, Any] = {"marker": "o", "markersize": 3.2} if len(curve.size) < 40 else {}
        time.plot(curve.size, curve.seconds, color=colour, label=curve.label, **marker)
        rate.plot(curve.size, curve.bus_bandwidth, color=colour, label=curve.label, **marker)
    if bound is not None:
        time.plot(bound.size, bound.seconds, color=GREY, linestyle=(0, (3, 2)), linewidth=1.2, label=bound.label)
        rate.plot(bound.size, bound.bus_bandwidth, color=GREY, linestyle=(0, (3, 2)), linewidth=1.2)
    if peak is not None:
        rate.axhline(peak, color=INK, linewidth=0.8)
        rate.annotate(
            f"{short_quantity(peak, 'B/s')} of each port", (0.01, peak), (0, 3), textcoords="offset points",
            xycoords=("axes fraction", "data"), fontsize=7.5, color=INK,
        )  # fmt: skip
    _axes(time, rate)
    key(time, columns=3)
    return figure


def _axes(time: Axes, rate: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axes in (time, rate):
        axes.set_xscale("log")
        axes.set_xlabel("bytes per device")
        axes.xaxis.set_major_locator(LogLocator(base=10, numticks=8))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _plain(short_quantity(value, "B"))))
        axes.xaxis.set_minor_formatter(NullFormatter())
    time.set_yscale("log")
    time.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _plain(short_time(value))))
    time.yaxis.set_minor_formatter(NullFormatter())
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _plain(short_quantity(value, "B/s"))))


def _plain(text: str) -> str:
    """'10.0 µs' as a tick label: '10 µs'."""
    number, _, unit = text.partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}".rstrip()


def draw_bus_bandwidth(
    target: Path,
    title: str,
    subtitle: str,
    curves: Sequence[SizeCurve],
    *,
    bound: SizeCurve | None = None,
    peak: float | None = None,
) -> Path:
    """As `bus_bandwidth`, into a file whose suffix is its format.

    Raises:
        MoesimError: the suffix is no image format that can be written, or the file cannot be written.
    """
    check_format(target)
    with styled():
        figure = bus_bandwidth(title, subtitle, curves, bound=bound, peak=peak)
        try:
            figure.savefig(target)
        except OSError as error:
            raise MoesimError(f"cannot write {target}: {error.strerror}") from None
    return target


def check_format(target: Path) -> None:
    """Raises MoesimError where a figure cannot be written in the format of the file's suffix."""
    if target.suffix.lower() not in FORMATS:
        raise MoesimError(f"{target} is no PDF, PNG or SVG file", fix="name a file such as fabric.pdf")
