"""A comparison on the console: every metric side by side, and where the difference comes from. Reads at 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.explore.page import console, table_of
from moesim.explore.units import Scale, scale_of, share
from moesim.explore.whatif import WhatIf
from moesim.report.text import count

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

#: Parts of a cause's table that get a line of their own.
MOST_PARTS = 6
#: Below this share of the whole a part does not.
NOTICEABLE = 5e-4
#: What is explained, with the metrics whose choice asks for it.
EXPLAINED = {"tpot": ("tpot", "itl"), "ttft": ("ttft",), "e2e": ("e2e",)}
LABELS = {"step": "step time", "tpot": "TPOT", "ttft": "TTFT", "e2e": "E2E latency"}


def print_whatif(found: WhatIf, metrics: Sequence[str] = ()) -> None:
    """Print the comparison.

    Args:
        metrics: that somebody asked for; what is explained follows them.
    """
    screen = console()
    screen.print(f"{found.base.name}, what if {', '.join(found.overrides) or 'nothing changes'}")
    for line in (*_said(found), *(f"not the same work: {why}" for why in found.unpaired)):
        screen.print(line)
    changed, others = _changed(found.metrics, metrics)
    if len(changed):
        screen.print()
        screen.print(_metrics(changed, found.repeats > 0))
        screen.print()
    if not len(changed) and not others["changed too"]:
        others = {f"nothing changes, {len(others['unchanged'])} metrics are the same": []}
    for title, names in others.items():
        if names or title.startswith("nothing"):
            screen.print(f"{title}: {', '.join(names)}".removesuffix(": "))
    screen.print()
    for of in _explained(found, metrics):
        for part in _cause(found.causes[found.causes["of"] == of], LABELS[of]):
            screen.print(part)
            screen.print()


def _said(found: WhatIf) -> list[str]:
    """What the intervals are, and what base and change share."""
    if not found.repeats:
        special = any("training" in each.spec for each in (found.base, found.change))
        why = " (interrupted)" if found.asked else ", as training steps are not repeated" if special else ""
        return [f"one run of each; no intervals{why}"]
    pairs = f"{found.repeats} of {found.asked}" if found.repeats < found.asked else f"{found.repeats}"
    same = found.base.manifest["seed"] == found.change.manifest["seed"]
    return [
        f"{pairs} paired repeats; {100 * found.level:.0f} % intervals of the difference, ? where it may be none",
        f"drawn in common: {'arrivals, routing' if same else 'no seed'}{_errors(found.shared)}",
        f"drawn apart: {'' if same else 'arrivals, routing'}{_errors(found.apart, ', ' if not same else '')}",
    ][: 3 if found.apart or not same else 2]


def _errors(labels: Sequence[str], joint: str = ", ") -> str:
    """'errors of kernels.h200-sxm (8), collectives (4)'."""
    groups: dict[str, int] = {}
    for label in labels:
        group = label.rpartition(".")[0]
        groups[group] = groups.get(group, 0) + 1
    named = ", ".join(f"{group} ({number})" for group, number in groups.items())
    return f"{joint}errors of {named}" if named else ""


def _changed(table: pd.DataFrame, wanted: Sequence[str]) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The rows that differ, or may; and the names of the others. What the bottleneck is made of follows from the parts
    below, and is shown where it is `wanted`."""
    unknown = table["base"].isna() & table["change"].isna()
    still = (table["difference"] == 0) & (table[["low", "high"]].fillna(0.0) == 0).all(axis=1) & ~unknown
    shown = ~still & ~unknown
    beside = table["metric"].str.startswith("bottleneck.") & shown & (not wanted)
    others = {"unchanged": still, "not defined": unknown, "changed too": beside}
    return table[shown & ~beside], {title: table["metric"][rows].tolist() for title, rows in others.items()}


def _metrics(rows: pd.DataFrame, repeated: bool) -> Table:
    """Grouped by the first part of their names."""
    columns = ["metric", "base", "change", "difference", "relative"]
    table = table_of([*columns, "interval"] if repeated else columns, 18)
    before = ""
    for row in rows.to_dict("records"):
        group, _, rest = str(row["metric"]).partition(".")
        if rest and group != before:
            table.add_row(group, style="bold")
        before = group
        table.add_row(f" {rest}" if rest else group, *_cells(row, repeated))
    return table


def _cells(row: Mapping[Any, Any], repeated: bool) -> list[str]:
    name = row["metric"]
    base, change, difference = (float(row[key]) for key in ("base", "change", "difference"))
    ends = [float(row["low"]), float(row["high"])]
    scale = scale_of(name, difference or max(map(abs, ends)))
    points = scale._replace(unit="pp") if scale.unit == "%" else scale
    cells = [scale_of(name, base).text(base), scale_of(name, change).text(change)]
    cells += [points.text(difference, sign=True), share(float(row["relative"]))]
    if repeated:
        cells.append(f"{_interval(scale, ends)}{' ' if row['clear'] else '?'}")
    return cells


def _interval(scale: Scale, ends: Sequence[float]) -> str:
    """In the unit of the difference."""
    if not np.isfinite(ends).all():
        return "–"
    return f"[{', '.join(scale.number(each) for each in ends)}]"


def _explained(found: WhatIf, metrics: Sequence[str]) -> list[str]:
    """Which times are explained: those asked for, else TPOT and TTFT; the step where nothing else is."""
    groups = {name.partition(".")[0] for name in metrics}
    known = set(found.causes["of"])
    wanted = [of for of, names in EXPLAINED.items() if groups & set(names)] if metrics else ["tpot", "ttft"]
    return [of for of in wanted if of in known] or [of for of in ("step",) if of in known]


def _cause(rows: pd.DataFrame, label: str) -> list[str | Table]:
    """By operator, and by what they wait for."""
    base, change = float(rows["base"].sum()), float(rows["change"].sum())
    whole = scale_of("ttft.mean", change - base).text(change - base, sign=True)
    sizes = [scale_of("ttft.mean", each).text(each) for each in (base, change)]
    title = f"mean {label} {sizes[0]} → {sizes[1]} ({whole})"
    if change == base:
        return [f"{title}: nothing to explain"]
    found: list[str | Table] = [title, _parts(_summed(rows, rows["part"]), "by part")]
    if (~rows["bound"].isin(["waiting", "steps"])).any():
        found.append(_parts(_summed(rows, _resources(rows)), "by what it waits for"))
    return found


def _summed(rows: pd.DataFrame, by: pd.Series[str]) -> pd.DataFrame:
    sums: pd.DataFrame = rows[["base", "change"]].groupby(by.to_numpy(), sort=False).sum()
    return sums


def _resources(rows: pd.DataFrame) -> pd.Series[str]:
    """'memory: hbm of h200-sxm', 'launches and host'."""
    alone = (rows["where"] == "") | (rows["bound"] == "overhead")
    named = rows["where"].where(rows["bound"] == "overhead", rows["bound"])
    resources: pd.Series[str] = named.where(alone, rows["bound"] + ": " + rows["where"])
    return resources


def _parts(sums: pd.DataFrame, title: str) -> Table:
    """The parts with the largest differences; the others together."""
    sums = sums.assign(difference=sums["change"] - sums["base"])
    whole = float(sums["difference"].sum())
    order = np.argsort(-sums["difference"].abs().to_numpy(), kind="stable").tolist()
    named = [i for i in order if abs(sums["difference"].iloc[i]) > NOTICEABLE * abs(whole)][:MOST_PARTS]
    rows = [(str(sums.index[i]), *sums.iloc[i].tolist()) for i in named]
    rest = [i for i in range(len(sums)) if i not in named]
    others = sums.iloc[rest].sum()
    if others[["base", "change"]].abs().max() > NOTICEABLE * sums[["base", "change"]].to_numpy().max():
        rows.append((count(len(rest), "other"), *others.tolist()))
    table = table_of([title, "base", "change", "difference", "share"], 20)
    size = scale_of("ttft.mean", max(float(sums["base"].max()), float(sums["change"].max())))
    for name, base, change, difference in rows:
        cells = [size.text(base), size.text(change), size.text(difference, sign=True)]
        table.add_row(name, *cells, share(difference / whole, sign=False))
    return table
