"""From Python: an experiment as an object, and functions that take one, a file or a name.

Nothing heavy is imported here: `import moesim` must be quick.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import pandas as pd

    from moesim.explore.explain import Explanation
    from moesim.explore.whatif import WhatIf
    from moesim.results import Results
    from moesim.spec.experiment import ExperimentSpec
    from moesim.spec.loading import LoadedExperiment

#: As on the command line, ["parallelism.ep=4"], or {"parallelism.ep": 4}.
Changes: TypeAlias = Sequence[str] | Mapping[str, Any]
#: A file, a name of the library, a results folder, or the document itself.
Source: TypeAlias = str | Path | Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Experiment:
    """An experiment that is valid, and what can be asked of it."""

    source: Source
    loaded: LoadedExperiment

    @property
    def name(self) -> str:
        return self.loaded.spec.name

    @property
    def spec(self) -> ExperimentSpec:
        """The validated values, in SI units."""
        return self.loaded.spec

    def set(self, changes: Changes) -> Experiment:
        """The experiment with some values changed; this one stays as it is.

        Raises:
            MoesimError: a change is not valid.
        """
        return load(self.source, set=[*self.loaded.overrides, *as_overrides(changes)])

    def run(
        self,
        output: str | Path | None = None,
        *,
        overwrite: bool = False,
        figures: bool = False,
        repeats: int | None = None,
        workers: int = 1,
    ) -> Results:
        """Simulate.

        Args:
            output: a results folder to write; without it, results stay in memory.
            overwrite: replace a results folder that exists.
            figures: also draw the figures and write the timeline.
            repeats: how often to repeat the run for intervals of its metrics (`moesim run --uncertainty`).
            workers: processes to share these repeats.

        Raises:
            MoesimError: the experiment cannot run, or its results cannot be written.
        """
        from moesim.running import Uncertainty, run

        folder = None if output is None else Path(output)
        wanted = None if repeats is None else Uncertainty(repeats, workers)
        return run(self.loaded, folder, overwrite=overwrite, figures=figures, uncertainty=wanted)

    def whatif(
        self, set: Changes, *, metrics: Sequence[str] = (), repeats: int = 32, workers: int = 1  # noqa: A002
    ) -> WhatIf:  # fmt: skip
        """What changes with some values of the experiment, and why; see `moesim.explore.whatif.whatif`.

        Args:
            set: the change, as one.
            metrics: names or first parts of names (`tpot`, `energy.total`); all without any.
            repeats: paired repeats for the intervals; 0 gives none.
            workers: processes to share these repeats.

        Raises:
            MoesimError: base or change cannot run, or a metric does not exist.
        """
        from moesim.explore.whatif import whatif

        return whatif(self.loaded, self.set(set).loaded, metrics=metrics, repeats=repeats, workers=workers)

    def explain(self, *, metrics: Sequence[str] = (), repeats: int = 0, workers: int = 1) -> Explanation:
        """What each number of hardware and engine is worth, and what binds; see `moesim.explore.explain.explain`.

        Raises:
            MoesimError: the experiment cannot run, or a metric does not exist.
        """
        from moesim.explore.explain import explain

        return explain(self.loaded, metrics=metrics, repeats=repeats, workers=workers)

    def sweep(self, axes: Mapping[str, Any], **options: Any) -> pd.DataFrame:
        """The experiment along axes, `{"parallelism.ep": [1, 2, 4]}`; see `moesim.explore.python.sweep`.

        Raises:
            MoesimError: an axis makes no sense, or the backend does not answer.
        """
        from moesim.explore.python import sweep

        return sweep(self.source, overrides=self.loaded.overrides, axes=axes, **options)

    def search(self, axes: Mapping[str, Any], objectives: Sequence[str], **options: Any) -> pd.DataFrame:
        """The points of a space that no other beats; see `moesim.explore.python.search`.

        Raises:
            MoesimError: the space or an objective makes no sense, or no backend or storage answers.
        """
        from moesim.explore.python import search

        overrides = self.loaded.overrides
        return search(self.source, overrides=overrides, axes=axes, objectives=objectives, **options)


def load(source: Source, set: Changes = ()) -> Experiment:  # noqa: A002
    """The experiment of a YAML file, of a name in the library, of a results folder, or of a mapping.

    Args:
        set: values to change, as `--set` does: `["parallelism.ep=4"]` or `{"parallelism.ep": 4}`.

    Raises:
        MoesimError: anything is wrong with any of it; one line with the file and line that said it.
    """
    from moesim.spec.loading import load_experiment

    found: str | Path | Mapping[str, Any] = source
    if not isinstance(source, Mapping) and (Path(source) / "manifest.json").is_file():
        from moesim.results import load as opened

        opened(source)  # complains of what is malformed, or of another version
        found = Path(source) / "spec.yaml"
    return Experiment(found, load_experiment(found, as_overrides(set)))


def run(experiment: Experiment | Source, set: Changes = (), **options: Any) -> Results:  # noqa: A002
    """As `Experiment.run`, of the experiment with `set` changed."""
    return _made(experiment, set).run(**options)


def whatif(experiment: Experiment | Source, set: Changes, **options: Any) -> WhatIf:  # noqa: A002
    """As `Experiment.whatif`."""
    return _made(experiment).whatif(set, **options)


def explain(experiment: Experiment | Source, set: Changes = (), **options: Any) -> Explanation:  # noqa: A002
    """As `Experiment.explain`, of the experiment with `set` changed."""
    return _made(experiment, set).explain(**options)


def as_overrides(changes: Changes) -> tuple[str, ...]:
    """Changes as `--set` takes them."""
    if isinstance(changes, str):
        return (changes,)
    if isinstance(changes, Mapping):
        return tuple(f"{path}={json.dumps(value)}" for path, value in changes.items())
    return tuple(changes)


def _made(experiment: Experiment | Source, changes: Changes = ()) -> Experiment:
    if not isinstance(experiment, Experiment):
        return load(experiment, changes)
    return experiment.set(changes) if changes else experiment
