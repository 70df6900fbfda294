"""A search: points that an optimiser proposes, looked at with few requests first where that is asked for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from moesim.explore.backends import Backend, make_backend
from moesim.explore.backends.address import check_address
from moesim.explore.cache import Cache
from moesim.explore.check import check_axes, check_experiment
from moesim.explore.folder import identity
from moesim.explore.front import dominates
from moesim.explore.keys import resolved_key
from moesim.explore.metrics import Constraint, Objective, constraint, objective
from moesim.explore.optimiser import Optimiser, Trial
from moesim.explore.points import Outcome, job, reason
from moesim.explore.space import Dimension, dimensions, within_all
from moesim.explore.sweep import Progress, Resources
from moesim.explore.valued import check_valued
from moesim.explore.version import code_version, library_version
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.layers import assignment
from moesim.spec.resolve import reading_once
from moesim.spec.study import Study, StudySpec

#: A trial goes on to more requests unless more than this share of those before it at the same fidelity dominate it,
#: and always where there were fewer than so many.
DOMINATED, ALWAYS = 0.3, 8


class Goals(NamedTuple):
    """What a search looks for, and where."""

    dimensions: list[Dimension]
    objectives: list[Objective]
    constraints: list[Constraint]


def goals(spec: StudySpec) -> Goals:
    """Raises MoesimError where the space is empty or contradictory, or a metric does not exist."""
    found = dimensions(spec)
    check_axes(found)
    if not spec.objectives:
        raise MoesimError("the study has no objectives", fix="give some: --objective latency --objective cost")
    objectives = [objective(text) for text in spec.objectives]
    constraints = [constraint(text) for text in spec.constraints]
    names = [each.metric for each in objectives]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise MoesimError(f"two objectives are {twice}", fix="remove one")
    for one, other in itertools.combinations(constraints, 2):
        _check_agreement(one, other)
    return Goals(found, objectives, constraints)


def _check_agreement(one: Constraint, other: Constraint) -> None:
    """Raises MoesimError where nothing can meet both."""
    if one.metric != other.metric or one.operator[0] == other.operator[0]:
        return
    upper, lower = (one, other) if one.operator[0] == "<" else (other, one)
    strict = len(upper.operator) == 1 or len(lower.operator) == 1
    if upper.limit < lower.limit or (strict and upper.limit == lower.limit):
        what = f"the constraints {upper.text!r} and {lower.text!r} contradict each other"
        raise MoesimError(what, fix="remove one")


@dataclass
class Searched:
    """The trials by number, those of earlier calls and other machines too."""

    trials: dict[int, Trial] = field(default_factory=dict)
    importance: dict[str, dict[str, float]] = field(default_factory=dict)
    interrupted: bool = False


def search_points(
    study: Study,
    resources: Resources,
    journal: Path,
    storage: str | None = None,
    progress: Progress | None = None,
) -> Searched:
    """Search the space of a study. With one worker the result depends on the study and its seed alone; with several,
    the order in which points finish decides what is proposed next.

    Args:
        journal: the file in which trials are kept, for a search that goes on later. storage: a database URL instead,
            for searches of many machines.

    Raises:
        MoesimError: the study makes no sense, or no backend or storage answers.
    """
    wanted = goals(study.spec)
    check_address(resources.backend, resources.address)
    check_experiment(study.base, within_all(wanted.dimensions))
    asked = [each.metric for each in wanted.objectives] + [each.metric for each in wanted.constraints]
    check_valued(study.base, wanted.dimensions, asked)
    optimiser = Optimiser(
        study.spec.name, *wanted, seed=study.spec.search.seed, journal=journal, storage=storage,
        about=f"{identity(study)} {code_version()} {library_version()}",
    )  # fmt: skip
    searched, cache = Searched(), Cache(resources.cache)
    left = study.spec.search.trials - optimiser.finished
    backend = make_backend(resources.backend, resources.address, resources.workers, max(left, 1))
    try:
        with reading_once():
            _Search(study, wanted, optimiser, backend, cache, searched, progress).run(left)
    except KeyboardInterrupt:
        searched.interrupted = True
    finally:
        backend.close()
        cache.close()
    searched.trials, searched.importance = optimiser.trials(), optimiser.importance()
    return searched


class _Search:
    def __init__(
        self,
        study: Study,
        wanted: Goals,
        optimiser: Optimiser,
        backend: Backend,
        cache: Cache,
        searched: Searched,
        progress: Progress | None,
    ) -> None:
        self._study, self._wanted, self._optimiser, self._backend = study, wanted, optimiser, backend
        self._cache, self._searched, self._progress = cache, searched, progress
        self._fidelities = (*study.spec.search.fidelities, 1.0)
        #: Objectives of all that was seen at each fidelity.
        self._seen: dict[float, list[list[float]]] = {each: [] for each in self._fidelities}
        self._under_way: dict[int, tuple[Trial, str]] = {}

    def run(self, trials: int) -> None:
        proposed = 0
        while proposed < trials or self._under_way:
            while proposed < trials and len(self._under_way) < self._backend.slots:
                number, point = self._optimiser.ask()
                proposed += 1
                self._advance(number, Trial(point))
            if self._under_way:
                for number, outcome in self._backend.finished():
                    trial, key = self._under_way.pop(number)
                    if outcome.status != "failed":
                        self._cache.keep(key, outcome)
                    self._look_at(number, trial, outcome)
            if self._progress is not None:
                self._progress(len(self._searched.trials), trials)

    def _advance(self, number: int, trial: Trial) -> None:
        """Compute the trial at its next fidelity, or look it up."""
        trial.fidelity = next(each for each in self._fidelities if each > trial.fidelity)
        changes = [assignment(path, value) for path, value in trial.point.items()]
        try:
            loaded = self._study.base.load(changes)
            if trial.fidelity < 1:
                loaded = self._study.base.load([*changes, fewer_requests(loaded.spec, trial.fidelity)])
        except MoesimError as error:
            self._over(number, trial, Outcome("infeasible", reason(error), ()))
            return
        key = resolved_key(loaded.spec, 0)
        known = self._cache.outcomes([key]).get(key)
        if known is not None:
            self._look_at(number, trial, known)
            return
        self._under_way[number] = trial, key
        self._backend.submit(number, job(loaded.spec, 0, code_version()))

    def _look_at(self, number: int, trial: Trial, outcome: Outcome) -> None:
        """Whether the trial goes on after this fidelity."""
        if outcome.status != "ok" or trial.fidelity == 1:
            self._over(number, trial, outcome)
            return
        row = outcome.rows[0]
        values = [row.get(each.metric, float("nan")) * each.sign for each in self._wanted.objectives]
        seen = self._seen[trial.fidelity]
        worth = promoted(values, seen)
        seen.append(values)
        if worth:
            self._advance(number, trial)
        else:
            trial.stopped = True
            self._over(number, trial, outcome)

    def _over(self, number: int, trial: Trial, outcome: Outcome) -> None:
        trial.outcome = outcome
        self._searched.trials[number] = trial
        self._optimiser.tell(number, trial, outcome)


def promoted(values: Sequence[float], seen: Sequence[Sequence[float]]) -> bool:
    """Whether a trial with these objectives (less is better) goes on to more requests, after those `seen`."""
    if len(seen) < ALWAYS:
        return True
    better = sum(dominates(other, values) for other in seen)
    return better <= DOMINATED * len(seen)


def fewer_requests(spec: ExperimentSpec, share: float) -> str:
    """The override that simulates a share of the requests.

    Raises:
        MoesimError: the experiment does not say how many there are.
    """
    requests = spec.requests
    if requests is None:
        raise MoesimError("a training step serves no requests, of which fidelities take a share", fix="no fidelities")
    if requests.stages is None and requests.count is not None:
        return assignment("requests.count", max(1, round(requests.count * share)))
    if requests.stages is None and requests.duration is not None:
        return assignment("requests.duration", f"{requests.duration * share!r} s")
    fix = "give requests.count or requests.duration, or no fidelities"
    raise MoesimError("fidelities simulate a share of the requests, whose number is not given", fix=fix)
