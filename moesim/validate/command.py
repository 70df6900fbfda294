"""What `moesim validate` does: read suites, compute, compare with what was recorded, record."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moesim import __version__
from moesim.spec.errors import MoesimError
from moesim.validate.cases import Setting
from moesim.validate.judge import Outcome, judge, recall
from moesim.validate.page import page_path, section, write_page
from moesim.validate.recorded import Shelf, Table, as_table
from moesim.validate.suites import Ready, folder, load_suite, suite_names


@dataclass(frozen=True)
class Report:
    """The outcomes of a suite."""

    name: str
    outcomes: list[Outcome]


def validate_suites(
    names: Sequence[str], data: Path | None = None, progress: Callable[[str], None] | None = None
) -> list[Report]:  # fmt: skip
    """The outcomes of suites (names or YAML files), from measured data where its folder is given.

    Raises:
        MoesimError: a suite does not exist or is not valid, the folder is none, or a case cannot be computed.
    """
    if data is not None and not data.is_dir():
        raise MoesimError(f"there is no folder {data}", fix="--data or MOESIM_DATA names the folder of measured data")
    shelf, reports = Shelf(folder() / "recorded"), []
    for name in names:
        suite, cases = load_suite(name)
        table = shelf.read(suite.name)
        outcomes = judge(cases, Setting(data), table.values, table.date, progress)
        reports.append(Report(suite.name, outcomes))
    return reports


def record(reports: Sequence[Report], data: Path | None) -> list[Path]:
    """Keep the outcomes as the recorded tables, and renew the page of the documentation from all of these.

    Raises:
        MoesimError: an outcome is itself a recorded one, or a file cannot be written.
    """
    shelf, page = Shelf(folder() / "recorded"), page_path()
    paths = keep(shelf, reports, data)
    renew_page(shelf, page)
    return [*paths, page]


def keep(shelf: Shelf, reports: Sequence[Report], data: Path | None) -> list[Path]:
    """Put the outcomes on the shelf, all or none.

    Raises:
        MoesimError: as `record`.
    """
    today = datetime.date.today().isoformat()
    tables = []
    for report in reports:
        old = next((each.case.name for each in report.outcomes if each.recorded), None)
        if old is not None:
            raise MoesimError(f"case {old!r} was not computed now", fix="give --data, the folder it reads")
        needed = {name for each in report.outcomes for name in each.case.data}
        files = {name: Setting(data).file(name) for name in needed}
        tables.append(as_table(report.name, report.outcomes, files, today, __version__))
    return [shelf.write(table) for table in tables]


def renew_page(shelf: Shelf, page: Path) -> None:
    """Write the page from the recorded tables of the library's suites."""
    sections = []
    for name in suite_names():
        table = shelf.read(name)
        if table.values:
            suite, cases = load_suite(name)
            sections.append(section(suite.name, suite.description, recalled(cases, table), table))
    write_page(page, sections)


def recalled(cases: Sequence[Ready], table: Table) -> list[Outcome]:
    """The cases that were recorded, as they were, whether they needed data or not."""
    return [
        recall(ready, table.values[ready.case.name], table.date if ready.case.data else "")
        for ready in cases
        if ready.case.name in table.values
    ]
