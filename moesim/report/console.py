"""The summary that a person reads when a run ends."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from moesim.report.service import class_lines, pool_lines, stage_lines
from moesim.report.text import ends, memory_size, percent, short_quantity, short_time, significant
from moesim.report.training import print_training
from moesim.results.metrics import numbers

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from moesim.results import Results

WIDTH = 100
LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E"}
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
#: How far to trust a run: whose times come from datasheets, and whose rest on measured kernels.
DATASHEET = (
    "times are datasheet rooflines with default efficiencies, not calibrated on measurements; "
    "compare configurations rather than trust single values"
)
MEASURED = (
    "times of kernels rest on measurements, off by 5 to 10 % in the median and by 16 to 28 % in one call of ten "
    "(`moesim validate --suite kernels`)"
)
TRANSFERRED = ", by about 20 % where they were measured on other devices than these"
#: Kernels that much of a step's time goes to.
HEAVY = {"attention", "experts", "gemm"}
INTERVALS = "; `--uncertainty` says what that makes of these values"


def print_summary(results: Results, console: Console | None = None) -> None:
    """Print the summary: at most about 35 lines of 100 columns.

    Args:
        console: where to; standard output by default.
    """
    from rich.console import Console

    output = console or Console(highlight=False)
    if console is None and not output.is_terminal:  # a pipe or a log: our width, not the 80 columns rich assumes
        output = Console(highlight=False, width=WIDTH)
    width = min(WIDTH, output.width)
    if "training" in results.summary:
        print_training(results, output, width, [("accuracy", _accuracy(results.summary)), *_files(results)])
        return
    output.print(_headline(results), width=width)
    output.print(_latencies(_Values(results.summary)), width=width)
    output.print(_facts(results), width=width)


#: A number, or that there is none, as text.
Form = Callable[[float | None], str]


class _Values:
    """The metrics of a summary as texts, by dotted name, with their intervals where the run was repeated."""

    def __init__(self, summary: Mapping[str, Any]) -> None:
        self.summary, self.metrics = summary, numbers(dict(summary))
        self._intervals: dict[str, list[float]] = summary.get("intervals", {}).get("metrics", {})

    def __call__(self, name: str, form: Form, unit: str = "") -> str:
        """'5.40 requests/s [4.26–6.28]'."""
        interval = self.interval(name, form)
        return form(self.value(name)) + unit + (f" [{interval}]" if interval else "")

    def value(self, name: str) -> float | None:
        value = self.metrics.get(name, math.nan)
        return None if math.isnan(value) else value

    def interval(self, name: str, form: Form) -> str:
        """Empty where there is none, or no width to be seen."""
        value, (low, high) = self.value(name), self._intervals.get(name, (None, None))
        return "" if not value or low is None or high is None else ends(value, low, high, form)


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


def _latencies(values: _Values) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("latency")
    for name in (*STATISTICS, "SLO", "met by"):
        table.add_column(name, justify="right", overflow="fold")
    slo = values.summary["goodput"]["slo"]
    for name, label in LATENCIES.items():
        limit = slo.get(name)
        shown: list[tuple[str, Form]] = [(f"{name}.{statistic}", short_time) for statistic in STATISTICS]
        if limit is not None:
            shown.append((f"goodput.attainment.{name}", percent))
        cells = [form(values.value(metric)) for metric, form in shown]
        table.add_row(label, *_with_limit(cells, "" if limit is None else short_time(limit)))
        below = [values.interval(metric, form) for metric, form in shown]
        if any(below):
            table.add_row("", *_with_limit(below, ""), style="dim")
    return table


def _with_limit(cells: list[str], limit: str) -> list[str]:
    """The SLO stands between the statistics and the share that meets it."""
    return [*cells[: len(STATISTICS)], limit, *(cells[len(STATISTICS) :] or [""])]


def _facts(results: Results) -> Table:
    """What else is measured, a line per subject, and what is to be said of it."""
    from rich.markup import escape
    from rich.table import Table

    summary = results.summary
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    values = _Values(summary)
    for label, text in (
        ("throughput", _throughput(values)),
        ("goodput", _goodput(values)),
        ("stages", stage_lines(summary)),
        ("classes", class_lines(summary)),
        ("pools", pool_lines(summary)),
        ("utilisation", _utilisation(values)),
        ("network", _network(values)),
        ("experts", _experts(values)),
        ("memory", _memory(values)),
        ("energy", _energy(values)),
        ("cost", _cost(values)),
    ):
        if text:
            table.add_row(label, text)
    before = ""
    for label, text in _remarks(results):
        table.add_row("" if label == before else label, f"[{_COLOURS.get(label, 'default')}]{escape(text)}[/]")
        before = label
    return table


_COLOURS = {"bottleneck": "cyan", "notes": "yellow", "uncertainty": "cyan", "accuracy": "dim"}


def _number(value: float | None) -> str:
    return "–" if value is None else significant(value)


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{significant(value)}×"


def _dollars(value: float | None) -> str:
    return "$–" if value is None else f"${significant(value)}"


def _joules(value: float | None) -> str:
    return short_quantity(value, "J")


def _watts(value: float | None) -> str:
    return short_quantity(value, "W")


def _throughput(values: _Values) -> str:
    return (
        f"{values('throughput.requests', _number, ' requests/s')} · "
        f"{values('throughput.output_tokens', _number, ' output tokens/s')} · "
        f"{values('throughput.total_tokens', _number, ' tokens/s in all')}"
    )


def _goodput(values: _Values) -> str:
    if not values.summary["goodput"]["slo"]:
        return ""
    rate, share = values("goodput.requests", _number, " requests/s"), values("goodput.share", percent)
    return f"{rate}, {share} of requests meet the whole SLO"


def _utilisation(values: _Values) -> str:
    """The sparse forms first: the plain ones count experts that no token visits. Without experts they are equal."""
    plain = [f"{label} {values(f'utilisation.{name}', percent)}" for name, label in (("mfu", "MFU"), ("mbu", "MBU"))]
    text = " · ".join(plain)
    if values.summary["experts"]["layers"]:
        sparse = " · ".join(
            f"{label} {values(f'utilisation.{name}', percent)}"
            for name, label in (("s_mfu", "S-MFU"), ("s_mbu", "S-MBU"))
        )
        text = f"{sparse} (as if all experts were used: {', '.join(plain)})"
    return f"{text} · steps run {values('utilisation.busy', percent)} of the time"


def _network(values: _Values) -> str:
    """Exposed communication and the busiest links; nothing where no bytes travelled."""
    network = values.summary["network"]
    if not network["busiest"]:
        return ""
    hidden = f", {values('network.hidden', short_time)} hidden" if network["hidden"] else ""
    waiting = f", {values('network.sharing', short_time)} of it on shared links" if network["sharing"] else ""
    distance = "" if network["distance"] is None else f" · {values('network.distance', _ratio)} the least time"
    links = [f"{each['link']} {percent(each['utilisation'])}" for each in network["busiest"][:3]]
    return (
        f"exposed communication {values('network.exposed_share', percent)} of step time{waiting}{hidden}{distance} · "
        f"busiest: {', '.join(links)}"
    )


def _experts(values: _Values) -> str:
    if not values.summary["experts"]["layers"]:
        return ""
    cache = ""
    if values.summary["experts"]["hit_rate"] is not None:
        cache = (
            f" · cache {values('experts.hit_rate', percent)} hits, {values('experts.fetched_ahead', percent)} fetched "
            f"ahead, {values('experts.on_host', percent)} on the host"
        )
    return (
        f"max/mean tokens: experts {values('experts.imbalance', _ratio)} within steps, "
        f"{values('experts.run_imbalance', _ratio)} over the run · "
        f"ranks {values('experts.rank_imbalance', _ratio)}{cache}"
    )


def _memory(values: _Values) -> str:
    memory = values.summary["memory"]
    text = (
        f"{memory_size(memory['weights'])} weights + {memory_size(memory['kv'])} KV cache of "
        f"{memory_size(memory['capacity'])} · KV use {values('memory.kv_mean', percent)} mean, "
        f"{values('memory.kv_peak', percent)} peak"
    )
    hits = values.value("requests.prefix_hit_rate")
    return text + (f" · prefix hits {values('requests.prefix_hit_rate', percent)}" if hits else "")


def _energy(values: _Values) -> str:
    energy = values.summary["energy"]
    total = energy["total"]
    shares = [(part, energy[part] / total) for part in ("idle", "compute", "memory", "link", "chassis") if total]
    parts = ", ".join(f"{part} {percent(share, 0)}" for part, share in shares if share >= 0.005)
    token = values("energy.per_output_token", _joules)
    return (
        f"{values('energy.total', _joules)} ({parts}) · {token} per output token · "
        f"{values('energy.average_power', _watts)} on average"
    )


def _cost(values: _Values) -> str:
    if values.value("cost.total") is None:
        return "no price known (set machine.price, such as '5 $/h')"
    million = values("cost.per_million_output_tokens", _dollars)
    return f"{values('cost.total', _dollars)} · {million} per million output tokens"


#: Fewer repeats do not tell sources of error apart.
FEWEST_EXPLAINED = 16

#: Metrics of which the summary says what makes them uncertain.
_EXPLAINED = {"tpot.mean": "TPOT", "ttft.mean": "TTFT", "throughput.output_tokens": "throughput"}


def _uncertainty(summary: Mapping[str, Any]) -> list[str]:
    """How wide the intervals are meant to be, and what they owe their width to."""
    found = summary.get("intervals")
    if not found:
        return []
    estimated = sum(source["origin"].startswith("estimated") for source in found["sources"].values())
    asked = f" (of {found['asked']}: interrupted)" if found["asked"] > found["repeats"] else ""
    lines = [
        f"{100 * found['level']:.0f} % intervals of {found['repeats']} repeated runs{asked}; "
        f"{estimated} of {len(found['sources'])} sources of error are estimates, the others measured"
    ]
    if found["repeats"] < FEWEST_EXPLAINED:
        return [*lines, f"fewer than {FEWEST_EXPLAINED} repeats do not tell which source makes them wide"]
    for name, label in _EXPLAINED.items():
        shares = list(found["contributions"].get(name, {}).items())
        largest = [f"{source} {percent(share, 0)}" for source, share in shares[:3] if share >= 0.05]
        if largest:
            lines.append(f"{label}: {', '.join(largest)}")
    return lines


def _accuracy(summary: Mapping[str, Any]) -> str:
    origins = [(device, origin) for device, kinds in summary["kernels"].items() for origin in kinds.values()]
    measured = [(device, origin.split()[0]) for device, origin in origins if origin != "datasheet"]
    said = MEASURED if measured else DATASHEET
    if any(device != other for device, other in measured):
        said += TRANSFERRED
    plain = {kind for kinds in summary["kernels"].values() for kind, origin in kinds.items() if origin == "datasheet"}
    if measured and plain & HEAVY:
        said += f"; {', '.join(sorted(plain & HEAVY))} by the datasheet, which may be off by a quarter and more"
    repeatable = not {"intervals", "training"} & set(summary)
    return said + (INTERVALS if repeatable else "")


def _remarks(results: Results) -> list[tuple[str, str]]:
    """Bottleneck, notes, uncertainty, caveat, and where the files are."""
    lines = [("bottleneck", line) for line in results.summary["bottleneck"]["lines"]]
    lines += [("notes", line) for line in results.summary["notes"]]
    lines += [("uncertainty", line) for line in _uncertainty(results.summary)]
    lines.append(("accuracy", _accuracy(results.summary)))
    return lines + _files(results)


def _files(results: Results) -> list[tuple[str, str]]:
    """Where the files are."""
    lines: list[tuple[str, str]] = []
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
