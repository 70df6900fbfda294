"""Compositions of whole models: what fits where, and what a switch takes, of an experiment that is not run."""

from __future__ import annotations

import json
import math
from typing import Literal

from moesim.serving.composed import ComposedPricer, Composition
from moesim.spec.errors import MoesimError
from moesim.validate.cases import Found, Setting, case
from moesim.validate.kinds.experiments import Overrides


@case("composition")
def composition(
    setting: Setting,
    *,
    experiment: str,
    what: Literal["resident", "most", "nodes"],
    models: int = 0,
    set: Overrides = {},  # noqa: A002, B006
) -> Found:
    """Models that stay on the devices beside the router (resident), that the tier holds (most), or machines whose
    devices hold so many `models` without the tier (nodes)."""
    found = _composition(setting, experiment, set)
    if what == "most":
        return Found(float(found.most))
    return Found(float(found.slots) if what == "resident" else float(math.ceil(models / found.slots)))


@case("switch_ratio")
def switch_ratio(setting: Setting, *, of: str, to: str) -> Found:
    """The time of a switch to another model in one experiment over that in another."""
    above, below = (_composition(setting, each, {}).switch_seconds for each in (of, to))
    return Found(above / below, detail=f"{above * 1e3:.4g} ms over {below * 1e3:.4g} ms")


def _composition(setting: Setting, experiment: str, overrides: Overrides) -> Composition:
    """Raises MoesimError where the experiment is none of a composition."""
    from moesim.serving.simulate import Simulation
    from moesim.spec.library import find
    from moesim.spec.loading import load_experiment

    texts = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    loaded = load_experiment(find("experiments", experiment, folder=setting.folder), texts)
    with loaded.placing():
        pricer = Simulation(loaded.spec).deployment.replicas[0].pricer
    if not isinstance(pricer, ComposedPricer):
        raise MoesimError(f"{experiment} has no composition of models", fix="give its `composition`")
    return pricer.composition
