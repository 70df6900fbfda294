"""The summary that a person reads when a run ends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from moesim.report.service import class_lines, stage_lines
from moesim.report.text import memory_size, percent, short_quantity, short_time, significant

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from moesim.results import Results

WIDTH = 100
LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E"}
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
#: How far to trust a run whose times come from datasheets.
CAVEAT = (
    "times are datasheet rooflines with default efficiencies, not calibrated on measurements; "
    "compare configurations rather than trust single values"
)


def print_summary(results: Results, console: Console | None = None, *, caveat: str = CAVEAT) -> None:
    """Print the summary: at most about 35 lines of 100 columns.

    Args:
        console: where to; standard output by default.
        caveat: what to say of the accuracy, one sentence; nothing where empty.
    """
    from rich.console import Console

    output = console or Console(highlight=False)
    if console is None and not output.is_terminal:  # a pipe or a log: our width, not the 80 columns rich assumes
        output = Console(highlight=False, width=WIDTH)
    width = min(WIDTH, output.width)
    output.print(_headline(results), width=width)
    output.print(_latencies(results.summary), width=width)
    output.print(_facts(results, caveat), width=width)


def _headline(results: Results) -> str:
    from rich.markup import escape

    requests, summary = results.summary["requests"], results.summary
    parts = [f"{requests['finished']:,} of {requests['total']:,} requests finished"]
    parts += [f"{requests[what]:,} {what}" for what in ("dropped", "clipped") if requests[what]]
    if requests["preemptions"]:
        parts.append(f"{requests['preemptions']:,} preemptions")
    parts.append(f"{short_time(summary['duration'])} simulated in {summary['steps']:,} steps")
    mark = " [bold yellow](partial: interrupted)[/]" if summary["partial"] else ""
    if requests["unfinished"] and not summary["partial"]:
        mark = " [bold yellow](ended: overloaded)[/]"
    return f"[bold]{escape(results.name)}[/]{mark}  {' · '.join(parts)}"


def _latencies(summary: Mapping[str, Any]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("latency")
    for name in (*STATISTICS, "SLO", "met by"):
        table.add_column(name, justify="right")
    goodput = summary["goodput"]
    for name, label in LATENCIES.items():
        limit, share = goodput["slo"].get(name), goodput["attainment"].get(name)
        slo = ("", "") if limit is None else (short_time(limit), percent(share))
        table.add_row(label, *(short_time(summary[name][statistic]) for statistic in STATISTICS), *slo)
    return table


def _facts(results: Results, caveat: str) -> Table:
    """What else is measured, a line per subject, and what is to be said of it."""
    from rich.markup import escape
    from rich.table import Table

    summary = results.summary
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for label, text in (
        ("throughput", _throughput(summary)),
        ("goodput", _goodput(summary["goodput"])),
        ("stages", stage_lines(summary)),
        ("classes", class_lines(summary)),
        ("utilisation", _utilisation(summary)),
        ("network", _network(summary["network"])),
        ("experts", _experts(summary["experts"])),
        ("memory", _memory(summary["memory"], summary["requests"])),
        ("energy", _energy(summary["energy"])),
        ("cost", _cost(summary["cost"])),
    ):
        if text:
            table.add_row(label, text)
    before = ""
    for label, text in _remarks(results, caveat):
        table.add_row("" if label == before else label, f"[{_COLOURS.get(label, 'default')}]{escape(text)}[/]")
        before = label
    return table


_COLOURS = {"bottleneck": "cyan", "notes": "yellow", "accuracy": "dim"}


def _number(value: float | None, unit: str = "") -> str:
    return "–" if value is None else significant(value) + unit


def _throughput(summary: Mapping[str, Any]) -> str:
    rates = summary["throughput"]
    return (
        f"{_number(rates['requests'])} requests/s · {_number(rates['output_tokens'])} output tokens/s · "
        f"{_number(rates['total_tokens'])} tokens/s in all"
    )


def _goodput(goodput: Mapping[str, Any]) -> str:
    if not goodput["slo"]:
        return ""
    return f"{_number(goodput['requests'])} requests/s, {percent(goodput['share'])} of requests meet the whole SLO"


def _utilisation(summary: Mapping[str, Any]) -> str:
    """The sparse forms first: the plain ones count experts that no token visits. Without experts they are equal."""
    shares = summary["utilisation"]
    plain = [f"MFU {percent(shares['mfu'])}", f"MBU {percent(shares['mbu'])}"]
    text = " · ".join(plain)
    if summary["experts"]["layers"]:
        sparse = f"S-MFU {percent(shares['s_mfu'])} · S-MBU {percent(shares['s_mbu'])}"
        text = f"{sparse} (as if all experts were used: {', '.join(plain)})"
    return f"{text} · steps run {percent(shares['busy'])} of the time"


def _network(network: Mapping[str, Any]) -> str:
    """Exposed communication and the busiest links; nothing where no bytes travelled."""
    if not network["busiest"]:
        return ""
    hidden = f", {short_time(network['hidden'])} hidden" if network["hidden"] else ""
    waiting = f", {short_time(network['sharing'])} of it on shared links" if network["sharing"] else ""
    distance = "" if network["distance"] is None else f" · {_number(network['distance'], '×')} the least time"
    links = [f"{each['link']} {percent(each['utilisation'])}" for each in network["busiest"][:3]]
    return (
        f"exposed communication {percent(network['exposed_share'])} of step time{waiting}{hidden}{distance} · "
        f"busiest: {', '.join(links)}"
    )


def _experts(experts: Mapping[str, Any]) -> str:
    if not experts["layers"]:
        return ""
    return (
        f"max/mean tokens: experts {_number(experts['imbalance'], '×')} within steps, "
        f"{_number(experts['run_imbalance'], '×')} over the run · ranks {_number(experts['rank_imbalance'], '×')}"
    )


def _memory(memory: Mapping[str, Any], requests: Mapping[str, Any]) -> str:
    text = (
        f"{memory_size(memory['weights'])} weights + {memory_size(memory['kv'])} KV cache of "
        f"{memory_size(memory['capacity'])} · KV use {percent(memory['kv_mean'])} mean, "
        f"{percent(memory['kv_peak'])} peak"
    )
    rate = requests["prefix_hit_rate"]
    return text + (f" · prefix hits {percent(rate)}" if rate else "")


def _energy(energy: Mapping[str, Any]) -> str:
    total = energy["total"]
    shares = [(part, energy[part] / total) for part in ("idle", "compute", "memory", "link", "chassis") if total]
    parts = ", ".join(f"{part} {percent(share, 0)}" for part, share in shares if share >= 0.005)
    token, power = short_quantity(energy["per_output_token"], "J"), short_quantity(energy["average_power"], "W")
    return f"{short_quantity(total, 'J')} ({parts}) · {token} per output token · {power} on average"


def _cost(cost: Mapping[str, Any]) -> str:
    if cost["total"] is None:
        return "no price known (set machine.price, such as '5 $/h')"
    return f"${significant(cost['total'])} · ${_number(cost['per_million_output_tokens'])} per million output tokens"


def _remarks(results: Results, caveat: str) -> list[tuple[str, str]]:
    """Bottleneck, notes, caveat, and where the files are."""
    lines = [("bottleneck", line) for line in results.summary["bottleneck"]["lines"]]
    lines += [("notes", line) for line in results.summary["notes"]]
    if caveat:
        lines.append(("accuracy", caveat))
    if results.path is not None:
        folder = os.path.relpath(results.path)
        folder = str(results.path) if folder.startswith("..") else folder
        lines.append(("results", folder + os.sep))
        if (results.path / "figures").is_dir():
            lines.append(("figures", os.path.join(folder, "figures") + os.sep))
        timeline = results.path / "timeline.json.gz"
        if timeline.is_file():
            lines.append(("timeline", f"{os.path.join(folder, timeline.name)} (open in ui.perfetto.dev)"))
    return lines

