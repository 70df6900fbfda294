"""The folder of a machine's measurements: a tidy CSV per class that grows row by row, and its environment."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from moesim.calibrate.benchmarks.cases import COLUMNS, Case
from moesim.spec.errors import MoesimError, Where
from moesim.spec.marked import display, read_yaml

ENVIRONMENT = "environment.yaml"

#: Columns before and after those of sizes. latency_us: of one call, median. samples, rejected: that count, and outside
#: Tukey's fences. spread: interquartile range over median.
BEFORE = ("device", "kernel", "dtype")
AFTER = ("latency_us", "impl", "source", "samples", "rejected", "spread", "clock_mhz", "celsius")

#: Columns that some tables have beside, as public ones do; `touched`: distinct experts that got a token.
BESIDE = {
    "moe": ("distribution",),
    "attention_prefill": ("kv_dtype", "window"),
    "attention_decode": ("kv_dtype", "window"),
    "steps": ("touched",),
}  # fmt: skip


def columns(table: str) -> tuple[str, ...]:
    return (*BEFORE, *COLUMNS[table], *BESIDE.get(table, ()), *AFTER)


class Store:
    """Rows that are kept at once, so that an interruption loses none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, environment: Mapping[str, object]) -> None:
        """The folder with its environment: a new one, or one that the same environment has begun.

        Raises:
            MoesimError: it was measured in another environment, or holds something else.
            OSError: it cannot be written.
        """
        import yaml

        path = self.folder / ENVIRONMENT
        if path.is_file():
            self._compare(path, environment)
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise MoesimError(f"{display(self.folder)} holds something else", fix="name a new folder with --output")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".tmp")
            fresh.write_text(yaml.safe_dump(dict(environment), sort_keys=False, allow_unicode=True), encoding="utf-8")
            fresh.rename(path)

    def _compare(self, path: Path, environment: Mapping[str, object]) -> None:
        there = read_yaml(path).plain()
        for name, value in environment.items():
            if not isinstance(there, dict) or there.get(name) != value:
                found = there.get(name) if isinstance(there, dict) else None
                raise MoesimError(
                    f"was measured with {name} {found}, and now it is {value}",
                    where=Where(display(path)),
                    fix="measure into a new folder (--output)",
                )

    def done(self, table: str) -> set[tuple[str, ...]]:
        """Keys of the rows that are there: see `row_key`. A line that a crash cut off is taken away.

        Raises:
            MoesimError: the table has other columns.
        """
        path = self.path(table)
        if not path.is_file():
            return set()
        _drop_cut_line(path)
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != columns(table):
                raise MoesimError(
                    "has other columns than this version writes", where=Where(display(path)), fix="use a new folder"
                )
            return {(row["kernel"], row["impl"], *(row[name] for name in COLUMNS[table])) for row in reader}

    def append(self, case: Case, row: Mapping[str, object]) -> None:
        """One row, in the file when this returns. `row` has the columns beside the sizes."""
        path, sizes = self.path(case.table), dict(zip(COLUMNS[case.table], case.sizes, strict=True))
        begins = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns(case.table), lineterminator="\n")
            if begins:
                writer.writeheader()
            writer.writerow({**row, **sizes, "kernel": case.kernel})

    def path(self, table: str) -> Path:
        return self.folder / f"{table}.csv"


def row_key(case: Case, way: str) -> tuple[str, ...]:
    """What tells a row from the others of its table: kernel, implementation, sizes."""
    return (case.kernel, implementation(case, way), *(str(size) for size in case.sizes))


def implementation(case: Case, way: str) -> str:
    """The variant of a transfer, else how calls were launched."""
    return case.variant or way


def _drop_cut_line(path: Path) -> None:
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])
