"""A sweep: every point of a study once, from the cache where it is known, into one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from moesim.explore.backends import make_backend, outcomes
from moesim.explore.backends.address import check_address
from moesim.explore.cache import Cache
from moesim.explore.check import check_axes, check_experiment
from moesim.explore.keys import Shortcuts, resolved_key
from moesim.explore.points import Job, Outcome, job, reason
from moesim.explore.space import Point, dimensions, points
from moesim.explore.valued import check_valued
from moesim.explore.version import code_version
from moesim.spec.errors import MoesimError
from moesim.spec.layers import assignment
from moesim.spec.library import did_you_mean
from moesim.spec.resolve import reading_once
from moesim.spec.study import Study, StudySpec

#: Told of (finished, all) points.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Resources:
    """What a sweep may use.

    backend, address, workers: see `backends.make_backend`. cache: the folder that remembers points; None: the user's.
    """

    backend: str = "local"
    address: str | None = None
    workers: int | None = None
    cache: Path | None = None


@dataclass
class Swept:
    """The points of a sweep and their outcomes by number; fewer than all where it was interrupted."""

    points: dict[int, Point]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    reused: int = 0
    interrupted: bool = False


def plan(spec: StudySpec) -> dict[int, Point]:
    """The points of a study by number.

    Raises:
        MoesimError: the axes make no sense, or it asks for metrics that no run has; before any time is spent on it.
    """
    found = dimensions(spec)
    check_axes(found)
    planned = dict(enumerate(points(spec, found)))
    if not any(planned.values()):
        raise MoesimError("the axes make no point at all", fix="check the conditions of the axes")
    _check_questions(spec, {path for point in planned.values() for path in point})
    return planned


def _check_questions(spec: StudySpec, axes: set[str]) -> None:
    """Raises MoesimError where a study asks about metrics or axes that do not exist."""
    if not (spec.compare or spec.constraints or spec.figure):
        return
    from moesim.explore.metrics import constraint, metric, objective

    for text in spec.constraints:
        constraint(text)
    asked: list[str | None] = []
    if spec.compare is not None:
        objective(spec.compare.metric)
        asked.append(spec.compare.by)
    if spec.figure is not None:
        metric(spec.figure.y)
        asked += [spec.figure.x, spec.figure.by]
    for path in asked:
        if path is not None and path not in axes:
            fix = did_you_mean(path, axes) or f"the axes are {', '.join(sorted(axes))}"
            raise MoesimError(f"the study has no axis {path!r}", fix=fix)


def _asked(spec: StudySpec) -> list[str]:
    """The metrics that a study asks about."""
    from moesim.explore.metrics import constraint, objective

    asked = [constraint(text).metric for text in spec.constraints]
    asked += [objective(spec.compare.metric).metric] if spec.compare is not None else []
    return asked + ([spec.figure.y] if spec.figure is not None else [])


def sweep_points(study: Study, resources: Resources, progress: Progress | None = None) -> Swept:
    """Compute the points of a study.

    Ctrl-C ends it early. Every point is kept in the cache the moment it is finished: the same call goes on from there.

    Raises:
        MoesimError: the axes make no sense, the backend does not answer, or the cache cannot be written.
    """
    swept = Swept(plan(study.spec))
    check_experiment(study.base, swept.points[0])
    check_valued(study.base, dimensions(study.spec), _asked(study.spec))
    check_address(resources.backend, resources.address)
    cache = Cache(resources.cache)
    try:
        with reading_once():
            _Sweep(study, resources, cache, swept, progress).run()
    except KeyboardInterrupt:
        swept.interrupted = True
    finally:
        cache.close()
    return swept


class _Sweep:
    def __init__(
        self, study: Study, resources: Resources, cache: Cache, swept: Swept, progress: Progress | None
    ) -> None:
        self._study, self._resources, self._cache, self._swept = study, resources, cache, swept
        self._progress = progress
        self._repeats = study.spec.repeats
        #: Points that are one and the same experiment, by its key.
        self._alike: dict[str, list[int]] = {}
        self._shortcuts: dict[int, str | None] = {}
        self._key_of: dict[int, str] = {}

    def run(self) -> None:
        self._look_up()
        missing = [number for number in self._swept.points if number not in self._swept.outcomes]
        self._report()
        if not missing:
            return
        first = next(jobs := self._jobs(missing), None)
        if first is None:
            return
        backend = make_backend(
            self._resources.backend, self._resources.address, self._resources.workers, len(missing)
        )
        for number, outcome in outcomes(backend, _chained(first, jobs)):
            self._done(self._key_of[number], outcome)

    def _look_up(self) -> None:
        """What is known without resolving a single point."""
        shortcuts = Shortcuts(self._study.base, self._repeats)
        self._shortcuts = {number: shortcuts.key(point) for number, point in self._swept.points.items()}
        known = self._cache.through_shortcuts([key for key in self._shortcuts.values() if key is not None])
        for number, key in self._shortcuts.items():
            if key in known:
                self._swept.outcomes[number] = known[key]
        self._swept.reused = len(self._swept.outcomes)

    def _jobs(self, missing: list[int]) -> Iterator[tuple[int, Job]]:
        """Jobs of the points that nobody knows yet; resolved one by one, while workers compute others."""
        version = code_version()
        for number in missing:
            point = self._swept.points[number]
            try:
                loaded = self._study.base.load([assignment(path, value) for path, value in point.items()])
            except MoesimError as error:
                self._settle(number, Outcome("infeasible", reason(error), ()))
                continue
            key = resolved_key(loaded.spec, self._repeats)
            if key in self._alike:
                self._alike[key].append(number)
                continue
            self._alike[key], self._key_of[number] = [number], key
            known = self._cache.outcomes([key]).get(key)
            if known is None:
                yield number, job(loaded.spec, self._repeats, version)
            else:
                self._swept.reused += 1
                self._done(key, known)

    def _done(self, key: str, outcome: Outcome) -> None:
        """The outcome of all points with this key; those that come later find it in the cache."""
        if outcome.status != "failed":
            self._cache.keep(key, outcome)
            written = {self._shortcuts[number]: key for number in self._alike[key]}
            self._cache.keep_shortcuts({short: full for short, full in written.items() if short is not None})
        for number in self._alike.pop(key):
            self._swept.outcomes[number] = outcome
        self._report()

    def _settle(self, number: int, outcome: Outcome) -> None:
        """Of a point that no machine needs to look at."""
        shortcut = self._shortcuts[number]
        if shortcut is not None:
            self._cache.keep(shortcut, outcome)
            self._cache.keep_shortcuts({shortcut: shortcut})
        self._swept.outcomes[number] = outcome
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(len(self._swept.outcomes), len(self._swept.points))


def _chained(first: tuple[int, Job], rest: Iterator[tuple[int, Job]]) -> Iterator[tuple[int, Job]]:
    yield first
    yield from rest
