"""A layer of experts by itself: its time, and what of its communication is hidden."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from moesim.validate.cases import Found, Setting, case
from moesim.validate.kinds.experiments import Overrides

_PICOSECONDS = 1e12


@case("expert_layer", unit="second")
def expert_layer(setting: Setting, *, experiment: str, tokens: int, set: Overrides = {}) -> Found:  # noqa: A002, B006
    """Seconds from the router to the end of the combine in the experiment's first layer with experts.

    Args:
        tokens: of a prompt on each DP rank.
    """
    total, communication = _layer(setting, experiment, tokens, set)
    return Found(total, detail=f"{communication * 1e3:.3g} ms of communication")


@case("layer_ratio")
def layer_ratio(setting: Setting, *, of: Overrides, to: Overrides) -> Found:
    """One layer's time over another's; each with the inputs of `expert_layer`."""
    above, below = (_layer(setting, each["experiment"], each["tokens"], each.get("set", {}))[0] for each in (of, to))
    return Found(above / below)


@case("hidden_communication")
def hidden_communication(
    setting: Setting, *, experiment: str, tokens: int, set: Overrides = {}  # noqa: A002, B006
) -> Found:  # fmt: skip
    """Share of a layer's communication that its overlap hides: what it saves over dispatch, experts and combine one
    after the other, over what dispatch and combine take by themselves."""
    overlapped, _ = _layer(setting, experiment, tokens, set)
    plain, communication = _layer(setting, experiment, tokens, {**set, "engine.overlap": None})
    share = communication / plain
    return Found((plain - overlapped) / communication, detail=f"communication is {share:.0%} of the layer")


def _layer(setting: Setting, experiment: str, tokens: int, given: Overrides) -> tuple[float, float]:
    from moesim.spec.library import find

    texts = tuple(f"{key}={json.dumps(value)}" for key, value in given.items())
    return timed_layer(find("experiments", experiment, folder=setting.folder), texts, tokens)


@lru_cache(maxsize=128)
def timed_layer(experiment: Path, overrides: tuple[str, ...], tokens: int) -> tuple[float, float]:
    """Seconds of the layer, and of its dispatch and combine (their pieces added up)."""
    from moesim.engine.fidelity import schedule
    from moesim.serving.simulate import Simulation
    from moesim.spec.loading import load_experiment
    from moesim.step.batch import Batch, Chunk
    from moesim.step.passes.micro_batches import step_graph

    loaded = load_experiment(experiment, overrides)
    with loaded.placing():
        pricer = Simulation(loaded.spec).deployment.replicas[0].pricer
        ranks = pricer.layout.dp
        block = pricer.price(Batch(ranks, chunks=tuple(Chunk(rank, rank, tokens, 0) for rank in range(ranks))))
        graph = step_graph(pricer, block)
        plan = schedule(graph)
    names = np.array(graph.name)
    first = int(np.flatnonzero(names == "router")[0])
    mine = graph.layer == graph.layer[first]
    travels = mine & np.isin(names, ("dispatch", "combine"))
    end = plan.finish[mine & (names == "combine")].max()
    lasted = graph.duration[travels].max(axis=1).sum()
    return (int(end) - int(plan.start[first].min())) / _PICOSECONDS, int(lasted) / _PICOSECONDS
