"""What every importer shares: where files are, which columns they need, and the frame of a tidy table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from moesim.spec.errors import MoesimError, Where

if TYPE_CHECKING:
    import pandas as pd

#: Tidy tables by class of kernels.
Tables: TypeAlias = "dict[str, pd.DataFrame]"

MICROSECONDS = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}

#: How a file begins that Git LFS has not fetched.
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Profile:
    """What an importer is handed: the folder or file, the device's name, and the stack where the user gave one."""

    path: Path
    device: str
    stack: str | None = None

    def files(self, *names: str) -> list[Path]:
        """Files of these names (patterns) at or below the path, in order.

        Raises:
            MoesimError: the path does not exist.
        """
        if self.path.is_file():
            return [self.path] if any(self.path.match(name) for name in names) else []
        if not self.path.is_dir():
            raise MoesimError(f"there is no {self.path}", fix="name the folder or file that holds the profile")
        return sorted({path for name in names for path in self.path.rglob(name) if path.is_file()})


Read = Callable[[Profile], "Tables"]
ReadT = TypeVar("ReadT", bound=Read)


@dataclass(frozen=True)
class Format:
    """A registered importer. files: what it looks for, in words."""

    name: str
    files: str
    read: Read


FORMATS: dict[str, Format] = {}


def importer(name: str, files: str) -> Callable[[ReadT], ReadT]:
    """Decorator: the function reads the profiles of the simulator of this name."""

    def keep(function: ReadT) -> ReadT:
        FORMATS[name] = Format(name, files, function)
        return function

    return keep


def read_columns(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    """A CSV or Parquet file with at least these columns.

    Raises:
        MoesimError: it is no table, or lacks a column; a pointer of Git LFS in its place is recognised.
    """
    import pandas as pd

    place = Where(str(path))
    with path.open("rb") as file:
        pointer = file.read(len(_POINTER)) == _POINTER
    if pointer:
        raise MoesimError("this is a pointer of Git LFS, not the table", where=place, fix="run git lfs pull there")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, low_memory=False)
    except (ValueError, OSError) as error:  # pandas: EmptyDataError, ParserError; pyarrow: ArrowInvalid
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MoesimError(f"this is no table: {line}", where=place, fix="give CSV or Parquet") from None
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise MoesimError(f"the column {missing[0]!r} is missing", where=place, fix=f"it needs {', '.join(needed)}")
    return table


def tidy(columns: Mapping[str, object], *, time: pd.Series[float], unit: str) -> pd.DataFrame:
    """The rows whose time is given, in microseconds; `unit` is the source's."""
    import pandas as pd

    table = pd.DataFrame({**columns, "latency_us": pd.to_numeric(time, errors="coerce") * MICROSECONDS[unit]})
    return table[table["latency_us"].notna()].reset_index(drop=True)


def add(tables: Tables, kind: str, part: pd.DataFrame) -> None:
    """Append rows to a class's table."""
    import pandas as pd

    if len(part):
        tables[kind] = pd.concat([tables[kind], part], ignore_index=True) if kind in tables else part
