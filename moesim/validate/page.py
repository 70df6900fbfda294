"""The page of the documentation that holds the recorded outcomes: written, never edited."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moesim.spec.errors import MoesimError
from moesim.validate.judge import Outcome, tally
from moesim.validate.recorded import Table
from moesim.validate.suites import folder
from moesim.validate.wording import HEADINGS, row, summary

#: What the tables stand between; the first says which command writes them.
END = "<!-- end of validation -->"


def begin(command: str) -> str:
    return f"<!-- validation: written by `{command}` -->\n"


_HEAD = """\
# Accuracy

What the simulator says beside what is known from outside: measurements, published results, closed forms and other
programs. `moesim validate` prints these tables, recomputes what it can, and exits with 1 where a prediction misses its
tolerance. Only predictions count; what was fitted is marked. Measured data is not part of moesim: without it (`--data`)
the answers that need it are shown as they were recorded, with date and hash of the data.

"""


def page_path(name: str = "accuracy") -> Path:
    """A page of the reference in the checkout.

    Raises:
        MoesimError: moesim was installed without its documentation.
    """
    path = folder().parents[1] / "docs" / "reference" / f"{name}.md"
    if not path.parent.is_dir():
        raise MoesimError("there is no documentation beside this installation", fix="record in a checkout")
    return path


def section(name: str, description: str, outcomes: Sequence[Outcome], table: Table) -> str:
    """A suite as Markdown: what it is, the table, its sum, where each answer is from, and what has details."""
    lines = [f"## {name}", "", description, "", summary(name, tally(outcomes)).partition(": ")[2] + ".", ""]
    lines += ["| " + " | ".join(HEADINGS) + " |", "| --- | --: | --: | --: | --: | --- | --- |"]
    lines += ["| " + " | ".join(_escaped(cell) for cell in row(each)) + " |" for each in outcomes]
    lines += ["", "Sources:", ""]
    sources: dict[str, list[str]] = {}
    for each in outcomes:
        sources.setdefault(each.case.source, []).append(each.case.name)
    lines += [f"- {source}: {'; '.join(names)}" for source, names in sources.items()]
    found = [(each.case.name, each.detail) for each in outcomes if "\n" in each.detail]
    lines += ["", "In detail:", ""] if found else []
    for name, detail in found:
        first, *more = detail.splitlines()
        lines += [f"- {name}: {first}", *(f"  - {line}" for line in more)]
    if table.data:
        files = ", ".join(f"`{name}` ({digits})" for name, digits in table.data.items())
        lines += ["", f"Recorded on {table.date} with moesim {table.version} from {files}."]
    return "\n".join(lines) + "\n"


def write_page(
    path: Path, sections: Sequence[str], head: str = _HEAD, command: str = "moesim validate --record"
) -> None:
    """Renew the part between the marks; the rest of the page stays.

    Args:
        head: of a page that does not exist yet. command: that writes the sections.

    Raises:
        MoesimError: the file cannot be written.
    """
    mark = begin(command)
    try:
        page = path.read_text(encoding="utf-8") if path.is_file() else head + mark + END + "\n"
        if mark not in page or END not in page:
            page = page.rstrip("\n") + "\n\n" + mark + END + "\n"
        before, _, rest = page.partition(mark)
        _, _, after = rest.partition(END)
        path.write_text(before + mark + "\n" + "\n".join(sections) + "\n" + END + after, encoding="utf-8")
    except OSError as error:
        raise MoesimError(f"cannot write {path}: {error.strerror}") from None


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
