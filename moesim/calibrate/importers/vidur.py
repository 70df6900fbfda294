"""Vidur (github.com/microsoft/vidur): compute/GPU/MODEL/{mlp,attention}.csv and network/NODE/all_reduce.csv.

Times are in milliseconds: `time_stats.OPERATOR.median`. Sizes are those of the whole model, to be divided by
`num_tensor_parallel_workers`; all-reduce sizes are bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.calibrate.importers.base import Profile, Tables, add, importer, read_columns, tidy

if TYPE_CHECKING:
    import pandas as pd

_DTYPE = "float16"
_MODEL = (
    "n_head", "n_kv_head", "n_embd", "n_expanded_embd", "use_gated_mlp", "num_tokens", "num_tensor_parallel_workers",
)  # fmt: skip
_BATCH = (
    "n_embd", "n_q_head", "n_kv_head", "num_tensor_parallel_workers", "batch_size", "prefill_chunk_size",
    "kv_cache_size", "is_prefill", "time_stats.attn_prefill.median", "time_stats.attn_decode.median",
)  # fmt: skip
_CALL = ("num_workers", "size", "devices_per_node", "collective", "time_stats.all_reduce.median")


@importer("vidur", "mlp.csv, attention.csv, all_reduce.csv")
def read(profile: Profile) -> Tables:
    """Matrix products, element-wise kernels, attention and all-reduce."""
    tables: Tables = {}
    for path in profile.files("mlp.csv", "attention.csv", "all_reduce.csv"):
        named = {"device": profile.device, "source": f"vidur:{profile.stack or 'vidur'}"}
        if path.name == "mlp.csv":
            _layers(tables, path, named)
        elif path.name == "attention.csv":
            read_attention(tables, path, {**named, "dtype": _DTYPE, "kv_dtype": _DTYPE})
        else:
            _all_reduce(tables, path, named)
    return tables


def _layers(tables: Tables, path: Path, named: dict[str, Any]) -> None:
    rows = read_columns(path, _MODEL)
    tp, hidden = rows["num_tensor_parallel_workers"], rows["n_embd"]
    head = hidden // rows["n_head"]
    q, kv = rows["n_head"] * head // tp, (rows["n_kv_head"] // tp).clip(lower=1) * head
    width, up = rows["n_expanded_embd"] // tp, rows["use_gated_mlp"].astype(bool).map({True: 2, False: 1})
    products = {
        "attn_pre_proj": (q + 2 * kv, hidden),
        "attn_post_proj": (hidden, q),
        "mlp_up_proj": (up * width, hidden),
        "mlp_down_proj": (hidden, width),
    }
    streams = {
        "input_layernorm": hidden, "post_attention_layernorm": hidden, "add": hidden, "emb": hidden,
        "mlp_act": width, "attn_rope": q,
    }  # fmt: skip
    common = {**named, "dtype": _DTYPE, "m": rows["num_tokens"]}
    for name, (n, k) in products.items():
        time = _median(rows, name)
        if time is not None:
            columns = {**common, "kernel": "gemm", "impl": f"torch {name}", "n": n, "k": k}
            add(tables, "gemm", tidy(columns, time=time, unit="ms"))
    for name, n in streams.items():
        time = _median(rows, name)
        if time is not None:
            add(tables, "elementwise", tidy({**common, "kernel": name, "n": n}, time=time, unit="ms"))


def _median(rows: pd.DataFrame, operator: str) -> pd.Series[float] | None:
    name = f"time_stats.{operator}.median"
    return rows[name].where(rows[name] > 0) if name in rows.columns else None  # 0: below the timer's resolution


def read_attention(tables: Tables, path: Path, named: dict[str, Any]) -> None:
    """attention.csv; LLMServingSim's first version writes the same columns.

    The cache holds `kv_cache_size` tokens before a chunk of `prefill_chunk_size`, or before one new token.
    """
    rows = read_columns(path, _BATCH)
    tp = rows["num_tensor_parallel_workers"]
    for kind, phase in (("attention_prefill", True), ("attention_decode", False)):
        new = rows["prefill_chunk_size"] if phase else 1
        columns = {
            **named,
            "kernel": kind,
            "impl": rows["attention_backend"] if "attention_backend" in rows.columns else "",
            "batch": rows["batch_size"],
            "q_len": new,
            "kv_len": rows["kv_cache_size"] + new,
            "q_heads": (rows["n_q_head"] // tp).clip(lower=1),
            "kv_heads": (rows["n_kv_head"] // tp).clip(lower=1),
            "head_dim": rows["n_embd"] // rows["n_q_head"],
            "window": 0,
        }
        time = rows[f"time_stats.attn_{'prefill' if phase else 'decode'}.median"]
        time = time.where((rows["is_prefill"].astype(bool) == phase) & (time > 0))
        add(tables, kind, tidy(columns, time=time, unit="ms"))


def _all_reduce(tables: Tables, path: Path, named: dict[str, Any]) -> None:
    rows = read_columns(path, _CALL)
    nodes = (rows["num_workers"] / rows["devices_per_node"].clip(lower=1)).clip(lower=1)
    columns = {
        **named, "kernel": rows["collective"], "dtype": _DTYPE, "num_gpus": rows["num_workers"], "num_nodes": nodes,
        "bytes": rows["size"], "impl": "nccl",
    }  # fmt: skip
    add(tables, "collective", tidy(columns, time=rows["time_stats.all_reduce.median"], unit="ms"))
