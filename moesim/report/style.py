"""The look of the figures: one palette, one type, one way to save."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that remain apart under the common colour vision deficiencies (Okabe and Ito, Color Universal Design, 2008).
BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
INK, GREY, PALE, FRAME, SLATE = "#222222", "#6E6E6E", "#E9E9E9", "#B8B8B8", "#4A5A78"

#: One meaning, one colour, in every figure.
COLOURS = {
    "compute": VERMILION, "memory": BLUE, "network": GREEN, "overhead": "#9A9A9A", "idle": PALE,
    "computing": SLATE,
    "prefill": ORANGE, "decode": SKY, "mixed": PURPLE, "running": BLUE, "waiting": VERMILION,
}  # fmt: skip

_RC: Any = {
    "font.family": ["Moesim Sans", "DejaVu Sans"], "font.size": 8.5, "text.color": INK, "axes.labelcolor": INK,
    "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.edgecolor": FRAME,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "axes.linewidth": 0.8, "grid.color": PALE, "grid.linewidth": 0.8, "xtick.color": GREY, "ytick.color": GREY,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "xtick.major.width": 0.8, "ytick.major.width": 0.8,
    "legend.frameon": False, "legend.fontsize": 8, "legend.handlelength": 1.2, "legend.borderaxespad": 0.2,
    "lines.linewidth": 1.8, "lines.solid_capstyle": "round", "figure.facecolor": "white", "savefig.facecolor": "white",
    "pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "moesim",
    "image.interpolation": "nearest", "path.simplify": True, "axes.unicode_minus": True,
}  # fmt: skip

#: DejaVu Sans without the scripts and layout tables that figures do not need: embedding its glyphs in a PDF takes a
#: tenth of the time. What it lacks (a run's name in another script) comes from the whole font.
_FONTS = Path(__file__).parent / "fonts"

#: Dots per inch of the PNGs, and inches above the panels for title and subtitle.
DPI, HEADER = 150, 0.62

#: Widths in inches of one column and of a page of two (IEEE and ACM: 3.33 to 3.5 and 7.0 to 7.16).
COLUMN: dict[str, float] = {"single": 3.35, "double": 7.0}
#: Of figures that stand in a column: as the text around them, and no larger.
_PRINTED: Any = {
    "font.size": 7.0, "axes.titlesize": 7.5, "axes.labelsize": 7.0, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5, "lines.linewidth": 1.3, "lines.markersize": 3.6, "axes.linewidth": 0.6,
    "grid.linewidth": 0.5, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "axes.titlepad": 4.0, "axes.labelpad": 2.5, "hatch.linewidth": 0.5,
}  # fmt: skip
#: Series of one figure, in their order, and the marks by which they differ without colour too.
SERIES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@contextmanager
def styled() -> Iterator[None]:
    """The style, for as long as figures are drawn and saved; whatever the user has set returns afterwards."""
    import matplotlib as mpl
    from matplotlib import font_manager

    known = {Path(entry.fname) for entry in font_manager.fontManager.ttflist}
    for path in sorted(_FONTS.glob("*.ttf")):
        if path not in known:
            font_manager.fontManager.addfont(path)
    with mpl.rc_context():
        mpl.rcdefaults()  # nothing of a user's own configuration enters the files
        mpl.rcParams.update(_RC)
        yield


@contextmanager
def printed() -> Iterator[None]:
    """The style of figures in a column of a paper."""
    import matplotlib as mpl

    with styled():
        mpl.rcParams.update(_PRINTED)
        yield


def blank(width: float, height: float, **layout: Any) -> Figure:
    """An empty figure (inches) without header, whose panels are laid out by matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=2 * DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, **layout)  # type: ignore[union-attr,call-arg]
    return figure


def canvas(width: float, height: float, title: str, subtitle: str) -> Figure:
    """An empty figure (inches) with its header."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    figure.text(0.18 / width, 1 - 0.16 / height, title, fontsize=12, fontweight="bold", va="top")
    figure.text(0.18 / width, 1 - 0.41 / height, subtitle, fontsize=8.5, color=GREY, va="top")
    return figure


def panel(figure: Figure, left: float, bottom: float, width: float, height: float, **options: Any) -> Axes:
    """Axes at a place given in inches from the lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up), **options)


def save(figure: Figure, stem: Path, formats: Sequence[str] = ("pdf", "png")) -> list[Path]:
    """Write `stem`.pdf, `stem`.png and so on: fonts embedded, no dates or versions, equal figures give equal bytes."""
    plain: dict[str, dict[str, Any]] = {
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
    }
    paths = [stem.with_suffix(f".{extension}") for extension in formats]
    for path, extension in zip(paths, formats, strict=True):
        figure.savefig(path, metadata=plain.get(extension))
    return paths


def time_unit(seconds: float) -> tuple[float, str]:
    """The unit in which a time of this size reads well, and how many of it make a second."""
    if not np.isfinite(seconds) or seconds >= 2 or seconds <= 0:
        return 1.0, "s"
    return (1e3, "ms") if seconds >= 2e-3 else (1e6, "µs")


def whole_numbers(axes: Axes) -> None:
    """Ticks of a count, up the left side: whole, with thousands separators."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def note(axes: Axes, text: str) -> None:
    """What an empty panel says instead."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=10)


def key(axes: Axes, columns: int = 4, **options: Any) -> None:
    """A legend in one line above the panel, at its right end."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns, columnspacing=1.2, **options)
