"""InferSim (github.com/alibaba/InferSim): bench_data/{gemm, grouped_gemm/PHASE, mha/PHASE}/GPU/*.csv, in microseconds.

A head configuration is its file's name, HEADS-KV_HEADS-HEAD_DIM.csv. The products are DeepGEMM's, in FP8 with scales
per block.
"""

from __future__ import annotations

import re
from pathlib import Path

from moesim.calibrate.importers.base import Profile, Tables, add, importer, read_columns, tidy
from moesim.spec.errors import MoesimError, Where

_FORMAT = "fp8_block"
_GROUPED = (
    "num_experts", "num_gpus", "topk", "hidden_size", "intermediate_size", "up_proj_us", "down_proj_us",
)  # fmt: skip


@importer("infersim", "bench_data/{gemm,grouped_gemm,mha}/.../GPU/*.csv")
def read(profile: Profile) -> Tables:
    """Matrix products, grouped products of experts, and attention of the device's folder GPU."""
    tables: Tables = {}
    gpu = re.split(r"[-_]", profile.device)[0].lower()
    source = f"infersim:{profile.stack or 'infersim'}"
    for path in profile.files("*.csv"):
        if path.parent.name.lower() != gpu:
            continue
        folders = path.parts[::-1]
        if folders[2] == "gemm":
            rows = read_columns(path, ("m", "k", "n", "latency_us"))
            columns = {
                "device": profile.device, "source": source, "kernel": "gemm", "dtype": _FORMAT, "impl": "deep_gemm",
                "m": rows["m"], "n": rows["n"], "k": rows["k"],
            }  # fmt: skip
            add(tables, "gemm", tidy(columns, time=rows["latency_us"], unit="us"))
        elif folders[3] == "grouped_gemm":
            _grouped(tables, path, profile.device, source, folders[2])
        elif folders[3] == "mha":
            _attention(tables, path, profile.device, source, folders[2])
    return tables


def _grouped(tables: Tables, path: Path, device: str, source: str, phase: str) -> None:
    """Up and down product of one layer's experts; tokens are counted over the group, as everywhere in the tables."""
    count = "batch_size_per_gpu" if phase == "decode" else "seq_len_per_gpu"
    rows = read_columns(path, (*_GROUPED, count))
    for product in ("up", "down"):
        columns = {
            "device": device, "source": source, "kernel": f"grouped_gemm_{product}_{phase}", "dtype": _FORMAT,
            "impl": "deep_gemm_masked" if phase == "decode" else "deep_gemm_contiguous",
            "num_tokens": rows[count] * rows["num_gpus"], "hidden": rows["hidden_size"],
            "inter": rows["intermediate_size"], "num_experts": rows["num_experts"], "topk": rows["topk"], "tp": 1,
            "ep": rows["num_gpus"], "distribution": "balanced",
        }  # fmt: skip
        add(tables, "moe", tidy(columns, time=rows[f"{product}_proj_us"], unit="us"))


def _attention(tables: Tables, path: Path, device: str, source: str, phase: str) -> None:
    heads = re.fullmatch(r"(\d+)-(\d+)-(\d+)", path.stem)
    if heads is None:
        raise MoesimError("its name is no head configuration", where=Where(str(path)), fix="name it 32-4-128.csv")
    decode = phase == "decode"
    sizes = ("kv_dtype", "batch_size", "kv_len") if decode else ("seq_len",)
    rows = read_columns(path, ("dtype", *sizes, "latency_us"))
    kind = f"attention_{phase}"
    columns = {
        "device": device, "source": source, "kernel": kind, "dtype": rows["dtype"],
        "kv_dtype": rows["kv_dtype"] if decode else rows["dtype"], "impl": "",
        "batch": rows["batch_size"] if decode else 1, "q_len": 1 if decode else rows["seq_len"],
        "kv_len": rows["kv_len"] if decode else rows["seq_len"],
        "q_heads": int(heads[1]), "kv_heads": int(heads[2]), "head_dim": int(heads[3]), "window": 0,
    }  # fmt: skip
    add(tables, kind, tidy(columns, time=rows["latency_us"], unit="us"))
