"""LLMServingSim (github.com/casys-kaist/LLMServingSim).

Files: perf/GPU/MODEL/DTYPE/tpN/{dense,per_sequence,attention,moe}.csv, and of its first version
llm_profile/perf_models/GPU/MODEL/tpN/{layers,attention}.csv.

Tables name layers, not shapes: those come from the model, a descriptor of the library named as the folder (or in a
folder of MOESIM_PATH). Times are microseconds of one layer, nanoseconds in layers.csv, milliseconds in the first
version's attention.csv (which has Vidur's columns).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.calibrate.importers.base import Profile, Tables, add, importer, read_columns, tidy
from moesim.calibrate.importers.vidur import read_attention
from moesim.spec.errors import MoesimError, Where
from moesim.spec.library import list_descriptors
from moesim.spec.loading import load_descriptor
from moesim.spec.model import ModelSpec

if TYPE_CHECKING:
    import pandas as pd

_OLD_DTYPE = "bfloat16"
_BATCH = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")

#: Folders between a model's and its tables: degree of tensor parallelism, and number format.
_DEGREE, _FORMAT = re.compile(r"tp(\d+)"), re.compile(r"bf16|fp16|fp8\w*|int8|int4|auto")

_VERSION = re.compile(r"^vllm_version: *[\"']?([^\s\"']+)", re.MULTILINE)


@dataclass(frozen=True)
class _Shard:
    """The model of a folder on one of `tp` ranks."""

    model: ModelSpec
    tp: int
    dtype: str

    @property
    def heads(self) -> tuple[int, int]:
        attention = self.model.attention
        return max(attention.heads // self.tp, 1), max(attention.kv_heads // self.tp, 1)

    def products(self) -> dict[str, tuple[int, int]]:
        """(n, k) of each layer that is a matrix product, by the names of both versions."""
        hidden, width = self.model.hidden, (self.model.dense_width or 0) // self.tp
        q, kv = (heads * self.model.attention.head_dim for heads in self.heads)
        moe = self.model.moe
        expert = moe.width // self.tp if moe else 0
        sizes = {
            "qkv_proj": (q + 2 * kv, hidden), "q_proj": (q, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden),
            "o_proj": (hidden, q), "gate_up_proj": (2 * width, hidden), "gate_proj": (width, hidden),
            "up_proj": (width, hidden), "down_proj": (hidden, width),
            "lm_head": (self.model.vocabulary // self.tp, hidden),
            "expert.w1": (expert, hidden), "expert.w3": (expert, hidden), "expert.w2": (hidden, expert),
        }  # fmt: skip
        return {name: each for name, each in sizes.items() if all(each)}

    def streams(self) -> dict[str, int]:
        """Row length of each layer that streams rows."""
        hidden, moe = self.model.hidden, self.model.moe
        q, kv = (heads * self.model.attention.head_dim for heads in self.heads)
        width = (self.model.dense_width or (moe.width if moe else 0)) // self.tp
        norms = ("layernorm", "input_layernorm", "post_layernorm", "final_layernorm", "embedding")
        return {
            **dict.fromkeys(norms, hidden),
            "qk_norm": q + kv,
            "rotary_emb": q + kv,
            "rope": q + kv,
            "act_fn": width,
        }


@importer("llmservingsim", "dense.csv, per_sequence.csv, attention.csv, moe.csv, layers.csv below MODEL/.../tpN")
def read(profile: Profile) -> Tables:
    """Matrix products, element-wise kernels, attention and fused experts. Batches that mix prefill and decode, and
    expert layers in which fewer experts were active than even routing reaches, have no place in the tables."""
    tables: Tables = {}
    for path in profile.files("dense.csv", "per_sequence.csv", "attention.csv", "moe.csv", "layers.csv"):
        shard = _shard(path)
        source = f"llmservingsim:{profile.stack or _stack(path)}"
        named = {"device": profile.device, "source": source, "dtype": shard.dtype}
        if path.name == "attention.csv":
            _attention(tables, path, named, shard)
        elif path.name == "moe.csv":
            _experts(tables, path, named, shard)
        elif path.name == "layers.csv":
            rows = read_columns(path, ("layer_name", "input", "latency(ns)"))
            _layers(tables, rows, ("layer_name", "input", "latency(ns)", "ns"), named, shard)
        else:
            count = "tokens" if path.name == "dense.csv" else "sequences"
            rows = read_columns(path, ("layer", count, "time_us"))
            _layers(tables, rows, ("layer", count, "time_us", "us"), named, shard)
    return tables


def _layers(
    tables: Tables, rows: pd.DataFrame, names: tuple[str, str, str, str], named: dict[str, Any], shard: _Shard
) -> None:  # fmt: skip
    layer, count, time, unit = names
    for name, (n, k) in shard.products().items():
        part = rows[rows[layer] == name]
        columns = {**named, "kernel": "gemm", "impl": name, "m": part[count], "n": n, "k": k}
        add(tables, "gemm", tidy(columns, time=part[time], unit=unit))
    for name, n in shard.streams().items():
        part = rows[rows[layer] == name]
        add(
            tables, "elementwise", tidy({**named, "kernel": name, "m": part[count], "n": n}, time=part[time], unit=unit)
        )


def _attention(tables: Tables, path: Path, named: dict[str, Any], shard: _Shard) -> None:
    named = {**named, "kv_dtype": named["dtype"]}
    if any(name.startswith("time_stats") for name in read_columns(path, ()).columns):
        read_attention(tables, path, named)
        return
    rows = read_columns(path, _BATCH)
    heads, kv_heads = shard.heads
    named |= {
        "q_heads": heads,
        "kv_heads": kv_heads,
        "head_dim": shard.model.attention.head_dim,
        "window": 0,
        "impl": "",
    }
    prefill = rows[(rows["n_decode"] == 0) & (rows["prefill_chunk"] > 0)]
    decode = rows[(rows["prefill_chunk"] == 0) & (rows["n_decode"] > 0)]
    for kind, part, batch, new, cached in (
        ("attention_prefill", prefill, 1, prefill["prefill_chunk"], prefill["kv_prefill"]),
        ("attention_decode", decode, decode["n_decode"], 1, decode["kv_decode"]),
    ):
        columns = {**named, "kernel": kind, "batch": batch, "q_len": new, "kv_len": cached + new}
        add(tables, kind, tidy(columns, time=part["time_us"], unit="us"))


def _experts(tables: Tables, path: Path, named: dict[str, Any], shard: _Shard) -> None:
    rows, moe = read_columns(path, ("tokens", "activated_experts", "time_us")), shard.model.moe
    if moe is None:
        raise MoesimError(
            f"{shard.model.name} has no experts", where=Where(str(path)), fix="name its folder as its model"
        )
    ranks = rows["ep"] if "ep" in rows.columns else 1
    even = (rows["tokens"] * moe.top_k).clip(upper=moe.experts) // ranks
    rows = rows[rows["activated_experts"] == even.clip(lower=1)]
    columns = {
        **named, "kernel": "fused_moe", "impl": "", "num_tokens": rows["tokens"], "hidden": shard.model.hidden,
        "inter": moe.width, "num_experts": moe.experts, "topk": moe.top_k, "tp": shard.tp,
        "ep": rows["ep"] if "ep" in rows.columns else 1, "distribution": "balanced",
    }  # fmt: skip
    add(tables, "moe", tidy(columns, time=rows["time_us"], unit="us"))


def _shard(path: Path) -> _Shard:
    """What a file's folders say.

    Raises:
        MoesimError: they name no degree of tensor parallelism, or no model of the library.
    """
    folders = path.resolve().parent.parts[::-1]
    degree = _DEGREE.fullmatch(folders[0])
    if degree is None:
        raise MoesimError("its folder is no tpN", where=Where(str(path)), fix="keep the layout MODEL/DTYPE/tpN/*.csv")
    dtype = folders[1] if _FORMAT.fullmatch(folders[1]) else None
    name = folders[2] if dtype else folders[1]
    return _Shard(load_descriptor("models", model_name(name, path)), int(degree[1]), dtype or _OLD_DTYPE)


def model_name(folder: str, path: Path) -> str:
    """The model of the library that a Hugging Face repository's name means: the longest that it begins with.

    Raises:
        MoesimError: there is none.
    """
    plain = folder.lower().replace("meta-", "").replace("-hf", "")
    found = _longest(name for name in list_descriptors("models") if plain.startswith(name))
    if found is None:
        fix = f"`moesim import model config.json --name {folder.lower()}` into a folder of MOESIM_PATH"
        raise MoesimError(f"there is no model for the folder {folder!r}", where=Where(str(path)), fix=fix)
    return found


def _longest(names: Iterable[str]) -> str | None:
    return max(names, key=len, default=None)


def _stack(path: Path) -> str:
    """`vllm-0.19.0` of a meta.yaml beside the folders tpN, else the simulator's own name."""
    meta = path.parent.parent / "meta.yaml"
    said = _VERSION.search(meta.read_text(encoding="utf-8")) if meta.is_file() else None
    return f"vllm-{said[1]}" if said else "llmservingsim"
