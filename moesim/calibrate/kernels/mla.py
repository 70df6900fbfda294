"""Groups of measured attention over latents (MLA) of DeepSeek-V3's sizes: per device, stack, format of the cache and
implementation.

Only the attention kernels themselves are used; the tables' `module` and `wideep` rows hold the projections around them,
too, which are priced as products of matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moesim.calibrate.fitting import Parameter
from moesim.calibrate.kernels.attention import (
    BYTES,
    DECODE,
    PREFILL,
    enough,
    format_name,
    visible_pairs,
)
from moesim.calibrate.kernels.groups import KernelGroup
from moesim.calibrate.kernels.sources import rates
from moesim.calibrate.kernels.tables import merged, newest, parts, read_table, table_paths
from moesim.kernels.shapes import AttentionShape
from moesim.spec.base import Dtype

if TYPE_CHECKING:
    import pandas as pd

#: DeepSeek-V3 (arXiv 2412.19437, section 4.2): query and key 128 + 64 per head, value 128; latent 512 + 64.
QUERY_WIDTH, VALUE_WIDTH, LATENT = 192.0, 128.0, 576.0

KERNELS = {"context_mla": "mla_prefill", "generation_mla": "mla_decode"}
PARAMETERS = {
    "mla_prefill": tuple(each for each in PREFILL if each.name not in {"width_power", "masked", "packed"}),
    "mla_decode": (
        Parameter("rows", (64.0,), 32.0, 128.0),
        *(each for each in DECODE if each.name not in {"width_power", "rows"}),
    ),
}
_DTYPES: dict[str, Dtype] = {"bfloat16": "bf16", "fp8": "fp8"}


def groups(data: Path) -> Iterator[KernelGroup]:
    """The groups of a folder's tables, of each stack's newest version.

    Raises:
        MoesimError: a table cannot be used.
    """
    paths = table_paths(data, "mla")
    if not paths:
        return
    rows = read_table(paths, "mla")
    rows = newest(rows[rows["kernel"].isin(KERNELS)])
    rows = rows[(rows["kernel"] == "generation_mla") | (rows["isl"] > 1)]  # a prompt of one token is a decode
    keys = ["device", "stack", "kernel", "kv_cache_dtype", "impl"]
    for (device, stack, kernel, kv_dtype, impl), part in parts(rows, keys):
        group = _group(part, KERNELS[kernel], device, stack, _DTYPES[kv_dtype], impl)
        if enough(group):
            yield group


def _group(rows: pd.DataFrame, kernel: str, device: str, stack: str, kv_dtype: Dtype, impl: str) -> KernelGroup:
    sizes = ["num_heads", "batch_size", "isl", "step"]
    rows = merged(rows, sizes)
    heads, batch, new, cached = (rows[name].to_numpy(np.float64) for name in sizes)
    none = np.zeros_like(heads)
    decode = kernel == "mla_decode"
    pairs = visible_pairs(new, cached + new, np.full_like(heads, np.inf))
    shape = AttentionShape(
        decodes=batch if decode else none,
        keys=batch * (cached + new) if decode else none,
        chunks=none if decode else batch,
        queries=none if decode else batch * new,
        pairs=none if decode else batch * pairs,
        chunk_keys=none if decode else batch * (cached + new),
        heads=heads,
        kv_heads=np.ones_like(heads),
        query_width=np.full_like(heads, QUERY_WIDTH),
        value_width=np.full_like(heads, VALUE_WIDTH),
        latent=np.full_like(heads, LATENT),
        query_bytes=BYTES["bf16"],
        kv_bytes=BYTES[kv_dtype],
    )
    return KernelGroup(
        device=device,
        stack=stack,
        kernel=kernel,
        format=format_name("bf16", kv_dtype),
        implementation=impl,
        rates=rates(device, "bf16"),
        shape=shape,
        seconds=rows["latency_us"].to_numpy(np.float64) * 1e-6,
        split=[f"mla/{h:.0f}" for h in heads],
        series=[f"{h:.0f}/{b:.0f}" for h, b in zip(heads, batch, strict=True)],
        size=cached + new,
        sizes={"heads": heads, "batch": batch, "keys": cached + new},
        parameters=PARAMETERS[kernel],
    )
