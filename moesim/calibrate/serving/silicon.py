"""Measured serving points: a deployment under a closed loop of fixed concurrency, as InferenceX sends it.

Ten prompts for each request under way, of random tokens, input and output lengths each uniform in [0.8 L, L]; TTFT
holds the burst at the start. Only three in ten prompts are simulated: the first ones are the burst, the others stand
for all that follow.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.split import fitted_half
from moesim.engine.record import RunRecord
from moesim.spec.errors import MoesimError
from moesim.spec.marked import display

#: The file below the data folder.
POINTS = "serving/silicon_points.csv.gz"

#: Names of the library for those of the points.
MODELS = {
    "deepseek-ai/DeepSeek-R1": "deepseek-r1",
    "openai/gpt-oss-120b": "gpt-oss-120b",
    "MiniMaxAI/MiniMax-M2.5": "minimax-m2.5",
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "llama-3.1-8b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "nvidia/Qwen3-32B-NVFP4": "qwen3-32b",
}  # fmt: skip
SYSTEMS = {"h100_sxm": "dgx-h100", "h200_sxm": "dgx-h200", "b200_sxm": "dgx-b200"}
ENGINES = {"vllm": "vllm-0.19", "sglang": "sglang-0.5", "trtllm": "trtllm-1"}
#: By precision; models that are published in four bits have formats of their own.
_DTYPES: Mapping[str, Mapping[str, str]] = {
    "bf16": {"weights": "bf16", "activations": "bf16"},
    "fp8": {"weights": "fp8", "activations": "fp8"},
    "fp4": {"weights": "fp4", "activations": "fp4"},
}
_OWN_FORMAT: Mapping[str, Mapping[str, str]] = {
    "openai/gpt-oss-120b": {"weights": "bf16", "experts": "fp4", "activations": "bf16"}
}

#: Random prompts have nothing in common; engines take as many sequences as are sent, and decode greedily.
_ENGINE: Mapping[str, object] = {
    "prefix_caching": False, "token_budget": 8192, "max_sequences": 512, "sort_bytes": 0
}  # fmt: skip
#: What engines were told beside, as in the scripts of the benchmark (github.com/SemiAnalysisAI/InferenceX); what
#: lies between them and its client, and vLLM's exposed host time where nothing filters logits, fitted to TTFT and TPOT
#: of the fitted half of the models, each engine by itself.
_OWN_ENGINE: Mapping[str, Mapping[str, object]] = {
    "vllm": {"exposed_overhead": "400 us", "frontend_latency": "35 ms"},
    "sglang": {"memory_utilization": 0.95, "token_budget": 32768, "frontend_latency": "60 ms"},
    "trtllm": {"frontend_latency": "25 ms"},
}
_PER_NODE = 8

#: Tokens that hold nearly every sequence.
_CONTEXT = 10240

#: Prompts per request under way: sent, and simulated.
_SENT, _SIMULATED = 10, 3


@dataclass(frozen=True)
class Point:
    """A measured point: its row in the file, what was run, and the latencies in seconds."""

    row: int
    inputs: Mapping[str, str]
    ttft: float
    tpot: float

    @property
    def moe(self) -> bool:
        return self.inputs["is_moe"] == "1"

    @property
    def together(self) -> bool:
        """Whether one deployment prefills and decodes."""
        return self.inputs["mode"] == "agg"


def measured_points(data: Path) -> tuple[Point, ...]:
    """All points of the data folder.

    Raises:
        MoesimError: the file is missing.
    """
    path = data / POINTS
    if not path.is_file():
        raise MoesimError(f"there is no {POINTS} in {display(data)}", fix="--data names the folder of measured data")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return tuple(
            Point(number, row, float(row["measured_ttft_ms"]) / 1e3, float(row["measured_tpot_ms"]) / 1e3)
            for number, row in enumerate(csv.DictReader(file))
        )


def point_experiment(point: Point) -> dict[str, Any]:
    """The document of a point's experiment."""
    said = point.inputs
    return {
        "name": f"point-{point.row}",
        # What a step can hold is tabulated, and whole prompts of a longer context are never sent.
        "model": {"extends": MODELS[said["model_path"]], "context": _context(said)},
        "engine": _engine(said),
        "library": {"mixes": {"measured": {"input": _uniform(said["isl"]), "output": _uniform(said["osl"])}}},
        "requests": {
            "mix": "measured",
            "concurrency": int(said["concurrency"]),
            "count": _SIMULATED * int(said["concurrency"]),
        },
        "dtype": _dtype(said),
        "seed": 1,
        **(_together(said) if point.together else _apart(said)),
    }


def _engine(said: Mapping[str, str]) -> dict[str, Any]:
    """What an engine was told. On Blackwell, all-reduces normalise (`fuse_allreduce_rms` of vLLM,
    `enable-flashinfer-allreduce-fusion` of SGLang); gpt-oss runs on Marlin's experts in vLLM on Hopper
    (VLLM_MXFP4_USE_MARLIN)."""
    backend = said["backend"]
    engine = {"extends": ENGINES[backend], **_ENGINE, **_OWN_ENGINE[backend]}
    if said["system"] == "b200_sxm":
        engine["fused"] = ["norms", "shared_experts", *(["quantisation"] if backend == "trtllm" else [])]
    if backend == "vllm" and said["system"] != "b200_sxm" and said["model_path"] in _OWN_FORMAT:
        engine["expert_kernels"] = "marlin"
    return engine


def _context(said: Mapping[str, str]) -> int:
    return max(_CONTEXT, int(said["isl"]) + int(said["osl"]))


def _dtype(said: Mapping[str, str]) -> dict[str, str]:
    """Formats by precision, and what the benchmark's scripts say of the KV cache: eight bits for quantised models,
    but for vLLM and SGLang on Hopper. Checkpoints of MoE models in four bits leave attention in 16 (ModelOpt). On
    Blackwell experts of four bits multiply with activations of eight."""
    own, blackwell = said["model_path"] in _OWN_FORMAT, said["system"] == "b200_sxm"
    dtype = dict(_OWN_FORMAT[said["model_path"]] if own else _DTYPES[said["precision"]])
    if said["is_moe"] == "1" and said["precision"] == "fp4":
        dtype["attention"] = "bf16"
    if own and blackwell:
        dtype["activations"] = "fp8"
    narrow = said["precision"] != "bf16" and (blackwell or (said["backend"] == "trtllm" and not own))
    return {**dtype, "kv": "fp8" if narrow else "bf16"}


def _together(said: Mapping[str, str]) -> dict[str, Any]:
    """One deployment for both phases."""
    degrees = _degrees(said, "")
    return {"machine": _machine(said, degrees["tp"] * degrees["dp"]), "parallelism": degrees}


def _apart(said: Mapping[str, str]) -> dict[str, Any]:
    """A pool of workers for each phase, on nodes of their own. Batch sizes are those of a rank of attention."""
    pools: dict[str, Any] = {}
    nodes = 0
    for pool in ("prefill", "decode"):
        degrees = _degrees(said, f"{pool}_")
        workers = int(said[f"{pool}_num_workers"])
        nodes += -(-degrees["tp"] * degrees["dp"] * workers // _PER_NODE)
        sequences = int(said[f"{pool}_batch_size"])
        pools[pool] = {"parallelism": {**degrees, "replicas": workers}, "engine": {"max_sequences": sequences}}
    return {"machine": _machine(said, nodes * _PER_NODE), "pools": pools}


def _degrees(said: Mapping[str, str], of: str) -> dict[str, int]:
    """Experts that tensor parallelism divides over ranks of attention count as divided by expert parallelism, which
    keeps and moves as much."""
    tp, dp = int(said[f"{of}tp_size"]), int(said[f"{of}attention_dp_size"] or 1)
    if said["is_moe"] != "1":
        return {"tp": tp, "dp": dp}
    return {"tp": tp, "dp": dp, "ep": tp * dp if dp > 1 else int(said[f"{of}moe_ep_size"])}


def _machine(said: Mapping[str, str], devices: int) -> dict[str, Any]:
    return {"extends": SYSTEMS[said["system"]], "nodes": -(-devices // _PER_NODE)}


def _uniform(tokens: str) -> dict[str, Any]:
    return {"distribution": "uniform", "mean": 0.9 * int(tokens), "deviation": 0.1 * int(tokens)}


@dataclass(frozen=True)
class Simulated:
    """Latencies in seconds. shares: of the step time, by kind of operator."""

    ttft: float
    tpot: float
    shares: Mapping[str, float]


def replay_points(points: Sequence[Point], workers: int = 1, changes: Sequence[str] = ()) -> list[Simulated | str]:
    """What each point was simulated to be, in their order; a text for one that cannot run. Points of one deployment are
    simulated one after the other, so that what it tabulates is used by all.

    Args:
        changes: `--set` texts.
    """
    groups: dict[str, list[Point]] = {}
    for point in points:
        document = point_experiment(point)
        kept = {key: document.get(key) for key in ("model", "engine", "machine", "parallelism", "pools", "dtype")}
        groups.setdefault(repr(kept), []).append(point)
    # Those that take longest first, so that no process is left alone with one at the end.
    order = sorted(groups.values(), key=lambda group: -sum(int(each.inputs["concurrency"]) + 100 for each in group))
    job = partial(_replay_group, changes=tuple(changes))
    if workers == 1:
        found = list(map(job, order))
    else:
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(workers) as pool:
            found = list(pool.map(job, order))
    rows = {
        point.row: each for group, results in zip(order, found, strict=True)
        for point, each in zip(group, results, strict=True)
    }  # fmt: skip
    return [rows[point.row] for point in points]


def _replay_group(points: Sequence[Point], changes: Sequence[str]) -> list[Simulated | str]:
    from moesim.serving.simulate import Simulation
    from moesim.spec.loading import load_experiment

    before: Simulation | None = None
    found: list[Simulated | str] = []
    for point in points:
        try:
            spec = load_experiment(point_experiment(point), changes).spec
            simulation = Simulation(spec, before=before if point.together else None)
            found.append(_latencies(point, simulation.run()))
            before = simulation
        except MoesimError as error:
            found.append(str(error))
            before = None
    return found


def _latencies(point: Point, record: RunRecord) -> Simulated:
    """Means of what was sent, of which the first requests under way are the burst, and the last ones drain."""
    from moesim.calibrate.serving.replay import step_shares
    from moesim.results.tables import request_columns

    requests = request_columns(record)
    ttft, tpot = np.asarray(requests["ttft"]), np.asarray(requests["tpot"])
    if not point.together:
        # A client hears of the first token through the decode pool, with the second one.
        moved = np.asarray(requests["transfer_end"] - requests["arrival"])
        ttft = np.where(np.isnan(moved), ttft, moved + tpot)
    size = int(point.inputs["concurrency"])
    weights = np.repeat([1.0, _SENT - 2.0, 1.0], size)
    known = ~np.isnan(tpot)
    return Simulated(
        float(np.average(ttft, weights=weights)),
        float(np.average(tpot[known], weights=weights[known])),
        step_shares(record),
    )


@dataclass(frozen=True)
class PointScore:
    """A point beside what it was simulated to be, or why it was not. errors: relative, by metric."""

    point: Point
    simulated: Simulated | None
    failure: str = ""

    @property
    def name(self) -> str:
        """What points have in common whose errors are of a kind."""
        said = self.point.inputs
        return " ".join((MODELS[said["model_path"]], said["system"], said["backend"], said["precision"], said["mode"]))

    @property
    def errors(self) -> dict[str, float]:
        assert self.simulated is not None
        return {
            "ttft": self.simulated.ttft / self.point.ttft - 1.0,
            "tpot": self.simulated.tpot / self.point.tpot - 1.0,
        }


def scored(points: Sequence[Point], simulated: Iterable[Simulated | str]) -> list[PointScore]:
    return [
        PointScore(point, None, each) if isinstance(each, str) else PointScore(point, each)
        for point, each in zip(points, simulated, strict=True)
    ]


def fitted_models() -> frozenset[str]:
    """The half of the models on whose points engines' parameters are fitted."""
    names = sorted(set(MODELS.values()))
    return frozenset(name for name, fitted in zip(names, fitted_half(names), strict=True) if fitted)


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's, of values that are hardly ever equal."""
    ranks = np.array([values.argsort(kind="stable").argsort() for values in (first, second)])
    matrix: NDArray[np.float64] = np.asarray(np.corrcoef(ranks))
    return float(matrix[0, 1])
