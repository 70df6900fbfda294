"""Outcomes on disk, so that no point is computed twice: one SQLite file, to which every finished point is committed."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from moesim.explore.points import Outcome
from moesim.spec.errors import MoesimError

#: Of the file's tables; changes when a reader of the old one would fail.
FORMAT = 1
_TABLES = """
create table if not exists outcomes (key text primary key, outcome text not null) without rowid;
create table if not exists shortcuts (key text primary key, resolved text not null) without rowid;
"""
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
        rows = self._select("select key, outcome from outcomes where key in ({})", keys)
        return {key: _outcome(text) for key, text in rows}

    def through_shortcuts(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """The same, by the keys of points as written."""
        joined = "select s.key, o.outcome from shortcuts s join outcomes o on o.key = s.resolved where s.key in ({})"
        return {key: _outcome(text) for key, text in self._select(joined, keys)}

    def keep(self, key: str, outcome: Outcome) -> None:
        """Raises MoesimError where the disk is full; what was kept before stays."""
        text = json.dumps([outcome.status, outcome.reason, *_columns(outcome.rows)])
        with self._speaking(), self._database:
            self._database.execute("insert or replace into outcomes values (?, ?)", (key, text))

    def keep_shortcuts(self, shortcuts: Mapping[str, str]) -> None:
        with self._speaking(), self._database:
            self._database.executemany("insert or replace into shortcuts values (?, ?)", shortcuts.items())

    def _select(self, query: str, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
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


def _columns(rows: Sequence[Mapping[str, float]]) -> tuple[list[str], list[list[float | None]]]:
    """Names once, then the values of each row; a metric that is not defined is null."""
    names = list(rows[0]) if rows else []
    names += [name for name in dict.fromkeys(name for row in rows[1:] for name in row) if name not in rows[0]]
    return names, [[_plain(row.get(name)) for name in names] for row in rows]


def _plain(value: float | None) -> float | None:
    return None if value is None or value != value else value


def _outcome(text: str) -> Outcome:
    status, reason, names, rows = json.loads(text)
    nan = float("nan")
    return Outcome(
        status, reason, tuple(dict(zip(names, [nan if v is None else v for v in row], strict=True)) for row in rows)
    )
