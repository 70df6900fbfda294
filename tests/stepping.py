"""Replicas of experiments, batches for them, and the three ways to say how long a step takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from moesim.engine.clock import Clock
from moesim.engine.fidelity import schedule
from moesim.serving.build import deploy
from moesim.serving.replica import Replica
from moesim.serving.requests import Requests
from moesim.spec.loading import load_experiment
from moesim.step.batch import Batch, Chunk
from moesim.step.compile import compile_step
from moesim.step.graph import Schedule, StepGraph
from moesim.step.pricing import Block, StepPricer

_ONE = np.ones(1, dtype=np.int64)
_REQUESTS = Requests(np.zeros(1), _ONE, _ONE, None, 16, "a test", _ONE)


def document(model: str, devices: Mapping[str, int], fabric: str | None = None, **changes: Any) -> dict[str, Any]:
    """An experiment with vLLM's engine; `changes` replace or add sections."""
    machine: dict[str, Any] = {"devices": dict(devices)}
    if fabric is not None:
        machine["fabric"] = fabric
    return {
        "model": model,
        "machine": machine,
        "engine": "vllm-0.19",
        "requests": {"mix": "chat", "rate": "1/s", "count": 1},
        "plan_reuse": False,
        **changes,
    }


def replicas(tree: Mapping[str, Any], *overrides: str) -> list[Replica]:
    spec = load_experiment(tree, overrides).spec
    streams = dict(zip(("requests", "routing", "draws"), np.random.SeedSequence(1).spawn(3), strict=True))
    return deploy(spec, _REQUESTS, Clock(), streams, lambda state: None).replicas


def pricer(tree: Mapping[str, Any], *overrides: str) -> StepPricer:
    return replicas(tree, *overrides)[0].pricer


def batch(ranks: int, decodes: int, chunks: int, seed: int = 0, idle: int = 0, step: int = 3) -> Batch:
    """`decodes` sequences and `chunks` prompt chunks of random sizes on random ranks; the last `idle` stay empty."""
    rng = np.random.default_rng(seed)
    used = max(ranks - idle, 1)
    return Batch(
        ranks,
        rank=np.sort(rng.integers(0, used, decodes)),
        request=np.arange(decodes),
        context=rng.integers(1, 6000, decodes),
        left=np.full(decodes, 9),
        chunks=tuple(
            Chunk(int(rng.integers(used)), decodes + i, int(rng.integers(1, 390)), int(rng.integers(0, 2) * 777))
            for i in range(chunks)
        ),
        first_step=step,
    )


BATCHES = {
    "prefill": {"decodes": 0, "chunks": 3},
    "decode": {"decodes": 23, "chunks": 0},
    "one": {"decodes": 1, "chunks": 0},
    "mixed": {"decodes": 9, "chunks": 2, "idle": 1},
}


def compiled(of: StepPricer, block: Block) -> StepGraph:
    return compile_step(of, block, of.routed.counts(block.batch, 0) if of.routed is not None else None)


def executed(of: StepPricer, block: Block) -> tuple[StepGraph, Schedule, Schedule]:
    """The step's graph, and its schedules by plan and by operations."""
    graph = compiled(of, block)
    return graph, schedule(graph, "plan"), schedule(graph, "op")
