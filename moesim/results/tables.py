"""The columns of a run as pandas tables, and as Parquet files with the same bytes for the same run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.engine.record import Column, RunRecord

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, Column]

#: The tables of a results folder, each stored as `<name>.parquet`.
TABLES = ("requests", "iterations", "devices", "operators", "links", "experts", "itl")
#: One more where the run was repeated.
REPEATS = "uncertainty"


def ratio(numerator: Any, denominator: Any) -> NDArray[np.float64]:
    """numerator / denominator, elementwise; NaN where the denominator is zero."""
    top, bottom = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    result = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=result, where=bottom != 0)
    return result


def replica_count(devices: Columns) -> int:
    """Replicas of the deployment; devices outside it have replica -1."""
    replica = np.asarray(devices["replica"])
    return max(1, len(np.unique(replica[replica >= 0])))


def request_columns(record: RunRecord) -> Columns:
    """The requests, with `ttft` (first token - arrival), `e2e` (finish - arrival) and `tpot`, in seconds.

    TPOT is the mean time of the output tokens after the first one, (finish - first token) / (output tokens - 1), as
    serving benchmarks define it; NaN for a single output token, and all three where the event did not happen.
    """
    columns = dict(record.requests)
    columns["ttft"] = columns["first_token"] - columns["arrival"]
    columns["tpot"] = ratio(columns["finish"] - columns["first_token"], columns["output_tokens"] - 1)
    columns["e2e"] = columns["finish"] - columns["arrival"]
    return columns


def device_columns(record: RunRecord) -> Columns:
    """The devices, with `idle` (seconds with neither stream nor ports busy, at least), the shares of the run in which
    each was busy, and the total `energy` in joules."""
    columns = dict(record.devices)
    compute, network = columns["compute_busy"], columns["network_busy"]
    columns["idle"] = np.clip(record.end - compute - network, 0.0, None)
    columns["compute_utilisation"] = ratio(compute, record.end)
    columns["network_utilisation"] = ratio(network, record.end)
    columns["energy"] = sum((columns[f"energy_{part}"] for part in ENERGY_PARTS), np.zeros(len(compute)))
    return columns


#: Where a device's joules go.
ENERGY_PARTS = ("compute", "memory", "link", "idle")


def expert_columns(record: RunRecord) -> Columns:
    """One row per (MoE layer, expert) with the token copies routed to it."""
    tokens = np.asarray(record.expert_tokens, float)
    layers = np.asarray(record.moe_layers, np.int64)
    experts = tokens.shape[1] if tokens.ndim == 2 and len(layers) else 0
    return {
        "layer": np.repeat(layers, experts),
        "expert": np.tile(np.arange(experts, dtype=np.int64), len(layers)),
        "tokens": tokens.reshape(-1) if experts else np.zeros(0),
    }


def itl_columns(record: RunRecord) -> Columns:
    """The inter-token latencies as a weighted sample: each distinct duration once, ascending."""
    durations, group = np.unique(np.asarray(record.itl["duration"], float), return_inverse=True)
    counts = np.bincount(group, weights=record.itl["count"], minlength=len(durations))
    return {"duration": durations, "count": counts.astype(np.int64)}


def all_columns(record: RunRecord) -> dict[str, Columns]:
    """Every table of the run by name, as numpy columns. No wall-clock data."""
    iterations = dict(record.iterations)
    iterations["duration"] = iterations["end"] - iterations["start"]
    operators = dict(record.operators)
    operators["share"] = ratio(operators["seconds"], np.sum(operators["seconds"]))
    links = dict(record.links)
    links["utilisation"] = ratio(links["bytes"], links["bandwidth"] * record.end)
    return {
        "requests": request_columns(record),
        "iterations": iterations,
        "devices": device_columns(record),
        "operators": operators,
        "links": links,
        "experts": expert_columns(record),
        "itl": itl_columns(record),
    }


def frame(columns: Columns) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns)


def write_parquet(columns: Columns, path: Path) -> None:
    """Write one table. Nothing but the values and the column names enters the file (no pandas metadata, no dates), so
    equal tables give equal bytes. NaN becomes null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = [_array(pa, column) for column in columns.values()]
    table = pa.Table.from_arrays(arrays, names=list(columns))
    pq.write_table(table, path, compression="zstd", compression_level=1, store_schema=False)


def _array(pa: Any, column: Column) -> Any:
    values = np.asarray(column)
    if values.dtype.kind in "OUST":
        return pa.array([str(value) for value in values], type=pa.string())
    return pa.array(values, mask=np.isnan(values)) if values.dtype.kind == "f" else pa.array(values)


def read_parquet(path: Path) -> pd.DataFrame:
    """Read one table; null becomes NaN.

    Raises:
        OSError, pyarrow.ArrowInvalid: the file is missing or no Parquet file.
    """
    import pyarrow.parquet as pq

    table: pd.DataFrame = pq.read_table(path).to_pandas()
    return table
