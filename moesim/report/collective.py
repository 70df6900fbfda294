"""What `moesim fabric` says about a collective: a table by size, a summary, a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moesim.fabric.study import Answer, Study, bus_factor
from moesim.report.bandwidth import SizeCurve, draw_bus_bandwidth
from moesim.report.text import count, percent, short_quantity, short_time, significant

if TYPE_CHECKING:
    from rich.console import Console

#: Heading of each column, and whether it is a number.
_COLUMNS = (
    ("size", True), ("time", True), ("algorithm", False), ("alg. bandwidth", True), ("bus bandwidth", True),
    ("least time", True), ("distance", True), ("used", True), ("busiest link", False),
)  # fmt: skip


def headline(study: Study) -> str:
    """'all-to-all over 8 devices of dgx-h100, fidelity bound'."""
    group = f"{count(len(study.devices), 'device')} of {study.fabric.topology.name}"
    text = f"{study.collective} over {group}, fidelity {study.fidelity}"
    if study.fidelity == "chunk":
        text += f" in chunks of {short_quantity(study.chunk, 'B')}"
    if study.shares is not None:
        text += f", the first receives {significant(float(study.shares.max() * len(study.shares)))} times the mean"
    return text


def print_study(screen: Console, study: Study, answers: Sequence[Answer], notes: Sequence[str] = ()) -> None:
    """A row per size, and what is to be known about all of them."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(headline(study), style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        padding=(0, 1),
    )  # fmt: skip
    links = list(dict.fromkeys(_link(each) for each in answers if each.busiest))
    columns = _COLUMNS if len(links) > 1 else _COLUMNS[:-1]
    for heading, number in columns:
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for each in answers:
        table.add_row(*_cells(each)[: len(columns)])
    screen.print(table)
    if len(links) == 1:
        screen.print(Text(f"busiest link: {links[0]}"))
    if study.protocol is not None and study.fidelity == "bound":
        speaks = study.protocol.library in {each.algorithm for each in answers}
        about = f"times: {study.protocol.origin}" if speaks else _silent(study)
        screen.print(Text(about, style="dim"))
    for note in notes:
        screen.print(Text(f"note: {note}", style="yellow"))


def _silent(study: Study) -> str:
    assert study.protocol is not None
    return f"note: {study.protocol.library} was not measured for this; the times are the closed form's"


def _link(answer: Answer) -> str:
    return answer.busiest + (f" (and {answer.alike} alike)" if answer.alike else "")


def _cells(answer: Answer) -> list[str]:
    known = not math.isnan(answer.bound)
    return [
        short_quantity(answer.size, "B"),
        short_time(answer.seconds),
        answer.algorithm,
        short_quantity(answer.algorithm_bandwidth, "B/s"),
        short_quantity(answer.bus_bandwidth, "B/s"),
        short_time(answer.bound),
        f"{significant(answer.distance)}×" if known else "–",
        percent(answer.utilisation),
        _link(answer),
    ]


def draw_study(study: Study, answers: Sequence[Answer], target: Path) -> Path:
    """Time and bus bandwidth against size, beside the least time.

    Raises:
        MoesimError: the file cannot be written.
    """
    size = np.array([each.size for each in answers])
    seconds, least = np.array([each.seconds for each in answers]), np.array([each.bound for each in answers])
    factor = bus_factor(study.collective, len(study.devices))
    name = study.fidelity if study.protocol is None or study.fidelity != "bound" else study.protocol.library
    curve = SizeCurve(name, size, seconds, factor * size / seconds)
    bound = None if np.isnan(least).any() else SizeCurve("least time", size, least, factor * size / least)
    algorithms = ", ".join(dict.fromkeys(each.algorithm for each in answers))
    return draw_bus_bandwidth(target, headline(study), f"algorithm: {algorithms}", [curve], bound=bound)
