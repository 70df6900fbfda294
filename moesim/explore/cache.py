"""Outcomes on disk, so that no point is computed twice: one SQLite file, to which every finished point is committed."""

from __future__ import annotations

import math
import os
import sqlite3
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from moesim.explore.points import Outcome, Status
from moesim.spec.errors import MoesimError

#: Of the file's tables; changes when a reader of the old one would fail.
FORMAT = 1
_TABLES = """
create table if not exists outcomes (key text primary key, status text, reason text, names text, numbers blob);
create table if not exists shortcuts (key text primary key, resolved text not null) without rowid;
"""
_OUTCOME = "status, reason, names, numbers"
#: Keys that one query asks for.
_AT_ONCE = 500


def default_folder() -> Path:
    """`MOESIM_CACHE`, or the user's cache folder."""
    given = os.environ.get("MOESIM_CACHE")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "moesim"


class Cache:
    """Outcomes by key of the resolved experiment, and shortcuts to these from keys of points as written."""

    def __init__(self, folder: Path | None = None) -> None:
        """Raises MoesimError where the file cannot be made, or another version wrote it."""
        self.path = (default_folder() if folder is None else folder) / "points.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MoesimError(f"cannot make the cache {self.path.parent}: {error.strerror}", fix=_ELSEWHERE) from None
        with self._speaking():
            self._database = sqlite3.connect(self.path, timeout=30)
            version = self._database.execute("pragma user_version").fetchone()[0]
            if version not in (0, FORMAT):
                raise MoesimError(
                    f"the cache {self.path} is of another version ({version}, not {FORMAT})", fix="remove the file"
                )
            self._database.execute("pragma journal_mode=wal")
            self._database.execute("pragma synchronous=normal")
            self._database.executescript(f"{_TABLES} pragma user_version={FORMAT};")

    def close(self) -> None:
        self._database.close()

    def outcomes(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """The outcomes that are known, by key."""
        rows = self._select(f"select key, {_OUTCOME} from outcomes where key in ({{}})", keys)
        return {key: _outcome(*row) for key, *row in rows}

    def through_shortcuts(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """The same, by the keys of points as written."""
        joined = "shortcuts s join outcomes o on o.key = s.resolved"
        rows = self._select(f"select s.key, {_OUTCOME} from {joined} where s.key in ({{}})", keys)
        return {key: _outcome(*row) for key, *row in rows}

    def keep(self, key: str, outcome: Outcome) -> None:
        """Raises MoesimError where the disk is full; what was kept before stays."""
        names = list(dict.fromkeys(name for row in outcome.rows for name in row))
        numbers = array("d", [row.get(name, math.nan) for row in outcome.rows for name in names])
        row = (key, outcome.status, outcome.reason, "\n".join(names), numbers.tobytes())
        with self._speaking(), self._database:
            self._database.execute("insert or replace into outcomes values (?, ?, ?, ?, ?)", row)

    def keep_shortcuts(self, shortcuts: Mapping[str, str]) -> None:
        with self._speaking(), self._database:
            self._database.executemany("insert or replace into shortcuts values (?, ?)", shortcuts.items())

    def _select(self, query: str, keys: Sequence[str]) -> Iterator[Any]:
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            with self._speaking():
                yield from self._database.execute(query.format(",".join("?" * len(some))), some)

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Errors of the database as a user's message."""
        try:
            yield
        except sqlite3.Error as error:
            fix = "free space and run the same again" if "full" in str(error) else _ELSEWHERE
            raise MoesimError(f"the cache {self.path}: {error}; what it holds is not lost", fix=fix) from None


_ELSEWHERE = "name another folder in MOESIM_CACHE"


@lru_cache(maxsize=64)
def _names(text: str) -> list[str]:
    return text.split("\n") if text else []


def _outcome(status: Status, reason: str, names: str, numbers: bytes) -> Outcome:
    """From the columns of a row: metrics that no row defines and those that are not a number are NaN alike."""
    known, values = _names(names), array("d", numbers)
    width = len(known)
    rows = [dict(zip(known, values[at : at + width], strict=True)) for at in range(0, len(values), max(width, 1))]
    return Outcome(status, reason, tuple(rows))
