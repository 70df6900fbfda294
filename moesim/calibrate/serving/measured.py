"""The measured runs of vLLM as published: what was run, what was sent, and what it took."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.spec.errors import MoesimError, Where
from moesim.spec.marked import display

#: The file below the data folder.
RUNS = "serving/vllm_h100_a100_l40s.json.gz"

#: Names of the library for those of the runs.
MODELS = {
    "codellama/CodeLlama-34b-Instruct-hf": "codellama-34b",
    "meta-llama/Llama-2-7b-hf": "llama-2-7b",
    "meta-llama/Llama-2-70b-hf": "llama-2-70b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "meta-llama/Llama-3.1-70B-Instruct": "llama-3.1-70b",
    "mistralai/Mixtral-8x7B-v0.1": "mixtral-8x7b",
    "Qwen/Qwen3-14B": "qwen3-14b",
}  # fmt: skip
#: Of runs that other files may hold.
_OTHERS = {
    "mistralai/Mixtral-8x22B-v0.1": "mixtral-8x22b",
    "mistralai/Mistral-Nemo-Instruct-2407": "mistral-nemo-12b",
    "01-ai/Yi-34B": "yi-34b",
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": "llama-4-scout",
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct": "llama-4-maverick",
    "Qwen/Qwen2.5-7B-Instruct": "qwen2.5-7b",
    "Qwen/Qwen3-8B": "qwen3-8b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "Qwen/Qwen3-30B-A3B": "qwen3-30b-a3b",
    "Qwen/Qwen3-235B-A22B": "qwen3-235b-a22b",
    "openai/gpt-oss-20b": "gpt-oss-20b",
    "openai/gpt-oss-120b": "gpt-oss-120b",
    "deepseek-ai/DeepSeek-V3": "deepseek-v3",
    "deepseek-ai/DeepSeek-V2-Lite": "deepseek-v2-lite",
}  # fmt: skip
SYSTEMS = {"H100": "dgx-h100", "H200": "dgx-h200", "B200": "dgx-b200", "A100-80GB": "dgx-a100", "L40S": "l40s-8"}

#: What is not scored: a stage that never drained, a run that was repeated.
_SKIPPED = {"overloaded", "superseded_run"}

#: One workload, with knobs that had no effect: these runs count as one.
_TWINS = {"28": "9", "29": "9", "30": "9", "56": "9"}


@dataclass(frozen=True)
class Stage:
    """Requests per second over some seconds, and the latencies measured: statistics of TTFT and E2E and the mean TPOT,
    in seconds. tail: these are to be compared at the 90th percentile, the stage's begin being cold."""

    number: int
    rate: float
    duration: float
    ttft: Mapping[str, float]
    e2e: Mapping[str, float]
    tpot: float
    scored: bool
    tail: bool


@dataclass(frozen=True)
class Run:
    """A measured run. prompt: mean tokens of a whole prompt, `prefix` of them shared by the prompts of a group. dtype:
    of weights and activations."""

    id: str
    model: str
    moe: bool
    system: str
    tp: int
    token_budget: int
    max_sequences: int
    block_size: int
    memory_utilization: float
    groups: int
    prompts: int
    prefix: int
    prompt: int
    output: int
    stages: tuple[Stage, ...]
    dtype: str = "bf16"

    @property
    def workload(self) -> str:
        """Runs of equal workload count as one."""
        return _TWINS.get(self.id, self.id)

    @property
    def scored(self) -> bool:
        return any(stage.scored for stage in self.stages)


def measured_runs(data: Path) -> tuple[Run, ...]:
    """All runs of the data folder.

    Raises:
        MoesimError: the file is missing, not of this kind, or of models or hardware that are not known here.
    """
    path = data / RUNS
    if not path.is_file():
        raise MoesimError(f"there is no {RUNS} in {display(data)}", fix="--data names the folder of measured data")
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return tuple(_run(each) for each in json.load(file)["experiments"])
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError) as error:
        raise MoesimError(
            f"is no file of measured serving runs: {error}", where=Where(display(path)), fix="fetch it again"
        ) from None


def _run(entry: Mapping[str, Any]) -> Run:
    said = entry["inputs"]
    skipped = bool(_SKIPPED & set(entry["flags"]))
    return Run(
        id=str(entry["id"]),
        model=_known(MODELS | _OTHERS, entry["id"], "model", _unquantised(said["model"])),
        moe=bool(said["is_moe"]),
        system=_known(SYSTEMS, entry["id"], "hardware", said["hardware"]),
        tp=int(said["tp"]),
        token_budget=int(said["max_num_batched_tokens"]),
        max_sequences=int(said["max_num_seqs"]),
        block_size=int(said["block_size"]),
        memory_utilization=float(said["gpu_memory_utilization"]),
        groups=int(said["prompt_groups"]),
        prompts=int(said["distinct_prompts"]),
        prefix=int(said["system_prompt_len"]),
        prompt=_tokens(said["prompt_len_mean_measured"]),
        output=int(said["max_tokens"]),
        stages=tuple(_stage(each, skipped) for each in entry["stages"] if isinstance(each["stage"], int)),
        dtype="fp8" if "FP8" in str(said.get("precision", "")).upper() else "bf16",
    )


def _unquantised(name: str) -> str:
    """The model that a checkpoint of eight bits was made of, by whomever."""
    plain = re.sub(r"-fp8(-dynamic|-block)?$", "", name, flags=re.IGNORECASE)
    return next((each for each in (*MODELS, *_OTHERS) if each.endswith("/" + plain.rpartition("/")[2])), name)


def _known(names: Mapping[str, str], run: object, what: str, said: str) -> str:
    if said not in names:
        fix = f"known are {', '.join(names)}"
        raise MoesimError(f"measured run {run} is of {what} {said!r}, which the library has no name for", fix=fix)
    return names[said]


def _tokens(said: float | str) -> int:
    """574.2, or a sentence like "~574 (from the same workload with other tokenizers)"."""
    return round(float(re.findall(r"[\d.]+", str(said))[0]))


def _stage(entry: Mapping[str, Any], skipped: bool) -> Stage:
    flags, measured = set(entry["flags"]), entry["measured"]
    return Stage(
        number=entry["stage"],
        rate=float(entry["rate_rps"]),
        duration=float(entry["duration_s"]),
        ttft={name: value / 1e3 for name, value in measured["ttft_ms"].items()},
        e2e={name: value / 1e3 for name, value in measured["e2e_ms"].items()},
        tpot=measured["tpot_mean_ms_server"] / 1e3,
        scored=not skipped and not _SKIPPED & flags,
        tail="warmup_tail" in flags,
    )
