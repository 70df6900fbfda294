"""AIConfigurator (github.com/ai-dynamo/aiconfigurator): one table per operator, `gemm_perf.txt` and the like.

Its folders are systems/data/SYSTEM/FRAMEWORK/VERSION; files are CSV, or Parquet in later versions. Times are in
milliseconds, message sizes in elements.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.calibrate.importers.base import Profile, Tables, add, importer, read_columns, tidy

if TYPE_CHECKING:
    import pandas as pd

_ORIGIN = "aic"

_ATTENTION = ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "step")
_MLA = ("mla_dtype", "kv_cache_dtype", "num_heads", "batch_size", "isl", "tp_size", "step")
_EXPERTS = (
    "moe_dtype", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size",
    "distribution",
)  # fmt: skip


def _gemm(rows: pd.DataFrame) -> dict[str, Any]:
    return {"kernel": "gemm", "dtype": rows["gemm_dtype"], "m": rows["m"], "n": rows["n"], "k": rows["k"]}


def _experts(rows: pd.DataFrame) -> dict[str, Any]:
    sizes = {"hidden": "hidden_size", "inter": "inter_size", "tp": "moe_tp_size", "ep": "moe_ep_size"}
    same = ("num_tokens", "num_experts", "topk", "distribution")
    return {
        "kernel": "fused_moe",
        "dtype": rows["moe_dtype"],
        **{name: rows[name] for name in same},
        **{name: rows[theirs] for name, theirs in sizes.items()},
    }


def _attention(rows: pd.DataFrame, kernel: str) -> dict[str, Any]:
    """`step` tokens are cached before the `isl` new ones. A decode's dtype is that of its attention, where given."""
    dtype = rows["attn_dtype"] if "attn_dtype" in rows.columns else rows["kv_cache_dtype"]
    return {
        "kernel": kernel,
        "dtype": dtype,
        "kv_dtype": rows["kv_cache_dtype"] if "kv_cache_dtype" in rows.columns else dtype,
        "batch": rows["batch_size"],
        "q_len": rows["isl"],
        "kv_len": rows["isl"] + rows["step"],
        "q_heads": rows["num_heads"],
        "kv_heads": rows["num_key_value_heads"],
        "head_dim": rows["head_dim"],
        "window": rows["window_size"] if "window_size" in rows.columns else 0,
    }


def _prefill(rows: pd.DataFrame) -> dict[str, Any]:
    return _attention(rows, "attention_prefill")


def _decode(rows: pd.DataFrame) -> dict[str, Any]:
    return _attention(rows, "attention_decode")


def _mla(rows: pd.DataFrame) -> dict[str, Any]:
    same = ("kv_cache_dtype", "num_heads", "batch_size", "isl", "tp_size", "step")
    return {"kernel": rows["op_name"], "dtype": rows["mla_dtype"], **{name: rows[name] for name in same}}


def _collective(rows: pd.DataFrame) -> dict[str, Any]:
    dtype = rows["nccl_dtype"] if "nccl_dtype" in rows.columns else rows["allreduce_dtype"]
    element = dtype.map({"int8": 1, "fp8": 1, "float": 4}).fillna(2)
    return {
        "kernel": rows["op_name"],
        "dtype": dtype,
        "num_gpus": rows["num_gpus"],
        "num_nodes": 1,
        "bytes": rows["message_size"] * element,
    }


#: Stem of a file -> class of kernels, what it needs, and how a row reads.
_FILES: dict[str, tuple[str, tuple[str, ...], Callable[[pd.DataFrame], dict[str, Any]]]] = {
    "gemm_perf": ("gemm", ("gemm_dtype", "m", "n", "k"), _gemm),
    "moe_perf": ("moe", _EXPERTS, _experts),
    "context_attention_perf": ("attention_prefill", (*_ATTENTION, "attn_dtype"), _prefill),
    "generation_attention_perf": ("attention_decode", (*_ATTENTION, "kv_cache_dtype"), _decode),
    "context_mla_perf": ("mla", ("op_name", *_MLA), _mla),
    "generation_mla_perf": ("mla", ("op_name", *_MLA), _mla),
    "nccl_perf": ("collective", ("op_name", "nccl_dtype", "num_gpus", "message_size"), _collective),
    "custom_allreduce_perf": ("collective", ("op_name", "allreduce_dtype", "num_gpus", "message_size"), _collective),
}


@importer("aiconfigurator", "gemm_perf.txt, moe_perf.txt, context_attention_perf.txt, ... (or .parquet)")
def read(profile: Profile) -> Tables:
    """The tables of operators that we have forms for; others are passed over."""
    tables: Tables = {}
    for path in profile.files(*(f"{stem}.{end}" for stem in _FILES for end in ("txt", "csv", "parquet"))):
        kind, needed, columns = _FILES[path.stem]
        rows = read_columns(path, ("framework", "version", *needed, "latency"))
        source = profile.stack or _stack(rows, path)
        named = {"device": profile.device, "source": f"{_ORIGIN}:" + source, "impl": _implementation(rows)}
        add(tables, kind, tidy({**named, **columns(rows)}, time=rows["latency"], unit="ms"))
    return tables


def _stack(rows: pd.DataFrame, path: Path) -> pd.Series[str]:
    """`vllm-0.24.0`; NCCL's version stands in its folder alone."""
    if path.stem == "nccl_perf" and path.parent.parent.name == "nccl":
        import pandas as pd

        return pd.Series(f"nccl-{path.parent.name}", index=rows.index)
    return rows["framework"].str.lower() + "-" + rows["version"].astype(str)


def _implementation(rows: pd.DataFrame) -> pd.Series[str] | str:
    if "kernel_source" not in rows.columns:
        return ""
    backend = ":" + rows["backend"].astype(str) if "backend" in rows.columns else ""
    return rows["kernel_source"].astype(str) + backend
