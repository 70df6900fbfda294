"""The claims of a published system, from its folder below experiments/papers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from moesim.spec.base import Schema
from moesim.spec.complaints import validate
from moesim.spec.errors import MoesimError
from moesim.spec.library import builtin_root, did_you_mean
from moesim.spec.marked import Marked, read_yaml
from moesim.validate.cases import Claimed
from moesim.validate.kinds.experiments import Along
from moesim.validate.suites import Ready, question, ready_cases

CLAIMS = "claims.yaml"


class Series(Schema):
    """Answers of a kind along an axis, and what the paper shows there (null where it shows nothing).

    scale: what one unit of the figure's vertical axis is, in SI: 1e-3 draws seconds as milliseconds.
    """

    label: str
    kind: str
    inputs: dict[str, Any] = {}
    along: Along
    published: tuple[float | None, ...] | None = None
    scale: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _points(self) -> Series:
        if self.published is not None and len(self.published) != len(self.along.values):
            raise ValueError(f"published gives {len(self.published)} points, along.values {len(self.along.values)}")
        return self


class FigureSpec(Schema):
    """A figure of the paper, drawn from our results.

    name: the stem of its files. x: label of the horizontal axis; ticks: what stands there instead of the values of
    `along`. form: lines, or groups of bars.
    """

    name: Annotated[str, Field(pattern=r"^[\w-]+$")]
    title: Annotated[str, Field(max_length=64)]
    subtitle: Annotated[str, Field(max_length=100)] = ""
    form: Literal["lines", "bars"] = "lines"
    x: str
    y: str
    ticks: tuple[str, ...] = ()
    logarithmic: tuple[Literal["x", "y"], ...] = ()
    series: Annotated[tuple[Series, ...], Field(min_length=1)]


class Claims(Schema):
    """What a paper claims of its system.

    name: that of the folder. title: the system in a line. paper: what to cite. free: the parameters that were fitted or
    assumed, with the range over which the claims hold.
    """

    name: str
    title: str
    paper: str
    description: str = ""
    free: dict[str, str] = {}
    claims: Claimed
    figures: Annotated[tuple[FigureSpec, ...], Field(min_length=1)]


@dataclass(frozen=True)
class System:
    """A system whose claims can be computed."""

    folder: Path
    spec: Claims
    cases: list[Ready]


def papers() -> Path:
    """The folder of the published systems."""
    return builtin_root() / "experiments" / "papers"


def system_names() -> list[str]:
    """The systems of the library, in alphabetical order."""
    return sorted(path.parent.name for path in papers().glob(f"*/{CLAIMS}"))


def load_claims(name: str) -> System:
    """The claims of a system of the library, or of a folder (with a slash in its name) that holds a claims.yaml.

    Raises:
        MoesimError: there is none, or its claims are not valid; one line with the file and line that said it.
    """
    folder = _folder(name)
    tree = read_yaml(folder / CLAIMS)
    spec = validate(Claims, tree)
    if spec.name != folder.resolve().name:
        raise MoesimError(f"name: {spec.name!r} is not that of the folder", where=tree.items["name"].where)
    _check_figures(spec, tree.items["figures"])
    return System(folder, spec, ready_cases(spec.claims, tree.items["claims"]))


def _folder(name: str) -> Path:
    if "/" in name:
        folder = Path(name).expanduser()
        if not (folder / CLAIMS).is_file():
            raise MoesimError(f"there is no {CLAIMS} in {name}", fix="name a system, or the folder of one")
        return folder
    known = system_names()
    if name not in known:
        fix = did_you_mean(name, known) or f"those that exist are {', '.join(known)}"
        raise MoesimError(f"there is no system {name!r}", fix=fix)
    return papers() / name


def _check_figures(spec: Claims, node: Marked) -> None:
    """That the kinds of all series exist, before anything is computed."""
    for index, figure in enumerate(spec.figures):
        for number, series in enumerate(figure.series):
            said, _ = node.nearest((index, "series", number))
            question_of(series, said)


def question_of(series: Series, said: Marked) -> None:
    """Check a series at the first point of its axis."""
    head, _, rest = series.along.key.partition(".")
    if not series.along.values:
        raise MoesimError("along.values is empty", where=said.place, fix="give at least one value")
    first = said.items["along"].items["values"].child(0)
    inputs = said.child("inputs") or said.with_value({})
    inner = (inputs.child(head) or inputs.with_value({})).with_items({rest: first}) if rest else first
    question(series.kind, inputs.with_items({head: inner}), said.items["kind"].where)
