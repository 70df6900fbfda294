"""`moesim reproduce`: published systems, claimed against simulated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from moesim.validate.judge import Outcome


@click.command("reproduce", short_help="Published systems: claimed against simulated.")
@click.argument("systems", nargs=-1, metavar="[SYSTEM]...")
@click.option("--all", "every", is_flag=True, help="Every system of the library.")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="DIR",
    help="For the table and the figures; of several systems, each in its own folder below. Default: results/papers.",
)  # fmt: skip
@click.option(
    "--data", type=click.Path(path_type=Path), envvar="MOESIM_DATA", metavar="DIR",
    help="The folder of measured data (or MOESIM_DATA), for the claims that need it.",
)  # fmt: skip
@click.option("--record", is_flag=True, help="Keep the outcomes: recorded tables and docs/reference/reproduced.md.")
@click.option("--sources", is_flag=True, help="Also print where each claim is from.")
def reproduce_command(
    systems: tuple[str, ...], every: bool, output: Path | None, data: Path | None, record: bool, sources: bool
) -> None:  # fmt: skip
    """Run SYSTEMs and compare what their papers claim with what is simulated.

    Without one, lists those that exist. Writes claims.csv and the paper's figures into results/papers/SYSTEM. A missed
    claim is a finding, not an error: the exit code stays 0.
    """
    from moesim.report.describe import console
    from moesim.reproduce.systems import system_names

    screen = console()
    if every and systems:
        raise click.UsageError("name systems, or give --all")
    names = system_names() if every else list(dict.fromkeys(systems))
    if not names:
        _list(screen)
        return
    from moesim.reproduce.command import record as keep
    from moesim.reproduce.command import reproduce
    from moesim.validate.console import print_outcomes

    def folder(name: str) -> Path:
        if output is None:
            return Path("results") / "papers" / name
        return output / name if every or len(names) > 1 else output

    with screen.status("reading claims") as status:
        done = reproduce(names, folder, data, lambda what: status.update(what))
    outcomes = [(each.system.spec.name, each.outcomes) for each in done]
    print_outcomes(screen, outcomes, sources=sources)
    _print_missed(screen, [outcome for each in done for outcome in each.outcomes])
    for each in done:
        screen.print(f"figures: {folder(each.system.spec.name)}")
    if record:
        for path in keep(done, data):
            screen.print(f"wrote {path}")


def _print_missed(screen: Console, outcomes: list[Outcome]) -> None:
    """Why predictions are missed."""
    from rich.text import Text

    for each in outcomes:
        if each.counts and not each.meets:
            screen.print(Text(f"missed: {each.case.name}: {each.case.note or 'not explained'}", style="yellow"))


def _list(screen: Console) -> None:
    """Every system, what it is, and how much of it was met when it was last recorded."""
    from rich import box
    from rich.table import Table

    from moesim.reproduce.command import shelf
    from moesim.reproduce.systems import load_claims, system_names
    from moesim.validate.command import recalled
    from moesim.validate.judge import tally

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in ("system", "what it is", "paper", "claims", "predictions met"):
        table.add_column(heading, overflow="fold")
    for name in system_names():
        system = load_claims(name)
        counted = tally(recalled(system.cases, shelf().read(name)))
        met = f"{counted.met} of {counted.predictions}" if counted.predictions else "not recorded"
        table.add_row(name, system.spec.title, system.spec.paper, str(len(system.cases)), met)
    screen.print(table)
    screen.print("moesim reproduce SYSTEM runs one, --all every one")
