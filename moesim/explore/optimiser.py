"""The seam to Optuna: ask for a point, tell what it gave."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.explore.metrics import Constraint, Objective
from moesim.explore.points import Outcome
from moesim.explore.space import Dimension, Point
from moesim.explore.table import shown
from moesim.spec.errors import MoesimError

_VIOLATIONS, _TRIAL, _OBJECTIVES, _AXES = "moesim:constraints", "moesim:trial", "moesim:objectives", "moesim:axes"
_ABOUT = "moesim:experiment, code or library"
#: What a point that cannot run violates the constraints by.
_WORST = 1e9


@dataclass
class Trial:
    """One proposed point, and the outcome at the last fidelity that it reached (1: all requests). `stopped`: it was not
    worth the full one."""

    point: Point
    fidelity: float = 0.0
    outcome: Outcome | None = None
    stopped: bool = False


class Optimiser:
    """Proposes points of a space, better ones as it learns (a tree-structured Parzen estimator; Bergstra et al., NIPS
    2011, for several objectives Ozaki et al., GECCO 2020).

    Args:
        journal: the file that remembers the trials. storage: a database URL instead of it.
        about: what else the trials depend on (the experiment, the code), in a word.

    Raises:
        MoesimError: Optuna is not installed, the storage cannot be opened, or it holds another search.
    """

    def __init__(
        self,
        name: str,
        found: Sequence[Dimension],
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        seed: int,
        journal: Path,
        storage: str | None,
        about: str,
    ) -> None:
        try:
            import optuna
        except ImportError:
            raise MoesimError("a search needs the package optuna", fix="pip install 'moesim[explore]'") from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna: Any = optuna
        self._dimensions, self._objectives, self._constraints, self._about = found, objectives, constraints, about
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constraints of samplers are called experimental
            self._study: Any = self._open(name, journal, storage)
            before = len(self._study.get_trials(deepcopy=False))
            # A search that goes on must not draw what it drew before.
            self._study.sampler = optuna.samplers.TPESampler(
                seed=seed + before, constraints_func=_violations, n_startup_trials=10
            )
        self._check()
        self._trials: dict[int, Any] = {}

    def _open(self, name: str, journal: Path, storage: str | None) -> Any:
        optuna = self._optuna
        directions = [each.goal.replace("ise", "ize") for each in self._objectives]
        try:
            backend: Any = storage
            if storage is None:
                journal.parent.mkdir(parents=True, exist_ok=True)
                files = optuna.storages.journal
                backend = optuna.storages.JournalStorage(files.JournalFileBackend(str(journal)))
            return optuna.create_study(
                storage=backend, study_name=name, directions=directions, load_if_exists=True
            )  # fmt: skip
        except Exception as error:  # whatever a driver of a database raises
            where = storage or str(journal)
            what = f"cannot open the storage {where}: {' '.join(str(error).split())[:200] or type(error).__name__}"
            raise MoesimError(what, fix="write it like sqlite:///search.db, or leave --storage out") from None

    def _check(self) -> None:
        """Raises MoesimError where the storage holds trials of another search."""
        about = {
            _OBJECTIVES: [f"{each.goal} {each.metric}" for each in self._objectives],
            _AXES: [_name(each) for each in self._dimensions],
            _ABOUT: [self._about],
        }
        for key, value in about.items():
            kept = self._study.user_attrs.get(key)
            if kept is None:
                self._study.set_user_attr(key, value)
            elif kept != value:
                other = key.partition(":")[2]
                what = f"the storage holds a search with other {other}"
                what += "" if key == _ABOUT else f": {', '.join(kept)}"
                raise MoesimError(what, fix="name another study, --output or --storage")

    @property
    def finished(self) -> int:
        """Trials that are over, in earlier calls too."""
        return sum(trial.state.is_finished() for trial in self._study.get_trials(deepcopy=False))

    def ask(self) -> tuple[int, Point]:
        """The number of a trial and its point."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self._study.ask()
            self._trials[trial.number] = trial
            point: Point = {}
            for dimension in self._dimensions:
                if dimension.applies(point):
                    point.update(zip(dimension.paths, self._suggest(trial, dimension), strict=True))
        return trial.number, point

    def _suggest(self, trial: Any, dimension: Dimension) -> tuple[Any, ...]:
        name = _name(dimension)
        if not dimension.continuous:
            values = {" ".join(map(shown, each)): each for each in dimension.values()}
            return values[trial.suggest_categorical(name, list(values))]
        axis = dimension.axes[0]
        log = axis.scale == "log"
        if axis.integer:
            number: float = trial.suggest_int(name, round(axis.low or 0), round(axis.high or 0), log=log)
        else:
            number = float(f"{trial.suggest_float(name, axis.low, axis.high, log=log):.6g}")
        return (f"{number!r} {axis.unit}" if axis.unit else number,)

    def tell(self, number: int, told: Trial, outcome: Outcome) -> None:
        """What a trial gave. One that was stopped at a lower fidelity teaches nothing about the full one."""
        trial, states = self._trials.pop(number), self._optuna.trial.TrialState
        row = outcome.rows[0] if outcome.rows else {}
        values = [row.get(each.metric, float("nan")) for each in self._objectives]
        kept = {"point": told.point, "fidelity": told.fidelity, "stopped": told.stopped, "outcome": outcome}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial.set_user_attr(_TRIAL, kept)
            defined = outcome.status == "ok" and all(value == value for value in values)
            violations = [each.violation(row) for each in self._constraints]
            trial.set_user_attr(_VIOLATIONS, [*violations, 0.0 if defined else _WORST])
            if told.stopped:
                self._study.tell(trial, state=states.PRUNED)
            elif outcome.status == "failed":
                self._study.tell(trial, state=states.FAIL)
            else:  # a point that cannot run is one to keep away from
                self._study.tell(trial, values if defined else [_WORST * each.sign for each in self._objectives])

    def trials(self) -> dict[int, Trial]:
        """All that are over, whoever proposed them."""
        found: dict[int, Trial] = {}
        for each in self._study.get_trials(deepcopy=False):
            kept = each.user_attrs.get(_TRIAL)
            if kept is not None and each.state.is_finished():
                status, reason, rows = kept["outcome"]
                outcome = Outcome(status, reason, tuple(rows))
                found[each.number] = Trial(kept["point"], kept["fidelity"], outcome, kept["stopped"])
        return found

    def importance(self) -> dict[str, dict[str, float]]:
        """By objective, the share of each axis in what moves it (PED-ANOVA; Watanabe, Bansal and Hutter, IJCAI 2023);
        empty where there are too few trials."""
        evaluator = self._optuna.importance.PedAnovaImportanceEvaluator
        found: dict[str, dict[str, float]] = {}
        for k, each in enumerate(self._objectives):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    shares = self._optuna.importance.get_param_importances(
                        self._study, evaluator=evaluator(), target=lambda trial, k=k: trial.values[k]
                    )
            except (ValueError, RuntimeError, ZeroDivisionError):
                continue
            found[each.metric] = {name: float(share) for name, share in shares.items()}
        return found


def _name(dimension: Dimension) -> str:
    """Of a parameter: keys, and the condition under which it exists."""
    when = ",".join(f"{path}={'|'.join(map(shown, allowed))}" for path, allowed in dimension.when.items())
    return "+".join(dimension.paths) + (f" if {when}" if when else "")


def _violations(trial: Any) -> Sequence[float]:
    found: Sequence[float] = trial.user_attrs.get(_VIOLATIONS) or [_WORST]
    return found
