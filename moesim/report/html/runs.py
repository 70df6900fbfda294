"""Figures and tables of runs, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.report.html.look import SOFT, colour, dash, legend, plot, source, table
from moesim.report.names import scaled
from moesim.report.overtime import DOING, device_labels, device_shares
from moesim.report.plots import tables
from moesim.report.plots.kernels import PARTS, part_of
from moesim.report.plots.latency import TITLES
from moesim.report.series import rate, time_edges
from moesim.report.sources import Sources
from moesim.report.style import COLOURS, time_unit
from moesim.results.folder import Results
from moesim.results.metrics import numbers
from moesim.spec.errors import MoesimError

if TYPE_CHECKING:
    import pandas as pd

#: Beyond these, figures would be large and show nothing more: runs with a heat map, devices, operators of a step,
#: curves.
MOST_MAPS, MOST_DEVICES, MOST_BARS, MOST_SERIES = 4, 32, 4000, 10


@dataclass(frozen=True)
class Card:
    """A figure or table of the page, and the words around it. span: half the page by default, "third" or "wide"."""

    title: str
    model: Any
    about: str = ""
    span: str = ""


def metric_table(runs: Mapping[str, Results]) -> Card:
    """Every metric that a run defines, a row each, with a column per run."""
    known = {run: numbers(results.summary) for run, results in runs.items()}
    names = list(dict.fromkeys(name for each in known.values() for name in each))
    rows = []
    for name in names:
        values, text = scaled(name, [each.get(name, np.nan) for each in known.values()])
        if np.isfinite(values).any():
            rows.append((name, text, *values))
    columns = list(zip(*rows, strict=True))
    data = source({"metric": columns[0], "name": columns[1], **{f"r{i}": c for i, c in enumerate(columns[2:])}})
    shown = [("name", "metric", "", 235), *((f"r{i}", run, "0,0.[000]", 120) for i, run in enumerate(runs))]
    return Card("All metrics", table(data, [*shown, ("metric", "in summary.json", "", 780)], height=420), span="wide")


def latency_cards(sources: Sources) -> Iterator[Card]:
    found = _fed(tables.latency_cdf, sources)
    if found is None:
        return
    runs = list(dict.fromkeys(found["run"]))
    for name in dict.fromkeys(found["latency"]):
        mine = found[found["latency"] == name]
        body = mine.loc[mine["share"].between(0.003, 0.997), "seconds"]
        wide = len(body) > 0 and body.min() > 0 and body.max() / body.min() > 30
        factor, unit = time_unit(float(mine["seconds"].median()))
        drawn = plot(
            x_axis_type="log" if wide else "linear", x_axis_label=unit, y_axis_label="% of requests",
            tooltips=[("run", "$name"), (unit, "@x{0,0.[00]}"), ("share", "@y{0.0} %")],
        )  # fmt: skip
        for run, part in mine.groupby("run", sort=False):
            index = runs.index(run)
            data = source({"x": part["seconds"] * factor, "y": 100 * part["share"]})
            label: dict[str, Any] = {"legend_label": str(run)} if len(runs) > 1 else {}
            drawn.line(
                "x", "y", source=data, color=colour(index), line_dash=dash(index), line_width=2, name=str(run), **label
            )
        legend(drawn)
        yield Card(TITLES[name], drawn, "Cumulative distribution over requests", span="third")


def _fed(make: Any, sources: Sources) -> pd.DataFrame | None:
    """The table of a figure; None where these results do not feed it."""
    try:
        found: pd.DataFrame = make(sources, ())
    except MoesimError:
        return None
    return found


#: Over time: title, column of the steps, and how it is averaged: an amount of each step, a mean by time, a share of all
#: replicas.
_OVER_TIME = (
    ("Output tokens per second", "output_tokens", "amount"),
    ("Prompt tokens per second", "prefill_tokens", "amount"),
    ("Requests in the batch", "sequences", "mean"),
    ("Of them with prompt tokens", "prefill_sequences", "mean"),
    ("Requests in the queue", "waiting", "mean"),
    ("KV cache in use (%)", "kv_used", "share"),
)


def time_cards(runs: Mapping[str, Results]) -> Iterator[Card]:
    runs = {run: results for run, results in runs.items() if not results.trains}
    for title, column, kind in _OVER_TIME if runs else ():
        drawn = plot(
            height=210, x_axis_label="s", tooltips=[("run", "$name"), ("time", "@x{0,0.[00]} s"), ("", "@y{0,0.[00]}")]
        )
        for index, (run, results) in enumerate(runs.items()):
            steps = results.iterations
            if not len(steps):
                continue
            start, end, value = (steps[name].to_numpy(dtype=float) for name in ("start", "end", column))
            edges = time_edges(float(results.summary["duration"]), len(steps))
            mean = rate(start, end, value if kind == "amount" else value * (end - start), edges).clip(min=0)
            if kind == "share":
                mean = 100 * mean / max(1, steps["replica"].nunique())
            label: dict[str, Any] = {"legend_label": run} if len(runs) > 1 else {}
            drawn.step(
                "x", "y", source=source({"x": edges, "y": np.append(mean, mean[-1])}), mode="after", line_width=1.6,
                color=colour(index), line_dash=dash(index), name=run, **label,
            )  # fmt: skip
        drawn.y_range.start = 0
        legend(drawn)
        yield Card(title, drawn)


def load_cards(sources: Sources) -> Iterator[Card]:
    """Latency against throughput, of several loads."""
    found = _fed(tables.throughput_latency, sources)
    if found is None:
        return
    first, *others = [name for name in tables.LOAD_METRICS if name in found]
    series = list(dict.fromkeys(found["series"]))
    if len(series) > MOST_SERIES:  # the explorer shows them better
        return
    for metric in others:
        x, x_label = scaled(first, found[first])
        y, y_label = scaled(metric, found[metric])
        drawn = plot(
            x_axis_label=x_label, y_axis_label=y_label,
            tooltips=[("series", "$name"), ("load", "@load{0,0.[00]}/s"), ("x", "@x{0,0.[00]}"), ("y", "@y{0,0.[00]}")],
        )  # fmt: skip
        for index, name in enumerate(series):
            mine = np.flatnonzero((found["series"] == name).to_numpy())
            mine = mine[np.argsort(x[mine], kind="stable")]
            data = source({"x": x[mine], "y": y[mine], "load": found["load"].to_numpy(dtype=float)[mine]})
            label: dict[str, Any] = {"legend_label": str(name)} if len(series) > 1 else {}
            look: dict[str, Any] = {"source": data, "color": colour(index), "name": str(name), **label}
            drawn.line("x", "y", line_width=2, line_dash=dash(index), **look)
            drawn.scatter("x", "y", size=7, **look)
        legend(drawn)
        yield Card(f"{y_label.partition(' (')[0]} against throughput", drawn)


def breakdown_card(sources: Sources) -> Card | None:
    found = _fed(tables.breakdown, sources)
    if found is None:
        return None
    runs = list(dict.fromkeys(found["run"]))
    factor, unit = time_unit(float(found.groupby("run")["seconds"].sum().max()))
    drawn = plot(
        height=130 + 34 * len(runs), y_range=runs[::-1], x_axis_label=f"mean step ({unit})",
        tooltips=[
            ("run", "@run"), ("part", "$name"), ("time", f"@seconds{{0,0.[000]}} {unit}"), ("share", "@share{0.0} %"),
        ],
    )  # fmt: skip
    left = np.zeros(len(runs))
    for part, paint in PARTS.items():
        mine = found[found["part"] == part].set_index("run")[["seconds", "share"]].reindex(runs).fillna(0.0)
        seconds = mine["seconds"].to_numpy(dtype=float) * factor
        if seconds.any():
            share = 100 * mine["share"].to_numpy(dtype=float)
            data = source({"run": runs, "left": left, "right": left + seconds, "seconds": seconds, "share": share})
            drawn.hbar(
                y="run", left="left", right="right", height=0.7, source=data, fill_color=paint, line_color=None,
                legend_label=part, name=part,
            )  # fmt: skip
            left = left + seconds
    drawn.x_range.start = 0
    legend(drawn)
    return Card("Mean step", drawn, "The critical path of all steps, by what computes", span="wide")


def operator_card(runs: Mapping[str, Results]) -> Card:
    import pandas as pd

    parts = [results.operators.assign(run=run) for run, results in runs.items()]
    found = pd.concat(parts, ignore_index=True)
    bounds = [
        name for name in found if str(name).endswith("_seconds") and name not in ("least_seconds", "device_seconds")
    ]
    columns = {"run": found["run"], "name": found["name"], "kind": found["kind"], "seconds": found["seconds"]}
    columns["share"] = 100 * found["share"]
    columns |= {str(name): 100 * found[name] / found["seconds"].where(found["seconds"] > 0) for name in bounds}
    if "flops" in found:
        columns["tflops"] = 1e-12 * found["flops"] / found["device_seconds"]
        columns["gbytes"] = 1e-9 * found["memory_bytes"] / found["device_seconds"]
    shown = [("run", "run", "", 110)] if len(runs) > 1 else []
    shown += [("name", "operator", "", 150), ("kind", "kind", "", 120), ("seconds", "seconds", "0,0.000", 100)]
    shown += [("share", "% of time", "0.0", 80)]
    shown += [(str(name), f"% {str(name).removesuffix('_seconds')}", "0", 92) for name in bounds]
    shown += [("tflops", "TFLOP/s", "0,0.0", 80), ("gbytes", "GB/s", "0,0", 75)] if "flops" in found else []
    about = "Seconds on the critical path of all steps, what bounds them, and the rates of a device"
    return Card("Operators", table(source(columns), shown, height=360), about, span="wide")


def roofline_card(sources: Sources) -> Card | None:
    found = _fed(tables.roofline, sources)
    if found is None:
        return None
    found = found[(found["flops"] > 0) & (found["memory_bytes"] > 0)]
    intensity = (found["flops"] / found["memory_bytes"]).to_numpy(dtype=float)
    speed = 1e-12 * (found["flops"] / found["device_seconds"]).to_numpy(dtype=float)
    drawn = plot(
        height=300, x_axis_type="log", y_axis_type="log", x_axis_label="FLOP per byte of memory traffic",
        y_axis_label="TFLOP/s of a device",
        tooltips=[
            ("operator", "@operator"), ("run", "@run"), ("FLOP/byte", "@x{0,0.[00]}"), ("TFLOP/s", "@y{0,0.[000]}"),
            ("share of kernels", "@share{0.0} %"),
        ],
    )  # fmt: skip
    roofs = found.drop_duplicates(["peak_flops", "peak_bandwidth"])
    for peak, bandwidth in zip(roofs["peak_flops"], roofs["peak_bandwidth"], strict=True):
        across = np.geomspace(intensity.min() / 2, 8 * max(intensity.max(), peak / bandwidth), 80)
        drawn.line(across, 1e-12 * np.minimum(across * bandwidth, peak), color=SOFT, line_width=1.5)
    parts = found["kind"].map(part_of)
    for part, paint in PARTS.items():
        mine = np.flatnonzero((parts == part).to_numpy())
        if len(mine):
            rows = found.iloc[mine]
            share = rows["share"].to_numpy(dtype=float)
            data = source(
                {"x": intensity[mine], "y": speed[mine], "operator": rows["operator"], "run": rows["run"],
                 "share": 100 * share, "size": 7 + 16 * np.sqrt(share)}
            )  # fmt: skip
            drawn.scatter("x", "y", size="size", source=data, fill_color=paint, line_color=None, legend_label=part)
    legend(drawn)
    return Card("Roofline", drawn, "Kernels by their work; size: share of the time of kernels")


def device_card(runs: Mapping[str, Results]) -> Card:
    rows: list[str] = []
    shares: dict[str, list[float]] = {name: [] for name in DOING}
    for run, results in runs.items():
        names = device_labels([str(name) for name in results.devices["name"]])
        rows += names if len(runs) == 1 else [f"{run}: {name}" for name in names]
        for name, values in device_shares(results.devices).items():
            shares[name] += values.tolist()
    hidden = max(len(rows) - MOST_DEVICES, 0)
    rows = list(dict.fromkeys(rows))[:MOST_DEVICES]
    drawn = plot(
        height=120 + 24 * len(rows), y_range=rows[::-1], x_axis_label="% of the run", x_range=(0, 100),
        tooltips=[("device", "@device"), ("", "$name"), ("share", "@share{0.0} %")],
    )  # fmt: skip
    left = np.zeros(len(rows))
    for name, paint in DOING.items():
        if name != "idle":
            share = 100 * np.array(shares[name][: len(rows)])
            data = source({"device": rows, "left": left, "right": left + share, "share": share})
            drawn.hbar(
                y="device", left="left", right="right", height=0.74, source=data, fill_color=COLOURS[paint],
                line_color=None, legend_label=name, name=name,
            )  # fmt: skip
            left = left + share
    legend(drawn)
    return Card("Devices", drawn, f"The first {MOST_DEVICES} of {hidden + MOST_DEVICES}" if hidden else "")


def expert_cards(runs: Mapping[str, Results]) -> Iterator[Card]:
    from bokeh.models import ColorBar, LogColorMapper
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    palette = [to_hex(colormaps["PuOr_r"](i / 255)) for i in range(256)]
    for run, results in list(runs.items())[:MOST_MAPS]:
        found = _fed(tables.expert_load, Sources({run: results}))
        if found is None:
            continue
        layers = np.unique(found["layer"])
        load = found["relative"].to_numpy(dtype=np.float32).reshape(len(layers), -1)
        drawn = plot(
            x_range=(0, load.shape[1]), y_range=(len(layers), 0), x_axis_label="expert", y_axis_label="MoE layer",
            tooltips=[("layer", "$y{0}"), ("expert", "$x{0}"), ("over the mean", "@image{0.00}×")],
        )  # fmt: skip
        mapper = LogColorMapper(palette=palette, low=0.25, high=4.0)
        drawn.image([load], x=0, y=0, dw=load.shape[1], dh=len(layers), color_mapper=mapper)
        drawn.grid.grid_line_color = None
        bar = ColorBar(
            color_mapper=mapper, width=9, background_fill_alpha=0.0, major_label_text_color=SOFT, bar_line_color=None,
            major_tick_line_color=SOFT,
        )  # fmt: skip
        drawn.add_layout(bar, "right")
        yield Card("Expert load" + (f": {run}" if len(runs) > 1 else ""), drawn, "Tokens over the layer's mean")


def step_card(runs: Mapping[str, Results]) -> Card | None:
    """The first recorded step that there is, operator by operator."""
    for run, results in runs.items():
        found = _fed(tables.gantt, Sources({run: results}))
        if found is not None:
            what = "A training step" if results.trains else "The last step in detail"
            return _step(run if len(runs) > 1 else "", what, found)
    return None


def _step(run: str, what: str, found: pd.DataFrame) -> Card:
    found = found.assign(row=found["device"] + " " + found["resource"])
    rows = list(dict.fromkeys(found["row"]))
    shown = rows[: max(2, MOST_BARS * len(rows) // max(len(found), 1))]
    found = found[found["row"].isin(shown)]
    factor, unit = time_unit(float(found["end"].max()))
    drawn = plot(
        height=120 + 30 * len(shown), y_range=shown[::-1], x_axis_label=f"{unit} since the step began",
        tooltips=[
            ("operator", "@operator"), ("layer", "@layer"), ("takes", f"@seconds{{0,0.[0000]}} {unit}"), ("on", "@row"),
        ],
    )  # fmt: skip
    parts = found["kind"].map(part_of)
    for part, paint in PARTS.items():
        mine = found[parts == part]
        if len(mine):
            data = source(
                {"row": mine["row"], "operator": mine["operator"], "layer": mine["layer"].to_numpy(dtype=np.int32),
                 "left": factor * mine["start"], "right": factor * mine["end"],
                 "seconds": factor * (mine["end"] - mine["start"])}
            )  # fmt: skip
            drawn.hbar(
                y="row", left="left", right="right", height=0.78, source=data, fill_color=paint, line_color=None,
                legend_label=part,
            )  # fmt: skip
    legend(drawn)
    about = f"{what}, every operator; drag to zoom" + (
        f"; {len(shown)} of {len(rows)} rows" if len(shown) < len(rows) else ""
    )
    return Card("Step" + (f" of {run}" if run else ""), drawn, about, span="wide")
