"""The Pareto explorer of a sweep: points in two metrics of one's choice, and the same points as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.report.html.look import WIDGET_CSS, legend, plot, source, table
from moesim.report.html.runs import Card
from moesim.report.names import label, more_is_better, unit
from moesim.report.plots.tables import PARETO_METRICS
from moesim.report.plots.trade import on_front
from moesim.report.sources import Sweep
from moesim.report.style import BLUE, VERMILION
from moesim.report.text import count

if TYPE_CHECKING:
    import pandas as pd

#: Metrics to choose from, where the sweep has them and they are not all equal.
METRICS = (
    "throughput.output_tokens", "throughput.requests", "goodput.requests", "goodput.share", "ttft.mean", "ttft.p50",
    "ttft.p90", "ttft.p99", "tpot.mean", "tpot.p50", "tpot.p90", "tpot.p99", "e2e.mean", "e2e.p50", "e2e.p90",
    "e2e.p99", "cost.per_million_output_tokens", "cost.total", "energy.per_output_token", "energy.average_power",
    "utilisation.s_mfu", "utilisation.s_mbu", "utilisation.busy", "memory.share", "network.exposed_share",
    "machine.devices", "machine.power", "machine.area", "machine.price",
)  # fmt: skip
#: Columns of the table beside the axes.
_SHOWN = (
    "throughput.output_tokens", "ttft.p90", "tpot.mean", "cost.per_million_output_tokens", "energy.per_output_token",
)  # fmt: skip
_SCALE = {"s": (1e3, "ms"), "share": (100.0, "%")}


def metrics_of(sweep: Sweep) -> list[str]:
    """Those of METRICS that tell points apart."""
    return [name for name in METRICS if name in sweep.metrics and sweep.ran[name].nunique() > 1]


def explorer(sweep: Sweep) -> Card | None:
    """Scatter and table over one source: what is selected in one is selected in the other. None where no two metrics
    tell the points apart."""
    metrics = metrics_of(sweep)
    if len(metrics) < 2:
        return None
    from bokeh.layouts import column, row
    from bokeh.models import CustomJS, InlineStyleSheet, Select

    first, second = PARETO_METRICS if set(PARETO_METRICS) <= set(metrics) else metrics[:2]
    columns, labels = _columns(sweep, metrics)
    data = source(columns | _initial(columns, first, second))
    line = source(_corners(columns, first, second))
    drawn = _scatter(sweep, data, line, labels[first], labels[second])
    sheet = InlineStyleSheet(css=WIDGET_CSS)
    choices = [
        Select(title=title, value=value, options=[(name, labels[name]) for name in metrics], stylesheets=[sheet],
               sizing_mode="stretch_width", min_width=130)
        for title, value in (("across", first), ("up", second))
    ]  # fmt: skip
    script = CustomJS(
        args={"points": data, "line": line, "x": choices[0], "y": choices[1], "xaxis": drawn.xaxis[0],
              "yaxis": drawn.yaxis[0], "labels": labels, "more": [name for name in metrics if more_is_better(name)]},
        code=(Path(__file__).parent / "explorer.js").read_text(encoding="utf-8"),
    )  # fmt: skip
    for choice in choices:
        choice.js_on_change("value", script)
    model = column(
        row(*choices, sizing_mode="stretch_width"), drawn, _points(sweep, data, labels, metrics),
        sizing_mode="stretch_width",
    )  # fmt: skip
    about = f"{count(len(sweep.ran), 'point')}; select in the figure or in the table, the other follows"
    return Card(f"Pareto explorer: {sweep.label}", model, about, span="wide")


def _columns(sweep: Sweep, metrics: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The points' columns in the units of their labels, and the labels."""
    columns: dict[str, Any] = {"point": sweep.ran["point"].astype(str).to_numpy()}
    columns |= {axis: _axis(sweep.ran[axis]) for axis in sweep.axes}
    labels = {}
    for name in metrics:
        factor, shown = _SCALE.get(unit(name), (1.0, unit(name)))
        columns[name] = factor * sweep.ran[name].to_numpy(dtype=float)
        labels[name] = f"{label(name)} ({shown})" if shown else label(name)
    return columns, labels


def _axis(values: pd.Series[Any]) -> Any:
    return values.to_numpy(dtype=float) if values.dtype.kind in "fiu" else values.astype(str).to_numpy()


def _initial(columns: dict[str, Any], first: str, second: str) -> dict[str, Any]:
    front = _front(columns, first, second)
    return {
        "x": columns[first], "y": columns[second], "front": np.where(front, "yes", ""),
        "alpha": np.where(front, 1.0, 0.5), "size": np.where(front, 10.0, 6.0),
    }  # fmt: skip


def _front(columns: dict[str, Any], first: str, second: str) -> Any:
    return on_front(columns[first], columns[second], more_is_better(first), more_is_better(second))


def _corners(columns: dict[str, Any], first: str, second: str) -> dict[str, Any]:
    """The front as stairs: from each point across at its height, then to the next."""
    front = np.flatnonzero(_front(columns, first, second))
    x, y = columns[first][front], columns[second][front]
    order = np.argsort(-x if more_is_better(first) else x, kind="stable")
    return {"x": np.repeat(x[order], 2)[1:], "y": np.repeat(y[order], 2)[:-1]}


def _scatter(sweep: Sweep, data: Any, line: Any, across: str, up: str) -> Any:
    tips = [("point", "@point"), *((axis, f"@{{{axis}}}") for axis in sweep.axes)]
    tips += [("x", "@x{0,0.[000]}"), ("y", "@y{0,0.[000]}")]
    drawn = plot(height=380, x_axis_label=across, y_axis_label=up)
    from bokeh.models import BoxSelectTool, HoverTool, TapTool

    drawn.line("x", "y", source=line, color=VERMILION, line_width=1.6, legend_label="front")
    points = drawn.scatter(
        "x", "y", source=data, size="size", color=BLUE, alpha="alpha", line_color=None, legend_label="points",
        selection_color=VERMILION, selection_alpha=1.0, nonselection_alpha=0.15,
    )  # fmt: skip
    drawn.add_tools(HoverTool(tooltips=tips, renderers=[points]), TapTool(), BoxSelectTool())
    legend(drawn)
    return drawn


def _points(sweep: Sweep, data: Any, labels: dict[str, str], metrics: list[str]) -> Any:
    columns = [("point", "point", "", 60), ("front", "front", "", 55)]
    for axis in sweep.axes:
        number = sweep.ran[axis].dtype.kind in "fiu"
        columns.append((axis, axis, "0,0.[000]" if number else "", min(190, 40 + 7 * len(axis))))
    chosen = [name for name in _SHOWN if name in metrics] or metrics[:4]
    columns += [(name, labels[name], "0,0.[000]", 40 + 7 * len(labels[name])) for name in chosen]
    return table(data, columns, height=300, selectable=True)


def left_out(sweep: Sweep) -> Iterator[str]:
    """Why points have no metrics, the commonest reasons first."""
    reasons = Counter(str(reason) for reason in sweep.points.loc[sweep.points["status"] != "ok", "reason"])
    for reason, number in reasons.most_common(8):
        yield f"{count(number, 'point')}: {reason}"
    if len(reasons) > 8:
        yield f"and {len(reasons) - 8} more reasons"
    stopped = len(sweep.points) - len(sweep.ran) - sum(reasons.values())
    if stopped:
        yield f"{count(stopped, 'trial')}: stopped at fewer requests, promising little"


def hypervolume(sweep: Sweep) -> Card | None:
    """How the front of a search grew with its trials; None of a sweep."""
    if "hypervolume" not in sweep.points:
        return None
    drawn = plot(height=210, x_axis_label="trial", tooltips=[("trial", "@x{0}"), ("hypervolume", "@y{0.0000}")])
    columns = {"x": sweep.points["point"].to_numpy(dtype=float), "y": sweep.points["hypervolume"]}
    drawn.step("x", "y", source=source(columns), mode="after", color=BLUE, line_width=2)
    return Card(f"Hypervolume: {sweep.label}", drawn, "What the front dominates, over the trials", span="wide")
