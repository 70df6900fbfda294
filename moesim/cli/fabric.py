"""`moesim fabric`: one collective on a machine, size by size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moesim.cli.options import set_option

if TYPE_CHECKING:
    from moesim.fabric.carried import Fidelity
    from moesim.fabric.study import Collective

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "broadcast", "all-to-all", "send")
#: Ratio of neighbouring sizes in a range, and bytes of a chunk where none are given.
STEP, CHUNK = 4, "64KiB"


@click.command("fabric")
@click.argument("system")
@click.option("--collective", type=click.Choice(COLLECTIVES), default="all-to-all", show_default=True)
@click.option(
    "--sizes", default="1KB:1GB", show_default=True, metavar="FROM:TO|LIST",
    help="Bytes per device: a range in steps of four, or values such as 64KiB,1MB.",
)  # fmt: skip
@click.option("--devices", metavar="LIST", help="Ranks, such as 0-7,16; by default all.")
@click.option("--algorithm", default="auto", show_default=True, metavar="NAME", help="auto, ring, direct, tree, ...")
@click.option(
    "--fidelity", type=click.Choice(["bound", "flow", "chunk"]), default="bound", show_default=True,
    help="Busiest link; links shared max-min fair; store and forward.",
)  # fmt: skip
@click.option("--chunk", metavar="SIZE", help=f"Bytes stored and forwarded at once; by default {CHUNK}.")
@click.option(
    "--skew", type=float, metavar="X",
    help="All-to-all whose first device receives X times the mean, the others by a power of their rank.",
)  # fmt: skip
@click.option("--library", metavar="NAME", help="Measured times within a node: nccl, nccl-2.27, vllm-graph, ...")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw time and bus bandwidth by size.")
@set_option
def fabric_command(
    system: str,
    collective: Collective,
    sizes: str,
    devices: str | None,
    algorithm: str,
    fidelity: Fidelity,
    chunk: str | None,
    skew: float | None,
    library: str | None,
    plot: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Time a collective on a machine.

    SYSTEM is a name of the library, or a YAML file. Per size: time, bandwidth, algorithm, busiest link, and the
    distance to the least time that any algorithm needs.
    """
    from moesim.fabric.study import Study, library_protocol, popularity, system_fabric
    from moesim.report.bandwidth import check_format
    from moesim.report.collective import draw_study, print_study
    from moesim.report.describe import console

    if plot is not None:
        check_format(plot)
    asked, piece = parse_sizes(sizes), parse_size(chunk or CHUNK)
    machine, fabric = system_fabric(system, overrides)
    lanes = parse_devices(devices, fabric.topology.endpoints)
    study = Study(fabric, collective, lanes, algorithm, fidelity, piece)
    if skew is not None and collective == "all-to-all":
        study.shares = popularity(len(lanes), skew)
    if library is not None:
        study.protocol = library_protocol(machine, library)
    answers = study.answers(asked)
    screen = console()
    print_study(screen, study, answers, notes=idle_options(collective, fidelity, chunk, skew, library))
    if plot is not None:
        screen.print(f"figure: {draw_study(study, answers, plot)}")


def parse_size(text: str) -> float:
    """Bytes: '1KB', '64 KiB', '1 GB'.

    Raises:
        MoesimError: it is no positive size.
    """
    from moesim.spec.errors import MoesimError
    from moesim.spec.units import parse

    try:
        size = parse(text.strip().replace("KB", "kB"), "byte")
    except ValueError as error:
        raise MoesimError(f"--sizes or --chunk: {error}", fix="write a size like 64KiB or 1MB") from None
    if not 0 < size < float("inf"):
        raise MoesimError(f"a size of {text} moves nothing", fix="give more than 0 bytes")
    return size


def parse_sizes(text: str) -> list[float]:
    """'1KB:1GB' in steps of four, both ends included; or '64KiB,1MB'."""
    from moesim.spec.errors import MoesimError

    first, colon, last = text.partition(":")
    if not colon:
        return [parse_size(part) for part in text.split(",")]
    low, high = parse_size(first), parse_size(last)
    if low > high:
        raise MoesimError(f"--sizes {text}: the range is empty", fix=f"write {last}:{first}")
    sizes = [low]
    while sizes[-1] * STEP < high:
        sizes.append(sizes[-1] * STEP)
    return [*sizes, high] if high > low else sizes


def parse_devices(text: str | None, count: int) -> list[int]:
    """'0-7,16': ranks; all of them where nothing is said."""
    from moesim.spec.errors import MoesimError

    if text is None:
        return list(range(count))
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise MoesimError(f"--devices: {part!r} is no rank or range of ranks", fix="write them like 0-7,16")
        found += range(int(first), int(last if dash else first) + 1)
    return found


def idle_options(
    collective: str, fidelity: str, chunk: str | None, skew: float | None, library: str | None
) -> list[str]:  # fmt: skip
    """Options that were given and change nothing, in words."""
    notes = []
    if chunk is not None and fidelity != "chunk":
        notes.append(f"--chunk changes nothing at fidelity {fidelity}")
    if skew is not None and collective != "all-to-all":
        notes.append("--skew changes nothing but an all-to-all")
    if library is not None and fidelity != "bound":
        notes.append(f"--library changes nothing at fidelity {fidelity}: measured times know no flows or chunks")
    return notes
