"""An explanation on the console: what 10 % more of each number buys, and what binds. Reads at 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moesim.explore.explain import STEP, Explanation
from moesim.explore.ladder import RELIEF
from moesim.explore.page import console, table_of
from moesim.explore.units import scale_of, share
from moesim.report.names import label
from moesim.report.text import count

if TYPE_CHECKING:
    from rich.table import Table

#: Numbers that get a line, metrics that get a column, and the least change that is worth one.
MOST, COLUMNS, LEAST = 20, 4, 5e-4
#: Short titles of columns.
TITLES = {
    "throughput.requests": "requests per s", "throughput.output_tokens": "output tokens/s",
    "throughput.total_tokens": "tokens per s", "goodput.requests": "goodput", "energy.per_output_token": "J per token",
    "cost.per_million_output_tokens": "$ per M tokens", "training.step_time": "step time",
    "training.tokens_per_second": "tokens per s", "energy.per_token": "J per token",
    "cost.per_million_tokens": "$ per M tokens",
}  # fmt: skip


def print_explanation(found: Explanation) -> None:
    """Print it: the tornado as a table, the ladder, and the numbers without effect."""
    screen = console()
    step = f"{100 * (STEP - 1):.0f} %"
    screen.print(f"{found.base.name}: what {step} more of each number buys, or less of a time or a price")
    screen.print()
    screen.print(_tornado(found))
    for line in _beside(found):
        screen.print(line)
    screen.print()
    _print_ladder(found)
    if found.without:
        screen.print()
        screen.print(f"without effect on {', '.join(found.metrics)}: {', '.join(_gathered(found))}")


def _gathered(found: Explanation) -> list[str]:
    """Numbers without effect; a descriptor's name where none of its numbers has one."""
    names: dict[str, None] = {}
    every, without = set(found.elasticities["knob"]), set(found.without)
    for knob in found.without:
        steps = knob.split(".")
        owner = ".".join(steps[:3]) + "."
        together = steps[0] == "library" and {each for each in every if each.startswith(owner)} <= without
        names.setdefault(f"{owner}*" if together else knob)
    return list(names)


def _shown(found: Explanation) -> list[str]:
    """Labels of the numbers that get a line."""
    gains = found.elasticities.assign(size=found.elasticities["gain"].abs())
    sizes = gains.groupby("label")["size"].max()
    return [name for name in found.table()["label"] if sizes[name] >= LEAST][:MOST]


def _tornado(found: Explanation) -> Table:
    metrics = found.metrics[:COLUMNS]
    repeated = "interval_low" in found.elasticities
    titles = ["number", *(_short(metric) for metric in metrics), "elasticity"]
    table = table_of([*titles, "interval"] if repeated else titles, 24, title_width=10)
    rows = {metric: found.table(metric).set_index("label") for metric in metrics}
    first = rows[metrics[0]]
    for name in _shown(found):
        cells = [share(float(rows[metric]["gain"][name])) for metric in metrics]
        cells.append(f"{float(first['elasticity'][name]):+.2f}")
        if repeated:
            low, high = (float(first[end][name]) for end in ("interval_low", "interval_high"))
            cells.append(f"[{low:.2f}, {high:.2f}]")
        table.add_row(name, *cells)
    return table


def _short(metric: str) -> str:
    """A title that breaks into lines of at most 10 characters: 'TPOT mean'."""
    first, _, rest = metric.partition(".")
    name = f"{first.upper() if len(first) <= 4 else first} {rest}".replace("_", " ").replace(".", " ")
    return TITLES.get(metric, name).strip()


def _beside(found: Explanation) -> list[str]:
    """What the table's columns mean, and what it leaves out."""
    lines = [f"elasticity: of {label(found.metrics[0])}, in per cent for one per cent more of the number"]
    if "interval_low" in found.elasticities:
        lines.append(f"interval: of the elasticity, 80 % of {found.repeats} repeats")
    hidden = len(set(found.elasticities["label"])) - len(_shown(found)) - len(found.without)
    if hidden > 0:
        lines.append(f"{count(hidden, 'more number')} with less effect")
    return lines


def _print_ladder(found: Explanation) -> None:
    screen, metric = console(), found.metrics[0]
    screen.print(f"what binds {label(metric)}, each relieved by a factor of {RELIEF:g} before the next")
    if not len(found.ladder):
        screen.print("nothing: no resource changes it by 1 %")
        return
    table = table_of(["resource", "before", "after", "change", "in all"], 24)
    for row in found.ladder.to_dict("records"):
        before, after = float(row["before"]), float(row["after"])
        cells = [scale_of(metric, each).text(each) for each in (before, after)]
        table.add_row(f"{row['rung']}. {row['resource']}", *cells, share(row["gain"]), share(row["so_far"]))
    screen.print()
    screen.print(table)
