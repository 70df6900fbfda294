"""A descriptor as a table: each number as it was written, its source, and whether it could be checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moesim.spec.errors import MoesimError
from moesim.spec.library import Kind, builtin_root, list_descriptors
from moesim.spec.marked import display
from moesim.spec.resolve import read_tree

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Keys of a descriptor that speak about its numbers instead of being one.
_ABOUT = ("name", "description", "sources", "unverified", "estimated")

_AGAIN = "as above"

#: Columns of a page that is not a terminal.
_WIDTH = 130


@dataclass(frozen=True)
class Row:
    """One number: its dotted path, its value as text, its source, and "unverified", "estimated" or nothing."""

    name: str
    value: str
    source: str = ""
    mark: str = ""


def console() -> Console:
    """Standard output; text is printed as it is, without markup."""
    from rich.console import Console

    screen = Console(markup=False, highlight=False, emoji=False)
    if not screen.is_terminal:
        screen.width = _WIDTH
    return screen


def rows(document: Mapping[str, Any]) -> list[Row]:
    """Every number of a descriptor's document, then the fields of `estimated` and `unverified` that it does not give.

    A memory tier is called by its name instead of its position.
    """
    sources: Mapping[str, str] = document.get("sources") or {}
    marks = {str(name): word for word in ("unverified", "estimated") for name in document.get(word) or ()}
    numbers = {key: value for key, value in document.items() if key not in _ABOUT}
    found: list[Row] = []
    seen: set[str] = set()
    for steps, value in _leaves(numbers, ()):
        aliases = [".".join(steps[:length]) for length in range(len(steps), 0, -1)]
        seen.update(aliases)
        found.append(Row(".".join(steps), value, _first(aliases, sources), _first(aliases, marks)))
    for name, word in marks.items():
        if name not in seen:
            found.append(Row(name, "default of its family", sources.get(name, ""), word))
    return found


def _first(names: Iterable[str], known: Mapping[str, str]) -> str:
    return next((known[name] for name in names if name in known), "")


def _leaves(value: Any, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Paths and texts of all scalars; a list of scalars is one text."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            if above or key != "tier":
                yield from _leaves(below, (*above, str(key)))
    elif isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        for index, item in enumerate(value):
            name = item.get("tier") if isinstance(item, Mapping) else None
            below = {key: inner for key, inner in item.items() if key != "tier"} if name else item
            yield from _leaves(below, (*above, str(name or index)))
    else:
        yield above, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return "none" if value is None else str(value)


def table(title: str, lines: Sequence[Row], last: str = "source", *, brief: bool = False) -> Table:
    """Rows for the console; unverified and estimated numbers are marked in their own column.

    Args:
        last: heads the last column.
        brief: print a source that several rows in a row share once.
    """
    from rich.table import Table
    from rich.text import Text

    sheet = Table(title=Text(title, style="bold"), title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("field", "value", "", last):
        sheet.add_column(Text(heading, style="dim"), overflow="fold", no_wrap=heading == "field")
    before = ""
    for line in lines:
        mark = Text(line.mark, style="yellow")
        again = brief and line.source == before and len(before) > len(_AGAIN)
        source = _AGAIN if again else line.source
        source = source.removeprefix(f"{line.mark}: ").removeprefix(f"{line.mark} ")
        sheet.add_row(Text(line.name), Text(line.value, style="bold"), mark, Text(source, style="dim"))
        before = line.source
    return sheet


def catalogue(kind: Kind) -> Table:
    """Names and descriptions of all descriptors of a kind; the file too where it is not the library's own."""
    from rich.table import Table
    from rich.text import Text

    entries = list_descriptors(kind)
    title = Text(f"{kind} ({len(entries)})", style="bold")
    sheet = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    sheet.add_column(no_wrap=True)
    sheet.add_column(overflow="fold")
    root = builtin_root()
    for name, path in entries.items():
        try:
            about = read_tree(kind, path.resolve()).child("description")
            text = "" if about is None else str(about.value)
        except MoesimError as error:
            text = f"not valid: {error}"
        own = "" if path.is_relative_to(root) else f"  ({display(path)})"
        sheet.add_row(Text(name), Text(text, style="dim") + Text(own, style="cyan"))
    return sheet
