"""A decoding step by itself: so many sequences of one length on every rank."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from moesim.validate.cases import Found, Setting, case
from moesim.validate.kinds.experiments import Overrides

_PICOSECONDS = 1e12


@case("decode_step", unit="second")
def decode_step(
    setting: Setting, *, experiment: str, sequences: int, context: int, per: Literal["step", "token"] = "token",
    set: Overrides = {},  # noqa: A002, B006
) -> Found:  # fmt: skip
    """Seconds of a step of the experiment's first replica, or of one of the tokens that it emits for a sequence.

    Args:
        sequences: decoding on each DP rank. context: tokens of each in the cache.
    """
    from moesim.spec.library import find

    texts = tuple(f"{key}={json.dumps(value)}" for key, value in set.items())
    step, emitted = priced_step(find("experiments", experiment, folder=setting.folder), texts, sequences, context)
    return Found(step / emitted if per == "token" else step, detail=f"{step * 1e3:.4g} ms per step")


@lru_cache(maxsize=32)
def priced_step(experiment: Path, overrides: tuple[str, ...], sequences: int, context: int) -> tuple[float, float]:
    """Seconds of a step, and tokens that it emits for a sequence on average."""
    from moesim.serving.simulate import Simulation
    from moesim.spec.loading import load_experiment
    from moesim.step.batch import Batch

    loaded = load_experiment(experiment, overrides)
    engine = loaded.spec.engine
    with loaded.placing():
        pricer = Simulation(loaded.spec).deployment.replicas[0].pricer
        rank = np.repeat(np.arange(pricer.layout.dp), sequences)
        column = np.ones(len(rank), dtype=np.int64)
        gained = np.arange(2)[None].repeat(len(rank), axis=0) if engine.drafts else None
        batch = Batch(
            pricer.layout.dp, rank, np.arange(len(rank)), context * column, column, queries=1 + engine.drafts,
            gained=gained,
        )  # fmt: skip
        block = pricer.price(batch)
    emitted = 1.0 if engine.speculation is None else engine.speculation.emitted
    return int(block.durations[0]) / _PICOSECONDS, emitted
