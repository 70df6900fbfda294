"""The figure that a study asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.explore.metrics import metric
from moesim.spec.study import FigureSpec

if TYPE_CHECKING:
    import pandas as pd

#: Percentiles at the ends of intervals, as of `moesim.uncertainty`.
_ENDS = (0.1, 0.9)
FORMATS = ("pdf", "svg", "png")


def draw_figure(table: pd.DataFrame, wanted: FigureSpec, folder: Path) -> list[Path]:
    """Draw `wanted` of a sweep's table into a folder, with the data beside it: the run of every point, and the interval
    of its repeats."""
    from moesim.report.plots.study import study_bars, study_lines
    from moesim.report.style import printed, save

    name = metric(wanted.y)
    data, unit = figure_data(table, wanted, name)
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / "study"
    with printed():
        if "x" in data:
            title = wanted.label or wanted.x.rpartition(".")[2].replace("_", " ")
            figure = study_lines(data, f"{title} ({unit})" if unit else title, name)
        else:
            figure = study_bars(data, name)
        paths = save(figure, stem, FORMATS)
    data.to_csv(stem.with_suffix(".csv"), index=False)
    return [*paths, stem.with_suffix(".csv")]


def figure_data(table: pd.DataFrame, wanted: FigureSpec, name: str) -> tuple[pd.DataFrame, str]:
    """The rows of the figure, and the unit of its horizontal axis: `series`, `x` where all of its values are numbers
    (of one unit), else `name`; the metric, and where points are repeated the ends of its 80 % interval."""
    import pandas as pd

    keys = [each for each in (wanted.by, wanted.x) if each is not None]
    good = table[table["status"] == "ok"]
    run = good[good["repeat"] == 0] if "repeat" in good else good
    data = run[["point", *dict.fromkeys(keys), name]].copy()
    if "repeat" in good:
        drawn = good[good["repeat"] > 0].groupby("point")[name]
        for end, level in zip(("low", "high"), _ENDS, strict=True):
            data[f"{name}.{end}"] = data["point"].map(drawn.quantile(level))
    numbers, unit = _numbers(data[wanted.x].tolist())
    ends = [each for each in (f"{name}.low", f"{name}.high") if each in data]
    if numbers is None:
        return pd.DataFrame({"name": data[wanted.x].map(short), **{each: data[each] for each in (name, *ends)}}), ""
    series = data[wanted.by].map(short) if wanted.by is not None else [""] * len(data)
    return pd.DataFrame({"series": series, "x": numbers, **{each: data[each] for each in (name, *ends)}}), unit


def _numbers(values: list[Any]) -> tuple[list[float] | None, str]:
    """The values as numbers, and the unit behind all of them."""
    found = [re.fullmatch(r"\s*([\d.]+(?:[eE][+-]?\d+)?)\s*([^\d]*)", str(value)) for value in values]
    if any(each is None for each in found):
        return None, ""
    units = {each[2].strip() for each in found if each is not None}
    if len(units) > 1:
        return None, ""
    return [float(each[1]) for each in found if each is not None], next(iter(units), "")


def short(value: Any) -> str:
    """A value of an axis as a person says it: "2 x h100-sxm", "tp 8, ep 8"."""
    try:
        tree = json.loads(str(value))
    except ValueError:
        return str(value)
    if not isinstance(tree, dict):
        return str(value)
    devices = tree.get("devices")
    if isinstance(devices, dict):
        return " + ".join(f"{count} × {name}" for name, count in devices.items())
    return ", ".join(_leaves(tree))


def _leaves(tree: dict[str, Any]) -> Iterator[str]:
    for key, item in tree.items():
        yield from _leaves(item) if isinstance(item, dict) else [f"{key} {item}"]
