"""The folder of a reproduced system: its claims as a table, and its figures."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from moesim.reproduce.figures import Curve, draw_figures
from moesim.reproduce.systems import System
from moesim.spec.errors import MoesimError
from moesim.validate.judge import Outcome
from moesim.validate.wording import known, verdict

_COLUMNS = ("claim", "known", "reference", "simulated", "unit", "error", "tolerance", "status", "verdict", "source")


def check_folder(folder: Path) -> None:
    """Check, before anything is computed, that the folder can be written; creates nothing.

    Raises:
        MoesimError: it is a file, or nothing may be written there.
    """
    if folder.exists() and not folder.is_dir():
        raise MoesimError(f"{folder} is a file", fix="choose another --output")
    above = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise MoesimError(f"{folder} cannot be written in {above}", fix="choose another --output")


def write_folder(
    folder: Path, system: System, outcomes: Sequence[Outcome], curves: Sequence[Sequence[Curve]]
) -> list[Path]:  # fmt: skip
    """Write claims.csv (values in SI, errors relative) and the figures, over those of an earlier time.

    Raises:
        MoesimError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".draft.", dir=folder) as draft:  # each file whole or not at all
            table = Path(draft) / "claims.csv"
            with table.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(_COLUMNS)
                writer.writerows(_row(each) for each in outcomes)
            paths = [table, *draw_figures(system, curves, Path(draft))]
            return [path.replace(folder / path.name) for path in paths]
    except OSError as error:
        raise MoesimError(f"cannot write {folder}: {error.strerror}", fix="choose another --output") from None


def _row(outcome: Outcome) -> tuple[object, ...]:
    case = outcome.case
    return (
        case.name, known(outcome), outcome.reference, outcome.simulated, outcome.unit, outcome.error, case.tolerance,
        case.status, verdict(outcome), case.source,
    )  # fmt: skip
