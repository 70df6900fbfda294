"""The points of a study: axes, alone or zipped, some of them conditional; the whole grid, or samples of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from moesim.spec.errors import MoesimError
from moesim.spec.library import did_you_mean
from moesim.spec.study import MOST_POINTS, AxisSpec, SampleSpec, StudySpec

#: Values by key of the experiment, in the order of the axes.
Point: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Dimension:
    """Axes that move together: one, or those of a zipped group.

    paths: keys of the experiment. axes: one for each of them. when: the values of other keys for which it exists.
    """

    paths: tuple[str, ...]
    axes: tuple[AxisSpec, ...]
    when: Mapping[str, tuple[Any, ...]]

    @property
    def continuous(self) -> bool:
        """Whether its values are those of a range from which samples are taken anywhere."""
        return len(self.axes) == 1 and self.axes[0].values is None

    def values(self) -> list[tuple[Any, ...]]:
        """Of a grid, one tuple per step along the dimension."""
        return list(zip(*(listed(path, axis) for path, axis in zip(self.paths, self.axes, strict=True)), strict=True))

    def at(self, level: float) -> tuple[Any, ...]:
        """The values at a level between 0 and 1 (excluded)."""
        if self.continuous:
            return (within(self.axes[0], level),)
        values = self.values()
        return values[min(int(level * len(values)), len(values) - 1)]

    def applies(self, point: Point) -> bool:
        return all(path in point and point[path] in allowed for path, allowed in self.when.items())


def within(axis: AxisSpec, level: float) -> Any:
    """The value at a level of a range, 0 its low end and 1 its high one."""
    assert axis.low is not None
    assert axis.high is not None
    if axis.scale == "log":
        value = math.exp(math.log(axis.low) + level * (math.log(axis.high) - math.log(axis.low)))
    else:
        value = axis.low + level * (axis.high - axis.low)
    value = float(f"{value:.12g}")  # exp and log leave dust in the last digits
    number = round(value) if axis.integer else value
    return f"{number!r} {axis.unit}" if axis.unit else number


def listed(path: str, axis: AxisSpec) -> tuple[Any, ...]:
    """The values of an axis of a grid.

    Raises:
        MoesimError: it is a range without a count.
    """
    if axis.values is not None:
        return axis.values
    if axis.count is None:
        raise MoesimError(f"the range of {path} has no count", fix="give one: {low: 1, high: 10, count: 5}; or sample")
    if axis.count == 1:
        return (within(axis, 0.0),)
    return tuple(dict.fromkeys(within(axis, step / (axis.count - 1)) for step in range(axis.count)))


def dimensions(study: StudySpec) -> list[Dimension]:
    """The dimensions of a study, those that others depend on before them.

    Raises:
        MoesimError: the axes contradict each other.
    """
    found = [Dimension((path,), (axis,), {}) for path, axis in study.axes.items()]
    found += [Dimension(tuple(group), tuple(group.values()), {}) for group in study.zip if group]
    for each in study.conditional:
        when = {path: _several(value) for path, value in each.when.items()}
        found += [Dimension((path,), (axis,), when) for path, axis in each.axes.items()]
    _check(found)
    return found


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _check(found: Sequence[Dimension]) -> None:
    given: dict[str, Sequence[Any]] = {}
    conditional: set[str] = set()
    for dimension in found:
        _check_zip(dimension)
        _check_condition(dimension, given)
        for path, axis in zip(dimension.paths, dimension.axes, strict=True):
            if path in given and not (dimension.when and path in conditional):
                raise MoesimError(f"two axes vary {path}", fix="put their values into one")
            for before in given:
                if before.startswith(f"{path}."):
                    what = f"the axis {path} replaces what the axis {before} before it varies"
                    raise MoesimError(what, fix=f"give {path} first")
            conditional.update({path} if dimension.when else ())
            given[path] = (*given.get(path, ()), *(axis.values or ()))


def _check_zip(dimension: Dimension) -> None:
    if len(dimension.paths) == 1:
        return
    lengths = {path: len(listed(path, axis)) for path, axis in zip(dimension.paths, dimension.axes, strict=True)}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{path} has {length}" for path, length in lengths.items())
        raise MoesimError(f"axes that are zipped have different lengths: {said}", fix="give as many values to each")


def _check_condition(dimension: Dimension, given: Mapping[str, Sequence[Any]]) -> None:
    for path, allowed in dimension.when.items():
        what = f"the axis {dimension.paths[0]} depends on {path}"
        if path not in given:
            fix = did_you_mean(path, list(given)) or "put an axis of that key before it"
            raise MoesimError(f"{what}, which is no axis before it", fix=fix)
        never = [value for value in allowed if given[path] and value not in given[path]]
        if never:
            shown = ", ".join(map(str, given[path]))
            raise MoesimError(f"{what} being {never[0]}, which never happens", fix=f"its values are {shown}")


def within_all(found: Sequence[Dimension]) -> Point:
    """Some point: the low end of every dimension that applies."""
    point: Point = {}
    for dimension in found:
        if dimension.applies(point):
            point.update(zip(dimension.paths, dimension.at(0.0), strict=True))
    return point


def points(study: StudySpec, found: Sequence[Dimension] | None = None) -> list[Point]:
    """All points of a study, in a fixed order, each once.

    Raises:
        MoesimError: the axes contradict each other, or make too many points.
    """
    found = dimensions(study) if found is None else found
    if study.sample is not None:
        return _distinct(_sampled(found, study.sample))
    size = math.prod(len(dimension.values()) for dimension in found if not dimension.when)
    if size > MOST_POINTS:
        raise MoesimError(f"the axes make {size:,} points", fix="use fewer values, or sample: {points: 1000}")
    return _distinct(_grid(found, {}))


def _grid(rest: Sequence[Dimension], chosen: Point) -> Iterator[Point]:
    """The last dimension varies fastest."""
    if not rest:
        yield chosen
        return
    dimension, further = rest[0], rest[1:]
    if not dimension.applies(chosen):
        yield from _grid(further, chosen)
        return
    for values in dimension.values():
        yield from _grid(further, {**chosen, **dict(zip(dimension.paths, values, strict=True))})


def _distinct(found: Iterator[Point]) -> list[Point]:
    kept: dict[str, Point] = {}
    for point in found:
        kept.setdefault(repr(point), point)
    return list(kept.values())


def _sampled(found: Sequence[Dimension], sample: SampleSpec) -> Iterator[Point]:
    """Dimensions that do not apply leave their coordinate unused, so that the others stay evenly covered."""
    for levels in _levels(len(found), sample):
        point: Point = {}
        for dimension, level in zip(found, levels, strict=True):
            if dimension.applies(point):
                point.update(zip(dimension.paths, dimension.at(level), strict=True))
        yield point


def _levels(columns: int, sample: SampleSpec) -> list[list[float]]:
    import numpy as np

    if sample.method == "random":
        levels: list[list[float]] = np.random.default_rng(sample.seed).random((sample.points, columns)).tolist()
        return levels
    from scipy.stats import qmc

    if sample.method == "halton":
        halton: list[list[float]] = qmc.Halton(columns, seed=sample.seed).random(sample.points).tolist()
        return halton
    # A Sobol sequence is balanced at powers of two; what is asked for is its beginning.
    whole = qmc.Sobol(columns, seed=sample.seed).random_base2(math.ceil(math.log2(sample.points)))
    sobol: list[list[float]] = whole[: sample.points].tolist()
    return sobol
