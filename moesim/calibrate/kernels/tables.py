"""Tidy tables of measured kernels: one file per class, one row per measurement, the same columns from every source.

`device` is the descriptor's name or an alias (`DEVICES`), `latency_us` one call, `impl` the kernel family, `source` the
origin with its software version. The remaining columns are the sizes (`TABLES`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moesim.spec.errors import MoesimError, Where

if TYPE_CHECKING:
    import pandas as pd

#: Size columns of each class of kernels; all positive but those of `MAY_BE_ZERO`.
TABLES: dict[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"),
    "moe": ("num_tokens", "hidden", "inter", "num_experts", "topk", "tp", "ep"),
    "attention_prefill": ("batch", "q_len", "kv_len", "q_heads", "kv_heads", "head_dim"),
    "attention_decode": ("batch", "q_len", "kv_len", "q_heads", "kv_heads", "head_dim"),
    "mla": ("num_heads", "batch_size", "isl", "tp_size", "step"),
    "elementwise": ("m",),  # and "n", where the width is known
}
MAY_BE_ZERO = frozenset({"step"})

#: Single grouped products are measured without a router: -1 where there is no such size.
MAY_LACK = frozenset({"topk"})

#: Columns that every table has beside its sizes.
COMMON = ("device", "kernel", "dtype", "latency_us", "source")

#: Names of devices in public tables -> descriptors.
DEVICES = {
    "a100_sxm": "a100-80-sxm", "h100_sxm": "h100-sxm", "h200_sxm": "h200-sxm", "b200_sxm": "b200-sxm",
    "gb200": "gb200-gpu", "gb300": "gb300-gpu", "l40s": "l40s", "rtx_pro_6000_server": "rtx-pro-6000",
    "rtxpro6000": "rtx-pro-6000", "rtx4090": "rtx4090", "mi300x": "mi300x", "mi355x": "mi355x",
    "a100_vidur": "a100-80-sxm", "h100_vidur": "h100-sxm",
}  # fmt: skip


def read_table(paths: Sequence[Path], kind: str) -> pd.DataFrame:
    """The rows of one class's files (CSV, possibly gzipped, or Parquet), those in several files once.

    Raises:
        MoesimError: a file is missing, lacks a column, or holds a size or time that is no positive number.
    """
    import pandas as pd

    tables = [_read(path, kind) for path in paths]
    return pd.concat(tables, ignore_index=True).drop_duplicates(ignore_index=True)


def _read(path: Path, kind: str) -> pd.DataFrame:
    import pandas as pd

    place = Where(str(path))
    if not path.is_file():
        raise MoesimError("there is no table of measurements", where=place, fix="name the folder that holds it")
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, low_memory=False)
    if "kernel" in table.columns and (table["kernel"] == kind).any():
        table = table[table["kernel"] == kind]  # a few rows of a kindred kernel, with sizes of their own
    needed = (*COMMON, *TABLES[kind])
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise MoesimError(f"the column {missing[0]!r} is missing", where=place, fix=f"it needs {', '.join(needed)}")
    for name in (*TABLES[kind], "latency_us"):
        values = pd.to_numeric(table[name], errors="coerce")
        right = values >= 0 if name in MAY_BE_ZERO else values > 0
        right |= (values == -1) & (name in MAY_LACK)
        wrong = ~(np.isfinite(values) & right)
        if wrong.any():
            row = int(wrong.idxmax())
            raise MoesimError(f"{name} is {table[name].loc[row]}", where=Where(str(path), row + 2), fix="remove it")
    return table
