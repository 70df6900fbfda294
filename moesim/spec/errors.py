"""The one kind of error a user sees: a line that says what is wrong, where, and what would fix it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Where:
    """A place in a user's file. `line` counts from 1; None where only the file is known."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


class MoesimError(Exception):
    """Bad input, or a configuration that cannot run. The command line prints it as one line and exits with 2.

    Args:
        what: what is wrong, with the offending value.
        where: the file and line that said it.
        key: where only the value is known that is at fault, its place in the experiment: "parallelism.tp", or a tuple
            where a key holds a dot. Whoever knows the experiment's file puts `where` in (`Loaded.placing`).
        fix: what would put it right, in a few words.
    """

    def __init__(
        self,
        what: str,
        *,
        where: Where | None = None,
        key: str | tuple[str | int, ...] | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what, self.where, self.key, self.fix = what, where, key, fix

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f"; {self.fix}" if self.fix else ""
        return f"{place}{self.what}{remedy}"
