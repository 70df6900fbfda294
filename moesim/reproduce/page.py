"""The page of the documentation with the claims of all systems: written from what was recorded, never edited."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moesim.reproduce.systems import load_claims, system_names
from moesim.validate.command import recalled
from moesim.validate.judge import Outcome, tally
from moesim.validate.page import section, write_page
from moesim.validate.recorded import Shelf

COMMAND = "moesim reproduce --all --record"

_HEAD = """\
# Reproduced systems

Published systems, built from descriptors, policies and experiments below `experiments/papers/`: what each paper claims
beside what `moesim reproduce` finds. Only predictions count; what set a parameter is marked as fitted, what follows
from the inputs alone as given. A claim that is missed says why.

"""


def renew_page(shelf: Shelf, page: Path) -> None:
    """Write the page from the recorded tables of the library's systems."""
    sections = []
    heading = "| system | what it is | predictions met | fitted | given | reported |"
    lines = [heading, "| --- | --- | --: | --: | --: | --: |"]
    for name in system_names():
        table = shelf.read(name)
        if not table.values:
            continue
        system = load_claims(name)
        counted = tally(recalled(system.cases, table))
        met = f"{counted.met} of {counted.predictions}"
        others = f"{counted.fitted} | {counted.given} | {counted.reported}"
        lines.append(f"| [{name}](#{name}) | {system.spec.title} | {met} | {others} |")
        about = f"{system.spec.title}: {system.spec.paper}.".replace("..", ".")
        outcomes = recalled(system.cases, table)
        text = section(name, f"{about} {system.spec.description}".strip(), outcomes, table)
        sections.append(text + _more(system.spec.free, outcomes))
    write_page(page, ["\n".join([*lines, ""]), *sections], _HEAD, COMMAND)


def _more(free: dict[str, str], outcomes: Sequence[Outcome]) -> str:
    """Free parameters, and why claims are missed."""
    lines = ["", "Free parameters:", "", *(f"- {name}: {text}" for name, text in free.items())] if free else []
    missed = [(each.case.name, each.case.note) for each in outcomes if each.counts and not each.meets]
    if missed:
        lines += ["", "Missed:", "", *(f"- {name}: {note or 'not explained'}" for name, note in missed)]
    return "\n".join([*lines, ""]) if lines else ""
