"""What `moesim reproduce` does: compute the claims of systems, draw their figures, keep both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moesim.reproduce.figures import Curve, curves
from moesim.reproduce.output import check_folder, write_folder
from moesim.reproduce.page import COMMAND, renew_page
from moesim.reproduce.systems import System, load_claims, papers
from moesim.spec.errors import MoesimError
from moesim.validate.cases import Setting
from moesim.validate.command import Report, keep
from moesim.validate.judge import Outcome, judge
from moesim.validate.page import page_path
from moesim.validate.recorded import Shelf


@dataclass(frozen=True)
class Reproduced:
    """A system, the outcome of each of its claims, and the curves of each of its figures."""

    system: System
    outcomes: list[Outcome]
    curves: list[list[Curve]]


def shelf() -> Shelf:
    """Where the outcomes of the library's systems are recorded."""
    return Shelf(papers() / "recorded", COMMAND)


def reproduce(
    names: Sequence[str],
    output: Callable[[str], Path],
    data: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Reproduced]:
    """Compute the claims and figures of systems, and write each one's folder.

    Args:
        names: of systems, or folders that hold one. output: the folder for a system. data: the folder of measured
            data, for the claims that need it. progress: told what is being computed.

    Raises:
        MoesimError: a system does not exist or is not valid, a claim cannot be computed, a folder cannot be written.
    """
    if data is not None and not data.is_dir():
        raise MoesimError(f"there is no folder {data}", fix="--data or MOESIM_DATA names the folder of measured data")
    systems = [load_claims(name) for name in names]
    for each in systems:
        check_folder(output(each.spec.name))
    done = []
    for system in systems:
        found = _reproduce(system, data, progress)
        write_folder(output(system.spec.name), system, found.outcomes, found.curves)
        done.append(found)
    return done


def _reproduce(system: System, data: Path | None, progress: Callable[[str], None] | None) -> Reproduced:
    setting, table = Setting(data, system.folder), shelf().read(system.spec.name)
    outcomes = judge(system.cases, setting, table.values, table.date, progress)
    drawn = []
    for figure in system.spec.figures:
        if progress is not None:
            progress(figure.title)
        try:
            drawn.append(curves(figure, setting))
        except MoesimError as failure:
            raise MoesimError(f"figure {figure.name!r}: {failure}") from None
    return Reproduced(system, outcomes, drawn)


def record(done: Sequence[Reproduced], data: Path | None) -> list[Path]:
    """Keep the outcomes as the recorded tables, and renew the page of the documentation from all of these.

    Raises:
        MoesimError: a system is none of the library, an outcome is itself a recorded one, or a file cannot be written.
    """
    page = page_path("reproduced")
    for each in done:
        if each.system.folder.resolve().parent != papers().resolve():
            raise MoesimError(f"{each.system.folder} is no system of the library", fix="record those of the library")
    paths = keep(shelf(), [Report(each.system.spec.name, each.outcomes) for each in done], data)
    renew_page(shelf(), page)
    return [*paths, page]
