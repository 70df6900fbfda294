"""Measured serving points: a deployment under a closed loop of fixed concurrency, as InferenceX sends it.

Ten prompts for each request under way, of random tokens, input and output lengths each uniform in [0.8 L, L]; TTFT
holds the burst at the start. Only three in ten prompts are simulated: the first ones are the burst, the others stand
for all that follow.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
ENGINES = {"vllm": "vllm-0.15", "sglang": "sglang-0.5", "trtllm": "trtllm-1"}
#: By precision; models that are published in four bits have formats of their own.
_DTYPES: Mapping[str, object] = {"bf16": "bf16", "fp8": "fp8", "fp4": {"weights": "fp4", "activations": "fp4"}}
_OWN_FORMAT = {"openai/gpt-oss-120b"}

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
    """The document of a point whose deployment prefills and decodes."""
    said = point.inputs
    document = {
        "name": f"point-{point.row}",
        "model": MODELS[said["model_path"]],
        "machine": SYSTEMS[said["system"]],
        "parallelism": {
            "tp": int(said["tp_size"]),
            "dp": int(said["attention_dp_size"] or 1),
            "ep": int(said["moe_ep_size"] or 1),
        },
        "engine": ENGINES[said["backend"]],
        "library": {"mixes": {"measured": {"input": _uniform(said["isl"]), "output": _uniform(said["osl"])}}},
        "requests": {
            "mix": "measured",
            "concurrency": int(said["concurrency"]),
            "count": _SIMULATED * int(said["concurrency"]),
        },
        "seed": 1,
    }
    if said["model_path"] not in _OWN_FORMAT:
        document["dtype"] = _DTYPES[said["precision"]]
    return document


def _uniform(tokens: str) -> dict[str, Any]:
    return {"distribution": "uniform", "mean": 0.9 * int(tokens), "deviation": 0.1 * int(tokens)}


def replay_point(point: Point) -> tuple[float, float]:
    """Simulated (TTFT, TPOT) in seconds, means of what was sent.

    Raises:
        MoesimError: the experiment cannot run.
    """
    from moesim.results.tables import request_columns
    from moesim.serving.simulate import simulate
    from moesim.spec.loading import load_experiment

    changes = ["engine.prefix_caching=false", "engine.token_budget=8192", "engine.max_sequences=2048"]
    requests = request_columns(simulate(load_experiment(point_experiment(point), changes).spec))
    first = int(point.inputs["concurrency"])
    burst, later = (float(np.mean(part)) for part in (requests["ttft"][:first], requests["ttft"][first:]))
    return burst / _SENT + later * (1 - 1 / _SENT), float(np.nanmean(requests["tpot"]))


def replay_points(points: Sequence[Point], workers: int = 1) -> Iterator[tuple[float, float] | None]:
    """In their order; None for a point that cannot run."""
    if workers == 1:
        yield from map(_job, points)
        return
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_job, points)


def _job(point: Point) -> tuple[float, float] | None:
    if not point.together:
        return None
    try:
        return replay_point(point)
    except MoesimError:
        return None
