"""What a person sees of a training step: the console summary, figures, the timeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import moesim
from moesim.engine.trained import TrainingRecord
from moesim.report.style import BLUE, COLOURS, GREY, HEADER, ORANGE, PURPLE, SKY, canvas, key, panel, time_unit
from moesim.report.text import count, memory_size, percent, short_quantity, short_time, significant
from moesim.report.timeline import DEVICES_PROCESS, Event, nanoseconds, node_events, process, slice_event, track
from moesim.report.timeline import write as write_trace
from moesim.results.tables import ENERGY_PARTS
from moesim.results.training import MEMORY_PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Console

    from moesim.results import Results

#: Passes that a figure draws one by one; of more, the first.
MOST_PASSES = 4000
_PARTS = {"weight": BLUE, "gradient": SKY, "optimizer": ORANGE, "activation": PURPLE, "workspace": GREY}


def facts(results: Results) -> list[tuple[str, str]]:
    """What there is to say of the step, a line per subject."""
    summary = results.summary
    step, use, memory, energy = (summary[name] for name in ("training", "utilisation", "memory", "energy"))
    pipeline = f"{step['schedule']} · {count(step['stages'], 'stage')}"
    pipeline += f" of {step['chunks']} chunks" if step["chunks"] > 1 else ""
    pipeline += f" · {step['micro_batches']} micro-batch{'' if step['micro_batches'] == 1 else 'es'}"
    pipeline += f", activations of at most {step['in_flight']} kept" + (" (by chunk)" if step["chunks"] > 1 else "")
    pipeline += f" · bubble {percent(step['bubble'])}"
    if step["bubble_formula"] is not None:
        pipeline += f" ({percent(step['bubble_formula'])} with equal stages and free sending)"
    parts = ", ".join(f"{name} {memory_size(memory[name])}" for name in MEMORY_PARTS if memory[name])
    shares = ", ".join(
        f"{part} {percent(energy[part] / energy['total'], 0)}" for part in (*ENERGY_PARTS, "chassis") if energy[part]
    )
    cost = summary["cost"]["per_million_tokens"]
    lines = [
        ("throughput", f"{significant(step['tokens_per_second'])} tokens/s · {step['tokens']:,} tokens per step"),
        ("pipeline", pipeline),
        ("utilisation", f"MFU {percent(use['mfu'])} · HFU {percent(use['hfu'])} · computing {percent(use['compute'])}, "
         f"communicating {percent(use['network'])}, copying {percent(use['copy'])} of the time"),
        ("network", _network(summary)),
        ("experts", _experts(summary)),
        ("memory", f"{memory_size(memory['total'])} of {memory_size(memory['capacity'])} on {memory['device']}: "
         f"{parts}"),
        ("energy", f"{short_quantity(energy['total'], 'J')} ({shares}) · "
         f"{short_quantity(energy['per_token'], 'J')} per token · "
         f"{short_quantity(energy['average_power'], 'W')} on average"),
        ("cost", "no price known (set machine.price, such as '5 $/h')" if cost is None
         else f"${significant(cost)} per million tokens"),
        *(("bottleneck", line) for line in summary["bottleneck"]["lines"]),
        *(("notes", line) for line in summary["notes"]),
    ]  # fmt: skip
    return [(label, text) for label, text in lines if text]


def _network(summary: dict[str, Any]) -> str:
    network = summary["network"]
    if not network["busiest"]:
        return ""
    links = ", ".join(f"{each['link']} {percent(each['utilisation'])}" for each in network["busiest"][:3])
    return f"exposed communication {percent(network['exposed_share'])} of the critical path · busiest: {links}"


def _experts(summary: dict[str, Any]) -> str:
    if not summary["experts"]["layers"]:
        return ""
    copies = summary["training"]["copies_per_token"]
    return f"max/mean tokens of experts {significant(summary['experts']['imbalance'])}× · {copies:.2f} copies per token"


def print_training(results: Results, output: Console, width: int, where: list[tuple[str, str]]) -> None:
    """Print the summary of a training step. where: what else is to be said, and where the files are."""
    from rich.markup import escape
    from rich.table import Table

    output.print(f"[bold]{escape(results.name)}[/]  a training step takes {short_time(results.summary['duration'])}\n")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for label, text in [*facts(results), *where]:
        table.add_row(label, escape(text))
    output.print(table, width=width)


def pipeline(results: Results) -> Figure:
    """The passes of every stage over time."""
    tasks, step = results.table("tasks"), results.summary["training"]
    stages, shown = step["stages"], tasks.head(MOST_PASSES)
    body = float(np.clip(0.34 * stages, 0.9, 5.0))
    formula = "" if step["bubble_formula"] is None else f", {percent(step['bubble_formula'])} by formula"
    subtitle = f"{results.name} · {step['schedule']}, bubble {percent(step['bubble'])}{formula}"
    figure = canvas(10.2, body + HEADER + 0.95, "Pipeline", subtitle)
    axes = panel(figure, 0.75, 0.55, 9.2, body)
    scale, unit = time_unit(results.summary["duration"])
    for backward, name, colour in ((0, "forward", SKY), (1, "backward", ORANGE)):
        mine = shown[shown["backward"] == backward]
        for chunk in range(step["chunks"]):
            part = mine[mine["chunk"] == chunk]
            shade = 0.45 + 0.55 * (chunk + 1) / step["chunks"]
            axes.barh(
                part["stage"], part["duration"] * scale, left=part["start"] * scale, height=0.82, color=colour,
                alpha=shade, edgecolor="white", linewidth=0.4, label=name if chunk == step["chunks"] - 1 else None,
            )  # fmt: skip
    axes.set(xlabel=f"time ({unit})", ylabel="stage", xlim=(0, results.summary["duration"] * scale))
    axes.set_yticks(range(stages))
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    key(axes, 2)
    return figure


def memory(results: Results) -> Figure:
    """What every device keeps, and what it has."""
    devices = results.devices
    devices = devices[devices["stage"] >= 0]
    figure = canvas(10.2, 3.4, "Memory", f"{results.name} · at the fullest moment of the step")
    axes = panel(figure, 0.75, 0.55, 9.2, 1.9)
    place, bottom = np.arange(len(devices)), np.zeros(len(devices))
    for part, colour in _PARTS.items():
        size = devices[f"{part}_bytes"].to_numpy() / 1e9
        axes.bar(place, size, bottom=bottom, color=colour, width=0.85, label=part)
        bottom += size
    limit = devices["capacity_bytes"].to_numpy() / 1e9
    edges = np.append(place, len(place)) - 0.5
    axes.step(edges, np.append(limit, limit[-1]), where="post", color=GREY, label="capacity")
    axes.set(xlabel="device", ylabel="GB", xlim=(-0.5, len(place) - 0.5))
    axes.grid(False, axis="x")
    key(axes, 6)
    return figure


def critical(results: Results) -> Figure:
    """The operators on the critical path, by what bounds them."""
    table = results.operators.head(14)
    height = 0.24 * len(table) + HEADER + 0.9
    figure = canvas(10.2, height, "Critical path", f"{results.name} · what the step waits for")
    axes = panel(figure, 2.4, 0.5, 7.5, 0.24 * len(table))
    scale, unit = time_unit(float(table["seconds"].max()))
    _stacked(axes, table, scale)
    axes.set(xlabel=f"time ({unit})")
    axes.set_yticks(range(len(table)), labels=list(table["name"]))
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    key(axes, 4)
    return figure


def _stacked(axes: Axes, table: Any, scale: float) -> None:
    left = np.zeros(len(table))
    for bound in ("compute", "memory", "network", "overhead"):
        seconds = table[f"{bound}_seconds"].to_numpy() * scale
        axes.barh(np.arange(len(table)), seconds, left=left, color=COLOURS[bound], height=0.8, label=bound)
        left += seconds


#: File stem -> how to draw it.
TRAINING_FIGURES = {"pipeline": pipeline, "memory": memory, "critical-path": critical}


def training_trace(record: TrainingRecord, name: str, seed: int | None) -> dict[str, Any]:
    """The step in the Chrome trace event format: the passes of every stage, and what its devices run."""
    about: dict[str, Any] = {"name": name, "version": moesim.__version__, "seed": seed, "simulated_seconds": record.end}
    events = [*_passes(record), *node_events(record.timeline(), record.devices, about)]
    return {"displayTimeUnit": "ms", "otherData": about, "traceEvents": events}


def _passes(record: TrainingRecord) -> Iterator[Event]:
    tasks, pid = record.tasks, DEVICES_PROCESS - 1
    yield from process(pid, "pipeline")
    for stage in range(record.stages):
        yield from track(pid, stage + 1, f"stage {stage}")
    start, end = nanoseconds(tasks["start"]), nanoseconds(tasks["end"])
    for i in range(len(start)):
        stage, number, chunk = (int(tasks[column][i]) for column in ("stage", "micro_batch", "chunk"))
        kind = "backward" if tasks["backward"][i] else "forward"
        args = {"micro_batch": number, "chunk": chunk}
        yield slice_event(pid, stage + 1, f"{kind[0].upper()}{number}", kind, int(start[i]), int(end[i]), args)


def write_training_timeline(record: TrainingRecord, path: Path, name: str, seed: int | None) -> Path:
    """Write the trace, compressed; Perfetto opens it as it is. Equal runs give equal bytes."""
    return write_trace(training_trace(record, name, seed), path)
