"""Groups of the kernels that `moesim calibrate run` has measured: one folder, one machine, one stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.benchmarks.cases import balanced
from moesim.calibrate.fitting import Parameter
from moesim.calibrate.kernels.groups import KernelGroup
from moesim.calibrate.kernels.library import all_groups
from moesim.calibrate.kernels.tables import read_table
from moesim.hardware.device import Device
from moesim.kernels.calibrated import device_rates
from moesim.kernels.forms import plain as plain  # registers the form
from moesim.kernels.shapes import AttentionShape, ExpertShape, MatrixShape, RowShape, Shape
from moesim.spec.base import DTYPE_BYTES, Dtype
from moesim.spec.errors import MoesimError, Where

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
Columns = dict[str, FloatArray]

#: PyTorch's names of formats -> ours.
DTYPES: dict[str, Dtype] = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

_LAUNCH = Parameter("launch", (5e-6, 1e-4), 1e-7, 1e-2)
_MEMORY = Parameter("memory", (0.5,), 0.005, 1.0)
_COMPUTE = Parameter("compute", (0.2,), 0.005, 1.0)
_SHARPNESS = Parameter("sharpness", (2.0,), 0.7, 8.0)
_FILL = Parameter("fill", (4.0,), 0.01, 200.0)
_EDGE = Parameter("edge", (100.0,), 0.1, 2000.0)
_EXPERT = Parameter("expert", (1e-5,), 1e-8, 1e-2)

#: What of the form is fitted, by table.
PARAMETERS: dict[str, tuple[Parameter, ...]] = {
    "gemm": (_LAUNCH, _MEMORY, _COMPUTE, _SHARPNESS, _FILL, _EDGE),
    "moe": (_LAUNCH, _MEMORY, _COMPUTE, _SHARPNESS, _FILL, _EDGE, _EXPERT),
    "attention_prefill": (_LAUNCH, _MEMORY, _COMPUTE, _SHARPNESS),
    "attention_decode": (_LAUNCH, _MEMORY, _COMPUTE, _SHARPNESS),
    "elementwise": (_LAUNCH, _MEMORY),
}

#: Sizes that tell one shape from another, by table: what may not be both fitted and scored.
_SPLIT = {
    "gemm": ("n", "k"), "moe": ("hidden", "inter", "num_experts", "topk"),
    "attention_prefill": ("q_heads", "kv_heads", "head_dim"),
    "attention_decode": ("q_heads", "kv_heads", "head_dim"), "elementwise": ("n",),
}  # fmt: skip

#: The size along which a shape's times must grow, and what else is constant along it.
_ALONG = {
    "gemm": ("m", ()), "moe": ("num_tokens", ()), "attention_prefill": ("kv_len", ("batch",)),
    "attention_decode": ("kv_len", ("batch",)), "elementwise": ("m", ()),
}  # fmt: skip

#: Vectors of n features that a kernel of the elementwise table reads and writes per row, by its name.
_ROWS = {
    "add_norm": (2.0, 2.0), "norm": (1.0, 1.0), "qk_norm": (1.0, 1.0), "activation": (2.0, 1.0), "rope": (1.0, 1.0),
    "embedding": (1.0, 1.0), "sampling": (1.0, 0.0),
}  # fmt: skip


def own_groups(folder: Path, device: Device, way: str) -> dict[str, KernelGroup]:
    """The groups by table, and of the elementwise table by kernel. way: `eager` or `graph`.

    A GPU's are those of `moesim calibrate fit`, each with the form of its class. On a CPU, where those forms' tiles,
    waves and bounds mean nothing, every kernel has the plain form.

    Raises:
        MoesimError: a table is missing or cannot be used, or was measured on another device.
    """
    if device.spec.kind != "cpu":
        return dict(_by_class(folder, device.spec.name, f"torch-{way}-"))
    found: dict[str, KernelGroup] = {}
    for table in PARAMETERS:
        path = folder / f"{table}.csv"
        rows = read_table([path], table)
        if set(rows["device"]) != {device.spec.name}:
            other = next(iter(set(rows["device"]) - {device.spec.name}))
            raise MoesimError(f"was measured on {other}, not on {device.spec.name}", where=Where(str(path)))
        for kernel, part in rows[rows["impl"] == way].groupby("kernel"):
            if table != "elementwise" or kernel in _ROWS:
                name = str(kernel) if table == "elementwise" else table
                found[name] = _group(part, table, name, device)
    return found


def _by_class(folder: Path, device: str, stack: str) -> Iterator[tuple[str, KernelGroup]]:
    for group in all_groups(folder):
        if group.device == device and group.stack.startswith(stack):
            table = {"experts": "moe"}.get(group.kernel, group.kernel)
            yield (table if table in PARAMETERS and table != "elementwise" else group.implementation), group


def _group(rows: pd.DataFrame, table: str, name: str, device: Device) -> KernelGroup:
    dtype = DTYPES[str(rows["dtype"].iloc[0])]
    size, constant = _ALONG[table]
    columns = {each: rows[each].to_numpy(np.float64) for each in rows.select_dtypes("number").columns}
    return KernelGroup(
        device=device.spec.name,
        stack=str(rows["source"].iloc[0]).partition(":")[2],
        kernel="plain",
        format=dtype,
        implementation=name,
        rates=device_rates(device, dtype),
        shape=shape_of(table, name, columns, dtype),
        seconds=columns["latency_us"] * 1e-6,
        split=[f"{name}/{label}" for label in _labels(columns, _SPLIT[table])],
        series=_labels(columns, (*_SPLIT[table], *constant)),
        size=columns[size],
        sizes={each: columns[each] for each in (*_SPLIT[table], size)},
        parameters=PARAMETERS[table],
    )


def shape_of(table: str, kernel: str, columns: Columns, dtype: Dtype) -> Shape:
    """What the rows of a table look like to the hardware. kernel: of the elementwise table; else the table's name."""
    return _SHAPES[table](columns, DTYPE_BYTES[dtype], kernel)


def _labels(columns: Columns, names: tuple[str, ...]) -> list[str]:
    return ["/".join(f"{value:.0f}" for value in row) for row in zip(*(columns[name] for name in names), strict=True)]


def _matrix(columns: Columns, item: float, _: str) -> Shape:
    return MatrixShape(columns["m"], columns["n"], columns["k"], item, item, item)


def _experts(columns: Columns, item: float, _: str) -> Shape:
    sizes = [columns[name] for name in ("num_tokens", "num_experts", "topk")]
    touched = [len(np.unique(balanced(int(t), int(e), int(k)))) for t, e, k in zip(*sizes, strict=True)]
    pairs = columns["num_tokens"] * columns["topk"]
    held, hidden, width = (columns[name] for name in ("num_experts", "hidden", "inter"))
    return ExpertShape(
        pairs, pairs, np.array(touched, dtype=np.float64), held, hidden, width, np.full_like(hidden, 3.0), item, item
    )


def _attention(columns: Columns, item: float, name: str) -> Shape:
    batch, new, keys = (columns[each] for each in ("batch", "q_len", "kv_len"))
    heads, kv_heads, width = (columns[each] for each in ("q_heads", "kv_heads", "head_dim"))
    none = np.zeros_like(batch)
    sums: tuple[Any, ...] = (batch, batch * keys, none, none, none, none)
    if name == "attention_prefill":
        sums = (none, none, batch, batch * new, batch * new * (new + 1.0) / 2.0, batch * keys)
    return AttentionShape(*(*sums, heads, kv_heads, width, width, none, item, item))


def _rows(columns: Columns, item: float, name: str) -> Shape:
    read, written = _ROWS[name]
    n = columns["n"] * item
    shared = n if "norm" in name else np.zeros_like(n)
    return RowShape(columns["m"], read * n, written * n, shared)


_SHAPES: dict[str, Callable[[Columns, float, str], Shape]] = {
    "gemm": _matrix, "moe": _experts, "attention_prefill": _attention, "attention_decode": _attention,
    "elementwise": _rows,
}  # fmt: skip
