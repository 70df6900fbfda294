"""Two runs side by side: a table on the console, as CSV, and the latencies of both as a figure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.report.names import shown, shown_change
from moesim.report.text import count
from moesim.results.compare import LEVEL, PAIRED, SAMPLED, Difference, Side
from moesim.spec.errors import MoesimError
from moesim.spec.marked import display

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

_VERDICT = {True: "yes", False: "no", None: "?"}
#: Percentiles by which a measurement without requests is drawn.
_POINTS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def print_comparison(screen: Console, first: Side, second: Side, found: Sequence[Difference]) -> None:
    """Every metric that differs, what the intervals rest on, and how many exceed theirs."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("metric", no_wrap=True)
    for heading in (escape(first.label), escape(second.label), "difference", "%", f"{100 * LEVEL:g} % interval"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("beyond", justify="center")
    differing = [each for each in found if not each.equal]
    for each in differing:
        style = {True: "bold", False: "dim", None: ""}[each.exceeds]
        table.add_row(each.metric, *_cells(each), _VERDICT[each.exceeds], style=style)
    screen.print(table)
    for line in _lines(first, second, found):
        screen.print(line, markup=False)


def _cells(each: Difference) -> list[str]:
    low, change, high = (shown_change(each.metric, value) for value in (each.low, each.change, each.high))
    relative = f"{100 * each.relative:+,.1f}" if math.isfinite(each.relative) else "–"
    interval = "" if each.exceeds is None else f"{low} … {high}"
    return [shown(each.metric, each.first), shown(each.metric, each.second), change, relative, interval]


def _lines(first: Side, second: Side, found: Sequence[Difference]) -> list[str]:
    """What the table does not say."""
    equal = sum(each.equal for each in found)
    verdicts = Counter(each.exceeds for each in found if not each.equal)
    lines = [
        f"{count(verdicts[True], 'difference')} beyond the interval, {verdicts[False]} within, {verdicts[None]} without"
        f" an interval; {count(equal, 'metric')} equal"
    ]
    for basis in dict.fromkeys(each.basis for each in found if each.basis):
        names = sorted({each.metric.partition(".")[0] for each in found if each.basis == basis})
        of = ", ".join(names) if len(names) <= 4 else f"{count(len(names), 'group')} of metrics"
        lines.append(f"intervals of {of}: {_basis(basis)}")
    without = " and ".join(side.label for side in (first, second) if side.repeats is None and not _trains(side))
    if without:
        lines.append(f"not repeated: {without} (`moesim run --uncertainty` gives intervals of every metric)")
    only = len(set(_defined(first)) ^ set(_defined(second)))
    if only:
        lines.append(f"{count(only, 'metric')} defined on one side only")
    return lines


def _trains(side: Side) -> bool:
    """A training step is not repeated."""
    return "training.step_time" in side.metrics


def _basis(basis: str) -> str:
    if basis == PAIRED:
        return f"{basis} (common random numbers)"
    return f"{basis} of percentiles and means, as if requests were independent" if basis == SAMPLED else basis


def _defined(side: Side) -> list[str]:
    return [name for name, value in side.metrics.items() if math.isfinite(value)]


def comparison_table(first: Side, second: Side, found: Sequence[Difference]) -> pd.DataFrame:
    """A row per metric: metric, first, second (SI units), difference, relative, low, high, beyond, basis."""
    import pandas as pd

    table = pd.DataFrame(
        [
            (each.metric, each.first, each.second, each.change, each.relative, each.low, each.high,
             {True: "yes", False: "no", None: ""}[each.exceeds], each.basis)
            for each in found
        ],
        columns=["metric", "first", "second", "difference", "relative", "low", "high", "beyond", "basis"],
    )  # fmt: skip
    return table.rename(columns={"first": first.label, "second": second.label})


def sides_cdf(sides: Sequence[Side]) -> pd.DataFrame:
    """The distributions of both, as `plots.latency.cdf_table` has them; of a measured summary its percentiles."""
    import pandas as pd

    from moesim.report.plots.latency import cdf_table

    labels = [side.label for side in sides]
    parts = [cdf_table({label: side.samples for label, side in zip(labels, sides, strict=True) if side.samples})]
    names = list(dict.fromkeys(parts[0]["latency"])) or ["ttft", "tpot", "e2e"]
    for label, side in zip(labels, sides, strict=True):
        rows = [
            (label, name, side.metrics[f"{name}.{point}"], share)
            for name in names
            for point, share in _POINTS.items()
            if not side.samples and f"{name}.{point}" in side.metrics
        ]
        parts.append(pd.DataFrame(rows, columns=["run", "latency", "seconds", "share"]))
    table = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    if not len(table):
        raise MoesimError("neither has latencies to draw", fix="leave out --plot")
    return table


def draw_comparison(sides: Sequence[Side], target: Path) -> None:
    """The latencies of both as cumulative distributions, in the format of the suffix.

    Raises:
        MoesimError: no such format, nothing to draw, or the file cannot be written.
    """
    from moesim.report.bandwidth import check_format
    from moesim.report.plots.latency import latency_cdf
    from moesim.report.style import printed, save

    check_format(target)
    with printed():
        try:
            save(latency_cdf(sides_cdf(sides)), target.with_suffix(""), (target.suffix[1:].lower(),))
        except OSError as error:
            raise MoesimError(f"cannot write {display(target)}: {error.strerror}") from None
