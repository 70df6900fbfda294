"""Which value of an axis is best, with intervals; the figure of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from moesim.explore.compare import compare
from moesim.explore.figure import draw_figure, figure_data, short
from moesim.explore.metrics import constraint, objective
from moesim.spec.errors import MoesimError
from moesim.spec.study import FigureSpec


def table(values: dict[str, list[float]], ttft: float = 0.1) -> pd.DataFrame:
    """One point for each name, whose metric is the run's first and then that of each repeat."""
    rows: list[dict[str, Any]] = []
    for point, (name, found) in enumerate(values.items()):
        for repeat, value in enumerate(found):
            row = {"point": point, "machine": name, "repeat": repeat, "status": "ok", "ttft.p99": ttft}
            rows.append({**row, "throughput.output_tokens": value})
    return pd.DataFrame(rows)


def test_the_best_comes_first_with_the_interval_of_its_lead() -> None:
    found = compare(table({"a": [10, 8, 12, 10], "b": [20, 16, 24, 20]}), "machine", objective("throughput"))
    assert [each.name for each in found] == ["b", "a"]
    best, other = found
    assert (best.value, best.wins, best.point) == (20, 1.0, 1)
    # a is half of b in every repeat: what both have in common does not widen the ratio.
    assert (other.ratio, other.ratio_low, other.ratio_high) == pytest.approx((0.5, 0.5, 0.5))
    assert other.low < 10 < other.high


def test_less_may_be_better_and_wins_are_counted() -> None:
    found = compare(table({"a": [1, 1, 3, 3, 3], "b": [2, 2, 2, 2, 2]}), "machine", objective("minimise throughput"))
    assert [(each.name, each.wins) for each in found] == [("a", 0.25), ("b", 0.75)]


def test_a_value_none_of_whose_points_meets_the_constraints_is_last() -> None:
    rows = table({"a": [10, 10], "b": [20, 20]})
    rows.loc[rows["machine"] == "b", "ttft.p99"] = 3.0
    found = compare(rows, "machine", objective("throughput"), [constraint("ttft.p99 <= 1 s")])
    assert [(each.name, each.point) for each in found] == [("a", 0), ("b", None)]
    with pytest.raises(MoesimError, match="did you mean 'machine'"):
        compare(rows, "machin", objective("throughput"))


def test_a_figure_has_its_data_beside_it(tmp_path: Path) -> None:
    rows = table({"1/s": [10, 8, 12, 10], "4/s": [20, 16, 24, 20]}).rename(columns={"machine": "requests.rate"})
    wanted = FigureSpec(x="requests.rate", y="throughput")
    paths = draw_figure(rows, wanted, tmp_path)
    assert [path.suffix for path in paths] == [".pdf", ".svg", ".png", ".csv"]
    assert all(path.stat().st_size for path in paths)
    data, unit = figure_data(rows, wanted, "throughput.output_tokens")
    assert unit == "/s"
    assert data["x"].tolist() == [1, 4]
    assert data["throughput.output_tokens.low"].tolist() == pytest.approx([8.4, 16.8])


def test_values_that_are_no_numbers_make_bars() -> None:
    wanted = FigureSpec(x="machine", y="throughput")
    data, _ = figure_data(table({'{"devices": {"h100-sxm": 2}}': [1]}), wanted, "throughput.output_tokens")
    assert data["name"].tolist() == ["2 × h100-sxm"]
    assert short('{"tp": 8, "ep": 8}') == "tp 8, ep 8"
