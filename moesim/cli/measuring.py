"""`moesim calibrate run` and `steps`: measure a machine, and see whether its kernels add up to whole steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from moesim.spec.base import Dtype

#: Tables of moesim.calibrate.benchmarks.cases, which is not imported before it is needed.
TABLES = (
    "gemm", "moe", "attention_prefill", "attention_decode", "elementwise", "memcpy", "storage", "collective", "steps",
)  # fmt: skip


@click.command("run", short_help="Measure this machine with PyTorch.")
@click.option("--device", required=True, metavar="NAME", help="What this machine's CPU or GPU is in the library.")
@click.option(
    "--model", "models", multiple=True, default=("olmoe-1b-7b",), show_default=True, metavar="NAME",
    help="Whose shapes are measured; may be repeated.",
)  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Default: calibrations/<device>.")
@click.option(
    "--table", "tables", type=click.Choice(TABLES), multiple=True, help="Measure only these; may be repeated."
)  # fmt: skip
@click.option("--dtype", type=click.Choice(["bf16", "fp16", "fp32"]), default="bf16", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of PyTorch on a CPU.")
@click.option("--budget", metavar="TIME", help="Stop after so long, such as 60s or 10min; by default all is measured.")
def run_benchmarks_command(
    device: str,
    models: tuple[str, ...],
    output: Path | None,
    tables: tuple[str, ...],
    dtype: Dtype,
    threads: int,
    budget: str | None,
) -> None:
    """Time the kernels, transfers, layers and steps of models on this machine.

    Needs PyTorch (pip install 'moesim[calibrate]'). Run again, it goes on with what is missing: Ctrl-C and --budget
    lose nothing.
    """
    from moesim.calibrate.benchmarks.console import measuring
    from moesim.calibrate.benchmarks.run import Request, Tally, run_benchmarks
    from moesim.report.describe import console

    folder = output if output is not None else Path("calibrations") / Path(device).stem
    request = Request(
        device, models, folder, dtype, threads, tables or TABLES, None if budget is None else parse_budget(budget)
    )  # fmt: skip
    screen, tally = console(), Tally()
    try:
        with measuring(screen) as progress:
            run_benchmarks(request, tally, progress)
    finally:
        if tally.rows:
            screen.print(f"{tally.rows} rows measured, kept in {folder}")
    if tally.failures:
        screen.print(f"{len(tally.failures)} cases could not be measured, the first: {tally.failures[0]}")
    if tally.left:
        screen.print(f"{tally.left} cases are left; the same command goes on with them")


def parse_budget(text: str) -> float:
    """Seconds: '60s', '10 min'.

    Raises:
        MoesimError: it is no positive time.
    """
    from moesim.spec.errors import MoesimError
    from moesim.spec.units import parse

    try:
        seconds = parse(text.strip(), "second")
    except ValueError as error:
        raise MoesimError(f"--budget: {error}", fix="write a time like 60s or 10min") from None
    if not 0 < seconds < float("inf"):
        raise MoesimError(f"--budget {text} leaves no time to measure", fix="give more than 0 s")
    return seconds


@click.command("steps", short_help="Whole steps from measured kernels alone.")
@click.argument("folder")
@click.option("--model", "models", multiple=True, metavar="FILE", help="A measured model that is not in the library.")
def steps_command(folder: str, models: tuple[str, ...]) -> None:
    """Fit the kernels in FOLDER, which `moesim calibrate run` wrote, and predict the layers and steps in it.

    The name of a device stands for its measurements that come with moesim. Steps are not fitted: their error is what a
    run's prices add up to.
    """
    from moesim.calibrate.benchmarks.console import print_steps
    from moesim.calibrate.whole_steps import measured_folder, whole_steps
    from moesim.report.describe import console

    screen = console()
    with screen.status("fitting") as status:
        report = whole_steps(measured_folder(folder), models, lambda name: status.update(f"fitting {name}"))
    print_steps(screen, report)


COMMANDS = (run_benchmarks_command, steps_command)
