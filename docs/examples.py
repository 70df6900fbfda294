"""The examples of the documentation: found in the pages, run in the order in which a reader meets them.

A page's fenced blocks are run in one folder of their own:

    console   lines that begin with `$ ` are run; what follows them is their whole output, errors included
    python    is executed; the blocks of a page share their names
    yaml      is a part of an experiment: each of its keys is set over the quickstart, and the result validated
    csv, json are files, see below

An HTML comment on the line above a block changes that:

    <!-- file: devices/my-gpu.yaml -->  the block is written to this file, and validated as what its folder holds
    <!-- with: OPTIONS -->              appended to each `moesim run` when it is run here; outputs are not compared
    <!-- not run: REASON -->            the block is left alone
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from click.testing import CliRunner

from moesim.cli import main
from moesim.spec.library import KINDS
from moesim.spec.loading import load_descriptor, load_experiment
from moesim.spec.marked import read_yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[a-z ]+): (?P<argument>[^\n]*?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
#: Columns of the console that the examples are printed for.
WIDTH = 100


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text at the characters [begin, end), and the mark above it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    argument: str
    begin: int
    end: int

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that could be run."""
    content = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(content):
        if match["language"] in ("console", "python", "yaml", "csv", "json"):
            line = content.count("\n", 0, match.start("text"))
            mark, argument = match["mark"] or "", match["argument"] or ""
            found.append(Block(page, line, match["language"], match["text"], mark, argument, *match.span("text")))
    return found


@dataclass
class Command:
    """A command of a console block: what a reader types, and the output that the page shows for it."""

    text: str
    shown: list[str] = field(default_factory=list)


def commands(block: Block) -> list[Command]:
    found: list[Command] = []
    continued = False
    for line in block.text.splitlines():
        if continued:
            found[-1].text += "\n" + line
        elif line.startswith("$ "):
            found.append(Command(line[2:]))
        elif found:
            found[-1].shown.append(line)
        continued = (continued or line.startswith("$ ")) and line.endswith("\\")
    return found


class Reader:
    """Runs the blocks of one page in `folder`, as a reader in a checkout would (its experiments are at hand)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, object] = {"__name__": "example"}
        (folder / "experiments").symlink_to(ROOT / "experiments", target_is_directory=True)

    def run(self, block: Block) -> list[str]:
        """The output of each command of a console block; of other blocks nothing.

        Raises:
            Exception: whatever the example does wrong.
        """
        if block.mark == "not run":
            return []
        with chdir(self.folder):
            if block.language == "console":
                extra = block.argument if block.mark == "with" else ""
                return [self._command(command, extra) for command in commands(block)]
            if block.mark == "file":
                self._write(block)
            elif block.language == "python":
                with redirect_stdout(StringIO()):
                    exec(compile(block.text, block.place, "exec"), self._names)
            elif block.language == "yaml":
                self._part(block)
            else:
                raise ValueError(f"{block.place}: a {block.language} block needs a mark, <!-- file: NAME -->")
        return []

    def _command(self, command: Command, extra: str) -> str:
        """Runs one; the part before a pipe in this process where it is ours."""
        first, pipe, rest = command.text.replace("\\\n", " ").partition(" | ")
        words = shlex.split(first, comments=True)
        settings = {"COLUMNS": str(WIDTH)}
        while words and re.fullmatch(r"\w+=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            settings[name] = value
        if words[0] != "moesim":
            done = subprocess.run(command.text, shell=True, capture_output=True, text=True, env=os.environ | settings)
            assert done.returncode == 0, done.stderr
            return done.stdout
        if words[1] == "run":
            words += shlex.split(extra)
        result = CliRunner(env=settings).invoke(main, words[1:], prog_name="moesim")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        fails = any(line.startswith("error:") for line in command.shown)
        assert result.exit_code == (2 if fails else 0), f"moesim {shlex.join(words[1:])}: {result.output}"
        output = result.output
        for folder in (self.folder.resolve(), ROOT):  # a reader stands in the checkout
            output = output.replace(f"{folder}{os.sep}", "")
        if not pipe:
            return output
        return subprocess.run(rest, shell=True, input=output, capture_output=True, text=True, check=True).stdout

    def _write(self, block: Block) -> None:
        path = Path(block.argument)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        kind = path.parent.name
        if block.language != "yaml" or kind == "calibrations":
            return
        if kind in KINDS and kind != "experiments":
            load_descriptor(kind, path)
        else:
            load_experiment(path)

    def _part(self, block: Block) -> None:
        """A part of an experiment: key by key over the quickstart, traces not looked for."""
        part = Path("part.yaml")
        part.write_text(block.text, encoding="utf-8")
        import json

        overrides = [f"{key}={json.dumps(node.plain())}" for key, node in read_yaml(part).items.items()]
        load_experiment("quickstart", overrides, check_traces=False)


_NUMBER = re.compile(r"\d[\d,]*\.?\d*")


def agrees(shown: str, printed: str) -> bool:
    """Whether two outputs say the same: the same words in each line, numbers within 5 % or one of their last digit."""
    lines = [[line.rstrip() for line in text.strip("\n").splitlines()] for text in (shown, printed)]
    return len(lines[0]) == len(lines[1]) and all(map(_alike, *lines))


def _alike(shown: str, printed: str) -> bool:
    words = [_NUMBER.sub("#", " ".join(line.split())) for line in (shown, printed)]
    numbers = zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=False)
    return words[0] == words[1] and all(_near(*pair) for pair in numbers)


def _near(shown: str, printed: str) -> bool:
    a, b = (float(number.replace(",", "")) for number in (shown, printed))
    digits = len(shown.partition(".")[2])
    return abs(a - b) <= max(0.05 * abs(b), 1.01 * 10**-digits)


def shown_outputs(page: Path) -> Iterator[tuple[Block, list[Command]]]:
    """The console blocks whose output is the page's to show."""
    for block in blocks(page):
        if block.language == "console" and not block.mark:
            yield block, commands(block)


if __name__ == "__main__":
    sys.exit("these are the examples' functions; python docs/refresh.py brings the pages up to date")
