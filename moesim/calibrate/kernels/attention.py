"""Groups of measured attention kernels: per device, stack, number formats and implementation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import moesim.kernels.forms.attention  # noqa: F401 (registers the forms)
from moesim.calibrate.fitting import Parameter
from moesim.calibrate.kernels.groups import FloatArray, KernelGroup
from moesim.calibrate.kernels.sources import rates
from moesim.calibrate.kernels.tables import TABLES, merged, newest, parts, read_table, table_paths
from moesim.kernels.shapes import AttentionShape
from moesim.spec.base import Dtype

if TYPE_CHECKING:
    import pandas as pd

#: Query heads per KV head from which on kernels fall off a cliff, down to 25 GB/s; no public model has as many.
MOST_SHARED = 32

#: Windows from this length on leave a kernel as without one: they are tens of its tiles.
LONG_WINDOW = 4096.0

#: Fewer rows of an implementation say too little to fit and score.
FEWEST_ROWS = 60

#: Layers with a KV head per query head are decoded by another kernel in SGLang's Triton backend, and in TensorRT-LLM
#: before Blackwell.
OTHER_MHA = frozenset({"a100-80-sxm", "h100-sxm", "h200-sxm", "l40s"})

#: SGLang takes about 9 us more for every call with heads of this width, in all implementations.
OTHER_WIDTH = 192.0

BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0}
_DTYPES: dict[str, Dtype] = {"bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "half": "fp16", "fp8": "fp8"}

PREFILL = (
    Parameter("launch", (8e-6,), 5e-7, 1e-4),
    Parameter("compute", (0.6,), 0.01, 1.0),
    Parameter("memory", (0.6,), 0.05, 1.0),
    Parameter("width_power", (0.9,), 0.05, 3.0, linear=True),
    Parameter("tile", (1e-6,), 1e-9, 2e-5),
    Parameter("tail", (0.9,), 0.01, 4.0),
    Parameter("even", (3.0,), 1.0, 8.0),
    Parameter("masked", (0.02,), 0.001, 1.0),
    Parameter("packed", (0.5,), 0.0, 1.0, linear=True),
    Parameter("blend", (1.5,), 1.0, 6.0),
    Parameter("append", (0.3,), 0.01, 10.0),
    Parameter("token", (3e-10,), 1e-12, 1e-8),
)
DECODE = (
    Parameter("launch", (6e-6,), 5e-7, 1e-4),
    Parameter("compute", (0.3,), 0.005, 1.0),
    Parameter("memory", (0.85,), 0.05, 1.0),
    Parameter("width_power", (1.0,), 0.05, 3.0, linear=True),
    Parameter("rows", (32.0,), 1.0, 128.0),
    Parameter("keys", (100.0,), 1.0, 1000.0),
    Parameter("round", (1e-6,), 1e-9, 2e-5),
    Parameter("split", (500.0,), 16.0, 1e5),
    Parameter("most", (64.0,), 2.0, 1000.0),
    Parameter("occupancy", (1.0,), 0.2, 8.0),
    Parameter("fill", (1.5,), 0.5, 8.0),
    Parameter("blend", (2.0,), 1.0, 8.0),
)
PARAMETERS = {"attention_prefill": PREFILL, "attention_decode": DECODE}


def groups(data: Path) -> Iterator[KernelGroup]:
    """The groups of `data`/kernels, of each stack's newest version. Layers with a sliding window run instantiations of
    their own, whatever the length: implementations called `NAME window`. Likewise `NAME mha` (OTHER_MHA) and
    `NAME width 192` (OTHER_WIDTH).

    Raises:
        MoesimError: a table is missing or cannot be used.
    """
    for kernel in ("attention_prefill", "attention_decode"):
        paths = table_paths(data, kernel)
        if not paths:
            continue
        rows = _usable(read_table(paths, kernel))
        keys = ("device", "stack", "dtype", "kv_dtype", "impl")
        for (device, stack, dtype, kv_dtype, impl), part in parts(rows, keys):
            if len(part) >= FEWEST_ROWS:
                group = _group(part, kernel, device, stack, (_DTYPES[dtype], _DTYPES[kv_dtype]), impl)
                if enough(group):
                    yield group


def enough(group: KernelGroup) -> bool:
    """Whether a group's fitted half can be fitted and cross-validated: two points a term, two head configurations."""
    points = np.flatnonzero(group.fitted & ~group.rejected)
    return len(points) >= 2 * len(group.parameters) and len(set(np.asarray(group.split)[points])) >= 2


def _usable(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows to fit, `impl` made to tell apart kernels that a stack chooses between by the shape."""
    rows = newest(rows.assign(window=rows["window"].fillna(0.0), head_dim=rows["head_dim"].astype(float)))
    rows = rows[rows["q_heads"] <= MOST_SHARED * rows["kv_heads"]]
    decode = rows["kernel"] == "attention_decode"
    rows = rows[decode | (rows["q_len"] > 1)]  # a prompt of one token is a decode
    windowed = rows["window"].between(1.0, LONG_WINDOW, inclusive="left")
    two_kernels = rows["impl"].eq("triton") | rows["impl"].eq("torch_flow") & rows["device"].isin(OTHER_MHA) & ~windowed
    apart = {
        "window": windowed,
        "mha": decode & two_kernels & rows["q_heads"].eq(rows["kv_heads"]),
        f"width {OTHER_WIDTH:.0f}": rows["stack"].str.startswith("sglang") & rows["head_dim"].eq(OTHER_WIDTH),
    }  # fmt: skip
    names = rows["impl"]
    for name, where in apart.items():
        names = names.where(~where, names + f" {name}")
    return rows.assign(impl=names)


def _group(
    rows: pd.DataFrame, kernel: str, device: str, stack: str, dtypes: tuple[Dtype, Dtype], impl: str
) -> KernelGroup:  # fmt: skip
    sizes = [*TABLES[kernel], "window"]
    rows = merged(rows, sizes)
    peak = rates(device, dtypes[0])
    rows = rows[rows["latency_us"] * 1e-6 >= _streaming(rows, BYTES[dtypes[1]]) / peak.memory]
    batch, new, keys, heads, kv_heads, width, window = (rows[name].to_numpy(np.float64) for name in sizes)
    shape = (decode_shape if kernel == "attention_decode" else prefill_shape)(
        batch, new, keys, window, heads, kv_heads, width, dtypes
    )  # fmt: skip
    config = list(zip(heads, kv_heads, width, window, strict=True))
    return KernelGroup(
        device=device,
        stack=stack,
        kernel=kernel,
        format=format_name(*dtypes),
        implementation=impl,
        rates=peak,
        shape=shape,
        seconds=rows["latency_us"].to_numpy(np.float64) * 1e-6,
        split=[f"attention/{h:.0f}/{kv:.0f}/{d:.0f}/{w:.0f}" for h, kv, d, w in config],
        series=[f"{h:.0f}/{kv:.0f}/{d:.0f}/{w:.0f}/{b:.0f}" for (h, kv, d, w), b in zip(config, batch, strict=True)],
        size=keys,
        sizes={"batch": batch, "keys": keys, "heads": heads, "kv_heads": kv_heads, "width": width},
        parameters=PARAMETERS[kernel],
    )


def _streaming(rows: pd.DataFrame, kv_bytes: float) -> pd.Series[float]:
    """Bytes of cached keys and values that a call reads. What takes less than the memory needs for them was measured on
    a cache that the call before had left on the chip, which no layer of a model finds there: left out."""
    seen = rows["kv_len"].where(rows["window"] == 0, rows[["kv_len", "window"]].min(axis=1))
    return 2.0 * kv_bytes * rows["batch"] * seen * rows["kv_heads"] * rows["head_dim"]


def format_name(dtype: str, kv_dtype: str) -> str:
    return dtype if dtype == kv_dtype else f"{dtype}-kv-{kv_dtype}"


def decode_shape(
    batch: FloatArray, _: FloatArray, keys: FloatArray, window: FloatArray,
    heads: FloatArray, kv_heads: FloatArray, width: FloatArray, dtypes: tuple[Dtype, Dtype],
) -> AttentionShape:  # fmt: skip
    """One new token per sequence; `keys` holds it, too."""
    seen = np.where(window > 0, np.minimum(keys, window), keys)
    none = np.zeros_like(keys)
    return AttentionShape(
        decodes=batch, keys=batch * seen, chunks=none, queries=none, pairs=none, chunk_keys=none,
        heads=heads, kv_heads=kv_heads, query_width=width, value_width=width, latent=none,
        query_bytes=BYTES[dtypes[0]], kv_bytes=BYTES[dtypes[1]],
    )  # fmt: skip


def prefill_shape(
    batch: FloatArray, new: FloatArray, keys: FloatArray, window: FloatArray,
    heads: FloatArray, kv_heads: FloatArray, width: FloatArray, dtypes: tuple[Dtype, Dtype],
) -> AttentionShape:  # fmt: skip
    """`new` tokens per sequence, the last of `keys`."""
    none = np.zeros_like(keys)
    limit = np.where(window > 0, window, np.inf)
    return AttentionShape(
        decodes=none, keys=none, chunks=batch, queries=batch * new, pairs=batch * visible_pairs(new, keys, limit),
        chunk_keys=batch * np.minimum(keys, new + limit - 1.0),
        heads=heads, kv_heads=kv_heads, query_width=width, value_width=width, latent=none,
        query_bytes=BYTES[dtypes[0]], kv_bytes=BYTES[dtypes[1]],
    )  # fmt: skip


def visible_pairs(new: FloatArray, keys: FloatArray, window: FloatArray) -> FloatArray:
    """(query, key) pairs of the last `new` of `keys` tokens, each of which sees the `window` up to itself."""

    def first(tokens: FloatArray) -> FloatArray:
        ramp = np.minimum(tokens, window)
        return ramp * (ramp + 1.0) / 2.0 + (tokens - ramp) * np.where(np.isfinite(window), window, 0.0)

    return first(keys) - first(keys - new)
