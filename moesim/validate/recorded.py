"""What was found where the measured data was at hand: one table per suite, with date and hashes of the data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.spec.base import Schema
from moesim.spec.complaints import validate
from moesim.spec.errors import MoesimError
from moesim.spec.marked import read_yaml

if TYPE_CHECKING:
    from moesim.validate.judge import Outcome


#: Relative errors below this are rounding.
ROUNDING = 1e-12


class Entry(Schema):
    """A recorded answer; as `Found`, values in the kind's SI unit."""

    simulated: float | None = None
    reference: float | None = None
    error: float
    rows: int = 1
    detail: str = ""


class Table(Schema):
    """The recorded answers of a suite. data: the first 16 hexadecimal digits of each file's SHA-256."""

    suite: str
    date: str
    version: str
    data: dict[str, str] = {}
    values: dict[str, Entry] = {}


@dataclass(frozen=True)
class Shelf:
    """The folder of recorded tables, and the command that writes them."""

    folder: Path
    command: str = "moesim validate --record"

    def path(self, suite: str) -> Path:
        return self.folder / f"{suite}.yaml"

    def read(self, suite: str) -> Table:
        """The table of a suite; an empty one where nothing was recorded.

        Raises:
            MoesimError: the file is not valid.
        """
        path = self.path(suite)
        if not path.is_file():
            return Table(suite=suite, date="", version="")
        return validate(Table, read_yaml(path))

    def write(self, table: Table) -> Path:
        """Replace the table of a suite.

        Raises:
            MoesimError: the file cannot be written.
        """
        import yaml

        head = f"# Written by `{self.command}`; not edited by hand.\n"
        document = table.model_dump(exclude_defaults=True)
        text = head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
        path = self.path(table.suite)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise MoesimError(f"cannot write {path}: {error.strerror}") from None
        return path


def fingerprint(path: Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def as_table(suite: str, outcomes: Sequence[Outcome], files: Mapping[str, Path], date: str, version: str) -> Table:
    """The outcomes of a suite as they are recorded, values to twelve digits, errors to three.

    Raises:
        MoesimError: a case has no answer.
    """
    values = {}
    for each in outcomes:
        if each.error is None:
            raise MoesimError(f"case {each.case.name!r} has no answer to record", fix="give its folder with --data")
        values[each.case.name] = Entry(
            simulated=_rounded(each.simulated),
            reference=_rounded(each.reference),
            error=float(f"{each.error:.3g}") if abs(each.error) > ROUNDING else 0.0,
            rows=each.rows,
            detail=each.detail,
        )
    prints = {name: fingerprint(path) for name, path in sorted(files.items())}
    return Table(suite=suite, date=date, version=version, data=prints, values=values)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.12g}")
