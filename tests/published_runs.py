"""Measured serving runs as they are published, made up, and what a simulation of them might say."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moesim.calibrate.serving.measured import MODELS, RUNS, Run, measured_runs
from moesim.calibrate.serving.replay import Latencies

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
MIXTRAL = "mistralai/Mixtral-8x7B-v0.1"


def stage(number: int = 0, *flags: str, tpot: float = 20.0, ttft: float = 50.0, **changes: Any) -> dict[str, Any]:
    """Of a run of ten tokens, in milliseconds."""
    measured = {
        "ttft_ms": {"mean": ttft, "p90": 1.2 * ttft},
        "e2e_ms": {"mean": ttft + 9 * tpot, "p90": 1.5 * (ttft + 9 * tpot)},
        "tpot_mean_ms_server": tpot,
    }
    return {"stage": number, "rate_rps": 8, "duration_s": 5, "flags": list(flags), "measured": measured, **changes}


def entry(run: str, *stages: dict[str, Any], flags: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    """A run with one stage unless others are given, and the summary that the publication puts behind them."""
    inputs = {
        "model": LLAMA, "is_moe": changes.get("model") == MIXTRAL, "hardware": "H100", "tp": 1,
        "max_num_batched_tokens": 1024, "max_num_seqs": 128, "block_size": 16, "gpu_memory_utilization": 0.9,
        "prompt_groups": 10, "distinct_prompts": 100, "system_prompt_len": 100, "max_tokens": 10,
        "prompt_len_mean_measured": "~574 (from the same workload with another tokenizer)", **changes,
    }  # fmt: skip
    return {
        "id": run, "inputs": inputs, "flags": list(flags), "stages": [*(stages or (stage(),)), {"stage": "summary"}],
    }  # fmt: skip


def write(folder: Path, *entries: dict[str, Any]) -> Path:
    """The data folder."""
    (folder / "serving").mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / RUNS, "wt") as file:
        json.dump({"experiments": entries}, file)
    return folder


def read(folder: Path, *entries: dict[str, Any]) -> tuple[Run, ...]:
    return measured_runs(write(folder, *entries))


def simulated(run: Run, *times: float) -> list[Latencies]:
    """Of each scored stage, so many times what was measured."""
    found = []
    for each, factor in zip((each for each in run.stages if each.scored), times, strict=True):
        at = {"ttft": each.ttft["mean"], "tpot": each.tpot, "e2e": each.e2e["mean"]}
        tails = {"ttft_p90": each.ttft["p90"], "e2e_p90": each.e2e["p90"]}
        values = {name: value * factor for name, value in {**at, **tails}.items()}
        found.append(Latencies(run.id, each.number, **values, shares={}))
    return found


def of_every_model(tpot: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """A run of each model that was measured. tpot: by names of the library, in milliseconds; 20 of the others."""
    return [
        entry(name, stage(tpot=(tpot or {}).get(name, 20.0)), model=published) for published, name in MODELS.items()
    ]
