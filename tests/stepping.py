"""Replicas of experiments, batches for them, and the three ways to say how long a step takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from moesim.engine.clock import Clock
from moesim.engine.fidelity import schedule
from moesim.serving.build import Deployment, deploy
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


def deployment(tree: Mapping[str, Any], *overrides: str) -> Deployment:
    spec = load_experiment(tree, overrides).spec
    streams = dict(zip(("requests", "routing", "draws", "drafts"), np.random.SeedSequence(1).spawn(4), strict=True))
    return deploy(spec, _REQUESTS, Clock(), streams, lambda state: None)


def replicas(tree: Mapping[str, Any], *overrides: str) -> list[Replica]:
    return deployment(tree, *overrides).replicas


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
    return compile_step(of, block, of.routed.drawn(block.batch, 0) if of.routed is not None else None)


def executed(of: StepPricer, block: Block) -> tuple[StepGraph, Schedule, Schedule]:
    """The step's graph, and its schedules by plan and by operations."""
    graph = compiled(of, block)
    return graph, schedule(graph, "plan"), schedule(graph, "op")


ALL_TO_ALL = {"engine": "alltoall"}

#: name: experiment, overrides. Layers are cut to keep the graphs small; every kind of layer stays.
MACHINES = {
    "dense, TP 4": (document("llama-3.1-8b", {"h100-sxm": 4}, "nvlink4-switch", parallelism={"tp": 4}), 3),
    "GQA, DP 4, EP 4, all-gather": (
        document("qwen3-30b-a3b", {"h200-sxm": 4}, "nvlink4-switch", parallelism={"dp": 4, "ep": 4}), 3,
    ),
    "GQA, DP 16, EP 16, all-to-all over two nodes": (
        document("qwen3-30b-a3b", {"h100-sxm": 8}, parallelism={"dp": 16, "ep": 16}, **ALL_TO_ALL)
        | {"machine": {"extends": "dgx-h100", "nodes": 2, "scale_out": "ib-ndr400"}}, 2,
    ),
    "MLA, TP 2, DP 2, EP 4": (
        document("deepseek-v2-lite", {"h100-sxm": 4}, "nvlink4-switch", parallelism={"tp": 2, "dp": 2, "ep": 4}), 3,
    ),
    "MLA, TP 2, DP 2, EP 2, all-to-all": (
        document("deepseek-v2-lite", {"a100-80-sxm": 4}, "nvlink3-switch", parallelism={"tp": 2, "dp": 2, "ep": 2},
                 **ALL_TO_ALL), 3,
    ),
    "PP 2, DP 2, EP 2": (
        document("olmoe-1b-7b", {"l40s": 4}, "pcie4-host", parallelism={"pp": 2, "dp": 2, "ep": 2}), 5,
    ),
    "PP 3, TP 2": (document("qwen3-8b", {"mi300x": 6}, "xgmi-mesh", parallelism={"pp": 3, "tp": 2}), 7),
    "different devices in different DP ranks": (
        document("olmoe-1b-7b", {"rtx-pro-6000": 1, "l40s": 1, "a100-80-pcie": 1, "rtx6000-ada": 1}, "pcie4-host",
                 parallelism={"dp": 4, "ep": 4}, placement="round-robin"), 4,
    ),
    "different devices in different stages and ranks": (
        document("olmoe-1b-7b", {"rtx-pro-6000": 2, "l40s": 2}, "pcie4-host", parallelism={"pp": 2, "dp": 2, "ep": 2}),
        5,
    ),
    "torus, DP 8, EP 8, all-to-all": (
        document("qwen3-30b-a3b", {}, parallelism={"dp": 8, "ep": 8}, **ALL_TO_ALL)
        | {"machine": {"extends": "tpu-v5p-64"}}, 2,
    ),
    "DP 4, EP 4, all-to-all by low-latency kernels": (
        document("qwen3-30b-a3b", {"h200-sxm": 4}, "nvlink4-switch", parallelism={"dp": 4, "ep": 4},
                 engine="deepep-low-latency"), 3,
    ),
    "DP 16, EP 16, all-to-all by kernels over two nodes, copies per node": (
        document("deepseek-v2-lite", {}, parallelism={"dp": 16, "ep": 16}, engine="deepep")
        | {"machine": {"extends": "dgx-h100", "nodes": 2, "scale_out": "ib-ndr400"}}, 3,
    ),
    "TP 2, DP 8, EP 8, all-to-all over two nodes, copies per node": (
        document("qwen3-30b-a3b", {}, parallelism={"tp": 2, "dp": 8, "ep": 8},
                 engine={"extends": "alltoall", "dispatch": {"form": "per-node", "dtype": "fp8", "block": 128}})
        | {"machine": {"extends": "dgx-h100", "nodes": 2, "scale_out": "ib-ndr400"}}, 2,
    ),
    "torus, DP 8, EP 8, all-to-all, copies per device": (
        document("qwen3-30b-a3b", {}, parallelism={"dp": 8, "ep": 8},
                 engine={"extends": "alltoall", "dispatch": {"form": "per-device"}})
        | {"machine": {"extends": "tpu-v5p-64"}}, 2,
    ),
    "DP 4, EP 4, all-to-all, copies in the switch": (
        document("qwen3-30b-a3b", {"h100-sxm": 4}, parallelism={"dp": 4, "ep": 4},
                 engine={"extends": "alltoall", "dispatch": {"form": "in-network"}, "collectives": []},
                 library={"fabrics": {"adding": {"extends": "nvlink4-switch", "reduces": True}}})
        | {"machine": {"devices": {"h100-sxm": 4}, "fabric": "adding"}}, 3,
    ),
    "DP 4, EP 4, all-to-all, replicas of busy experts": (
        document("qwen3-30b-a3b", {"h200-sxm": 4}, "nvlink4-switch", parallelism={"dp": 4, "ep": 4}, **ALL_TO_ALL,
                 placement={"policy": "eplb", "redundant": 16}, routing={"zipf": 0.8}), 3,
    ),
    "DP 4, EP 4, all-gather, tokens moved to the least loaded ranks": (
        document("qwen3-30b-a3b", {"h200-sxm": 4}, "nvlink4-switch", parallelism={"dp": 4, "ep": 4},
                 placement={"policy": "llep", "trigger": 1, "least": 1}, routing={"concentration": {"share": 0.6}}), 3,
    ),
    "DP 4, EP 4, all-to-all, tokens moved to the least loaded ranks": (
        document("qwen3-30b-a3b", {"h200-sxm": 4}, "nvlink4-switch", parallelism={"dp": 4, "ep": 4}, **ALL_TO_ALL,
                 placement={"policy": "llep", "trigger": 1, "least": 1}, routing={"concentration": {"share": 0.6}}), 3,
    ),
    "DP 4, EP 4, tokens stay with their experts": (
        document("llama-4-scout", {"h200-sxm": 4}, "nvlink4-switch", parallelism={"dp": 4, "ep": 4}, dtype="fp8",
                 engine={"extends": "alltoall", "dispatch": {"returns": False}}, placement="exflow",
                 routing={"affinity": {"strength": 1}}), 3,
    ),
    "full mesh, TP 8": (
        document("mixtral-8x7b", {}, parallelism={"tp": 8}) | {"machine": {"extends": "mi300x-8"}}, 2,
    ),
    "sliding window, TP 2, DP 2, EP 4": (
        document("gpt-oss-20b", {"h200-sxm": 4}, "nvlink4-switch", parallelism={"tp": 2, "dp": 2, "ep": 4}), 4,
    ),
    "chunked attention, dense layers between, TP 4, DP 2, EP 8": (
        document("llama-4-maverick", {"b200-sxm": 8}, "nvlink5-switch", parallelism={"tp": 4, "dp": 2, "ep": 8}), 4,
    ),
    "experts split by TP alone": (
        document("mixtral-8x7b", {"h100-sxm": 4}, "nvlink4-switch", parallelism={"tp": 4}, dtype="fp8"), 3,
    ),
    "experts divided inside one TP group": (
        document("qwen1.5-moe-a2.7b", {"gaudi-3": 4}, "roce-gaudi", parallelism={"tp": 4, "ep": 4}), 3,
    ),
    "dense residual branch, DP 2, EP 2": (
        document("snowflake-arctic", {"mi355x": 2}, "xgmi-mesh", parallelism={"dp": 2, "ep": 2}, dtype="int4"), 2,
    ),
    "one processor": (document("qwen1.5-moe-a2.7b", {"epyc-9755": 1}), 2),
    "PIM, one processor at a time": (
        document("mixtral-8x7b", {}, parallelism={"tp": 4, "ep": 4}, processors="intensity") | {"machine": "duplex-4"},
        3,
    ),
    "PIM, co-processing, DP 2, TP 2, EP 4": (
        document("mixtral-8x7b", {}, parallelism={"tp": 2, "dp": 2, "ep": 4}, processors="co-processing")
        | {"machine": "duplex-4"}, 3,
    ),
    "PIM, co-processing, tensor-parallel experts": (
        document("mixtral-8x7b", {}, parallelism={"tp": 4}, processors="co-processing") | {"machine": "duplex-4"}, 3,
    ),
    "PIM in one of two devices": (
        document("olmoe-1b-7b", {"duplex": 1, "h100-sxm": 1}, "nvlink4-switch", parallelism={"dp": 2, "ep": 2},
                 processors="co-processing"), 3,
    ),
}  # fmt: skip
