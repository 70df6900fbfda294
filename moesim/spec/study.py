"""A study: one experiment, the axes along which it varies, and what is asked of its points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from moesim.spec.base import Schema
from moesim.spec.complaints import validate
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import FolderName
from moesim.spec.library import find
from moesim.spec.loading import Template, template
from moesim.spec.marked import Marked, display, mark
from moesim.spec.resolve import inline, read_tree

#: More points than anybody waits for.
MOST_POINTS = 1_000_000


class AxisSpec(Schema):
    """The values of one key: listed, or a range from `low` to `high` (both included).

    A grid takes `count` values of a range, evenly spaced (`scale: log`: by equal factors); samples fall anywhere in it.
    `integer` rounds them, `unit` is written behind each number.
    """

    values: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None
    count: int | None = Field(default=None, ge=1, le=MOST_POINTS)
    scale: Literal["linear", "log"] = "linear"
    integer: bool = False
    unit: str = ""

    @model_validator(mode="after")
    def _one_form(self) -> AxisSpec:
        if self.values is not None:
            if not self.values:
                raise ValueError("the axis has no values; list at least one")
            if self.low is not None or self.high is not None or self.count is not None:
                raise ValueError("an axis has values or a range, not both; remove one")
            return self
        if self.low is None or self.high is None:
            raise ValueError("an axis is a list of values, or a range like {low: 1, high: 10, count: 5}")
        if not self.low < self.high:
            raise ValueError(f"the range from {self.low:g} to {self.high:g} is empty; exchange low and high")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"a logarithmic range cannot begin at {self.low:g}; use a low above 0")
        return self


def _axis(value: object) -> object:
    """A list holds the values; a mapping says `low` and `high`."""
    if isinstance(value, (list, tuple)):
        return {"values": list(value)}
    if isinstance(value, (Mapping, AxisSpec)):
        return value
    raise ValueError("an axis is a list of values, or a range like {low: 1, high: 10, count: 5}")


Axis = Annotated[AxisSpec, BeforeValidator(_axis)]


class ConditionalSpec(Schema):
    """Axes of those points alone in which every key of `when` has the value, or one of the values, given here."""

    when: dict[str, Any] = Field(min_length=1)
    axes: dict[str, Axis] = Field(min_length=1)


class SampleSpec(Schema):
    """So many points instead of the whole grid: pseudo-random, or of a Sobol or Halton sequence (quasi-random,
    scrambled with the seed)."""

    method: Literal["random", "sobol", "halton"] = "sobol"
    points: int = Field(gt=0, le=MOST_POINTS)
    seed: int = Field(default=0, ge=0)


class SearchSpec(Schema):
    """How to search: the number of `trials`, the seed, and the shares of the requests at which a trial is looked at
    before it runs with all of them (`fidelities`, ascending; none: at once)."""

    trials: int = Field(default=100, gt=0, le=MOST_POINTS)
    seed: int = Field(default=0, ge=0)
    fidelities: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()

    @model_validator(mode="after")
    def _ascending(self) -> SearchSpec:
        if list(self.fidelities) != sorted(set(self.fidelities)):
            raise ValueError("fidelities do not ascend; write them like [0.1, 0.3]")
        return self


class CompareSpec(Schema):
    """Which value of an axis is best: for each value of `by` the point that `metric` ranks first among those that meet
    the study's constraints, and the ratio of the best to the others, with its interval where points are repeated."""

    by: str
    metric: str


class FigureSpec(Schema):
    """What a sweep draws: the metric `y` along the axis `x` (called `label`), a line for each value of the axis `by`;
    bars where the values of `x` are no numbers."""

    x: str
    y: str
    by: str | None = None
    label: str = ""


class StudySpec(Schema):
    """An experiment and its axes. `set` overrides the experiment's keys for all points."""

    name: FolderName = "study"
    description: str = ""
    experiment: str | dict[str, Any]
    set: dict[str, Any] = {}
    axes: dict[str, Axis] = {}
    #: Groups of axes of equal length that are varied together.
    zip: tuple[dict[str, Axis], ...] = ()
    conditional: tuple[ConditionalSpec, ...] = ()
    sample: SampleSpec | None = None
    #: Repeats of every point with drawn errors, overheads and seeds (`moesim.uncertainty`); 0: none. Training steps
    #: are not repeated.
    repeats: int = Field(default=0, ge=0, le=10_000)
    #: Metrics (or latency, throughput, cost, energy, power, area), with `maximise` or `minimise` where it is not plain.
    objectives: tuple[str, ...] = ()
    #: Conditions on metrics like "ttft.p99 <= 2 s".
    constraints: tuple[str, ...] = ()
    search: SearchSpec = SearchSpec()
    compare: CompareSpec | None = None
    figure: FigureSpec | None = None

    @model_validator(mode="after")
    def _intervals_need_two(self) -> StudySpec:
        if self.repeats == 1:
            raise ValueError("repeats: 1 gives no interval; ask for 2 or more, or for none")
        return self


class Study:
    """A study that has been read: what it asks, and its experiment before any axis was applied."""

    def __init__(self, spec: StudySpec, base: Template, source: Path | None) -> None:
        self.spec, self.base, self.source = spec, base, source


def load_study(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> Study:
    """The study of a file, of a name among the experiments, or of a mapping.

    Args:
        source: a study, or an experiment, which becomes a study without axes.
        overrides: of the experiment's keys, as after `--set`; they hold in all points.
        changes: keys of the study that are set in place of its own.

    Raises:
        MoesimError: anything is wrong with it.
    """
    tree, path = _tree(source)
    if tree.child("experiment") is None:
        name = tree.child("name")
        about = {"name": name.plain() if name is not None else "study"}
        tree, experiment = mark({**about, "experiment": {}}), tree
    else:
        experiment = inline("experiments", tree.items["experiment"])
    if changes:
        tree = tree.with_items(mark(dict(changes)).items)
    spec = validate(StudySpec, tree)
    base = template(experiment, path, [*_assignments(tree.child("set")), *overrides])
    return Study(spec, base, path)


def _tree(source: str | Path | Mapping[str, Any]) -> tuple[Marked, Path | None]:
    if isinstance(source, Mapping):
        return mark(source), None
    path = find("experiments", str(source), folder=Path.cwd())
    return read_tree("experiments", path), path


def _assignments(node: Marked | None) -> list[str]:
    from moesim.spec.layers import assignment

    return [] if node is None else [assignment(key, item.plain()) for key, item in node.items.items()]


def refuse_experiment(study: Study) -> None:
    """Raises MoesimError where a study has nothing to vary."""
    spec = study.spec
    if not (spec.axes or spec.zip or spec.conditional):
        shown = display(study.source) if study.source is not None else "the study"
        raise MoesimError(f"{shown} has no axes", fix="give some: --axis parallelism.ep=1,2,4")


def searched_with(study: Study, trials: int | None, seed: int | None) -> Study:
    """The study with another number of trials or another seed, where these are given.

    Raises:
        MoesimError: they are out of range.
    """
    given = {"trials": trials, "seed": seed}
    changes = {key: value for key, value in given.items() if value is not None}
    search = study.spec.search.model_dump() | changes
    found = validate(SearchSpec, mark(search))
    return Study(study.spec.model_copy(update={"search": found}), study.base, study.source)
