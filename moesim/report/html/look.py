"""How the report's figures and tables look, by day and by night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.report import style

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource, DataTable
    from bokeh.plotting import figure as Figure  # noqa: N812

INK, SOFT, LINE = "#1d2129", "#58606c", "#d9dde3"

#: Colours by day, and by night, where they must stand apart from a dark page (3 : 1 and more, text 4.5 : 1).
NIGHT = {
    INK: "#e7eaee", SOFT: "#a6aeba", LINE: "#363c46",
    style.BLUE: "#4aa3dc", style.VERMILION: "#f0803c", style.GREEN: "#2cbf94", style.ORANGE: "#f2b632",
    style.PURPLE: "#dd93bb", style.SLATE: "#8f9fc0", "#332288": "#8c85e0", "#882255": "#d2609a", "#9A9A9A": "#a9a9a8",
}  # fmt: skip
SERIES = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.PURPLE, style.SLATE)
DASHES = ("solid", "dashed", "dotted")

#: Of tables, which live behind a wall of their own that only variables pass.
TABLE_CSS = """
.slick-header, .slick-header-columns, .slick-headerrow { background: var(--raised) !important; }
.slick-header-column.ui-state-default {
  background: var(--raised) !important; color: var(--ink) !important; border-color: var(--line) !important;
  font: 600 12.5px system-ui, sans-serif; height: 30px; line-height: 22px;
}
.slick-viewport, .grid-canvas { background: var(--surface) !important; }
.slick-row, .slick-row.odd { background: var(--surface) !important; }
.slick-row:hover { background: var(--raised) !important; }
.slick-cell {
  color: var(--ink); border-color: transparent transparent var(--line) transparent !important; line-height: 24px;
  font: 12.5px/24px system-ui, sans-serif; background: transparent !important;
}
.slick-row .slick-cell.selected { background: var(--selected) !important; color: var(--ink) !important; }
"""
WIDGET_CSS = """
:host, label, .bk-input-group > label { color: var(--soft); font: 12.5px system-ui, sans-serif; }
select.bk-input {
  background: var(--surface) none; color: var(--ink); border-color: var(--line); font: 14px system-ui, sans-serif;
  appearance: auto;
}
"""


def dash(index: int) -> str:
    return DASHES[min(index // len(SERIES), 2)]


def colour(index: int) -> str:
    return SERIES[index % len(SERIES)]


def plot(*, height: int = 270, tooltips: Sequence[tuple[str, str]] | None = None, **options: Any) -> Figure:
    """An empty figure that takes the width of its card, with hover and zoom."""
    from bokeh.models import HoverTool
    from bokeh.plotting import figure

    drawn = figure(
        height=height, sizing_mode="stretch_width", tools="pan,box_zoom,wheel_zoom,reset,save",
        toolbar_location="above",
        active_drag="box_zoom", output_backend="canvas", min_border_right=12, **options,
    )  # fmt: skip
    if tooltips is not None:
        drawn.add_tools(HoverTool(tooltips=list(tooltips)))
    drawn.toolbar.logo = None
    drawn.toolbar.autohide = True
    drawn.background_fill_alpha = drawn.border_fill_alpha = 0.0
    drawn.outline_line_color = None
    for grid in drawn.grid:
        grid.grid_line_color = LINE
    for axis in drawn.axis:
        axis.axis_line_color = axis.major_tick_line_color = SOFT
        axis.minor_tick_line_color = None
        axis.major_label_text_color = axis.axis_label_text_color = SOFT
        axis.major_label_text_font_size = "12px"
        axis.axis_label_text_font_size = "12.5px"
        axis.axis_label_text_font_style = "normal"
    return drawn


def legend(drawn: Figure, *, place: str = "above") -> None:
    """A key of one line above the figure; a click hides a series."""
    for each in drawn.legend:
        each.orientation = "horizontal"
        each.tags = [max((len(str(item.label.value)) for item in each.items), default=1)]  # report.js fits the columns
        each.location = "left"
        each.label_text_color = SOFT
        each.label_text_font_size = "12px"
        each.background_fill_alpha = each.border_line_alpha = 0.0
        each.click_policy = "hide"
        each.spacing, each.padding, each.margin = 8, 0, 2
        each.glyph_width, each.label_height, each.glyph_height = 16, 16, 14
        drawn.add_layout(each, place)


def source(columns: Mapping[str, Any]) -> ColumnDataSource:
    """Columns of numbers in single precision, which screens do not exceed; texts as they are."""
    from bokeh.models import ColumnDataSource

    data = {}
    for name, column in columns.items():
        values = np.asarray(column)
        data[name] = values.astype(np.float32) if values.dtype.kind == "f" else values
    return ColumnDataSource(data)


def table(
    data: ColumnDataSource, columns: Sequence[tuple[str, str, str, int]], *, height: int, **options: Any
) -> DataTable:  # fmt: skip
    """A sortable table of (field, title, format of its numbers or "", width in pixels)."""
    from bokeh.models import DataTable, InlineStyleSheet, NumberFormatter, StringFormatter, TableColumn

    found = [
        TableColumn(
            field=field, title=title, width=width,
            formatter=NumberFormatter(format=form, text_align="right", nan_format="–") if form else StringFormatter(),
        )
        for field, title, form, width in columns
    ]  # fmt: skip
    return DataTable(
        source=data, columns=found, height=height, sizing_mode="stretch_width", row_height=27, index_position=None,
        reorderable=False,
        autosize_mode=options.pop("autosize_mode", "none"), stylesheets=[InlineStyleSheet(css=TABLE_CSS)], **options,
    )  # fmt: skip
