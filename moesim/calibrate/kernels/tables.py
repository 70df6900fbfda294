"""Tidy tables of measured kernels: one file per class, one row per measurement, the same columns from every source.

`device` is the descriptor's name or an alias (`DEVICES`), `latency_us` one call, `impl` the kernel family, `source` the
origin with its software version. The remaining columns are the sizes (`TABLES`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moesim.spec.errors import MoesimError, Where
from moesim.spec.kernels import version_order
from moesim.spec.library import list_descriptors

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
    "steps": ("batch", "q_len", "kv_len"),
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


#: Origin, stack and version: `aic:trtllm-1.3.0rc20`, `vidur:vidur`. Names of models (`vidur:Llama-2-7b`) are none.
_SOURCE = re.compile(
    r"^[\w-]+:(?P<stack>[A-Za-z][A-Za-z_-]*?)(?:-(?P<version>\d+(?:\.\d+)+(?:\.?(?:rc|post|dev)\d+)*))?$"
)

#: Tables whose names begin like those of a class, and that hold something else.
_OTHERS = ("moe_alltoall", "moe_wideep")


def table_paths(data: Path, kind: str) -> list[Path]:
    """The files of one class, `KIND.csv` or `KIND_*.csv` (or .csv.gz, .parquet), in `data` or in `data`/kernels."""
    found = [
        path
        for folder in (data, data / "kernels")
        for end in ("csv", "csv.gz", "parquet")
        for path in (folder / f"{kind}.{end}", *folder.glob(f"{kind}_*.{end}"))
    ]
    return sorted(path for path in set(found) if path.is_file() and not path.name.startswith(_OTHERS))


def descriptor_name(device: str) -> str | None:
    """The descriptor that a device of a table means: one of `DEVICES`, or itself."""
    if device in DEVICES:
        return DEVICES[device]
    return device if device in list_descriptors("devices") else None


def known_devices(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of devices that the library knows, these called as their descriptors."""
    names = {each: descriptor_name(str(each)) for each in rows["device"].unique()}
    named = rows.assign(device=rows["device"].map(names))
    return named[named["device"].notna()]


def newest(rows: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Rows of known devices by the newest version of each of their software stacks; `stack` becomes a column.

    Rows whose `source` names no stack (`ORIGIN:STACK-VERSION`, or `ORIGIN:STACK` without one) are left out.

    Args:
        by: columns within whose values the newest version is chosen, beside device and stack.
    """
    rows = known_devices(rows)
    named = rows["source"].astype(str).str.extract(_SOURCE)
    rows = rows.assign(stack=named["stack"], version=named["version"].fillna(""))
    rows = rows[rows["stack"].notna()]
    order = rows["version"].map(version_order)
    last = order.groupby([rows[name] for name in ("device", "stack", *by)]).transform("max")
    rows = rows[order == last]
    return rows.assign(stack=(rows["stack"] + "-" + rows["version"]).str.removesuffix("-"))


def parts(rows: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Rows of equal keys, in the order of these, which are text."""
    for key, part in rows.groupby(list(keys)):
        yield tuple(str(each) for each in key), part


def merged(rows: pd.DataFrame, sizes: Sequence[str]) -> pd.DataFrame:
    """One row per size: repeats of a measurement become their median."""
    return rows.groupby(list(sizes))["latency_us"].median().reset_index()


def read_table(paths: Sequence[Path], kind: str) -> pd.DataFrame:
    """The rows of one class's files (CSV, possibly gzipped, or Parquet), those in several files once.

    Raises:
        MoesimError: a file is missing, lacks a column, or holds a size or time that is no positive number.
    """
    import pandas as pd

    tables = [_read(path, kind) for path in paths]
    return pd.concat(tables, ignore_index=True).drop_duplicates(ignore_index=True)


def columns_of(path: Path, kind: str) -> pd.DataFrame:
    """A class's file with all the columns that it needs; `impl` is empty where nothing was said.

    Raises:
        MoesimError: it is missing, is no table, or lacks a column.
    """
    import pandas as pd

    place = Where(str(path))
    if not path.is_file():
        raise MoesimError("there is no table of measurements", where=place, fix="name the folder that holds it")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, low_memory=False)
    except (ValueError, OSError) as error:  # pandas: EmptyDataError, ParserError; pyarrow: ArrowInvalid; gzip
        raise MoesimError(f"this is no table: {error}", where=place, fix="give CSV or Parquet") from None
    if "kernel" in table.columns and (table["kernel"] == kind).any():
        table = table[table["kernel"] == kind]  # a few rows of a kindred kernel, with sizes of their own
    needed = (*COMMON, *TABLES[kind])
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise MoesimError(f"the column {missing[0]!r} is missing", where=place, fix=f"it needs {', '.join(needed)}")
    return table.assign(impl=table["impl"].astype(object).fillna("") if "impl" in table.columns else "")


def _read(path: Path, kind: str) -> pd.DataFrame:
    import pandas as pd

    table = columns_of(path, kind)
    for name in (*TABLES[kind], "latency_us"):
        values = pd.to_numeric(table[name], errors="coerce")
        right = values >= 0 if name in MAY_BE_ZERO else values > 0
        right |= (values == -1) & (name in MAY_LACK)
        wrong = ~(np.isfinite(values) & right)
        if wrong.any():
            row = int(wrong.idxmax())
            raise MoesimError(f"{name} is {table[name].loc[row]}", where=Where(str(path), row + 2), fix="remove it")
    return table
