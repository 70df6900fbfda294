"""Measured tables of collectives and expert exchanges, as groups that are fitted one by one.

Columns as AIConfigurator's database has them, normalised: see `COLLECTIVE_COLUMNS` and `EXPERT_COLUMNS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.fitting import outliers
from moesim.calibrate.split import fitted_half
from moesim.fabric.expert_protocol import NORMAL_UNITS, Direction, Mode
from moesim.fabric.transfer import Operation
from moesim.spec.errors import MoesimError, Where

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

COLLECTIVE_TABLE = Path("kernels") / "collective.csv.gz"
EXPERT_TABLE = Path("kernels") / "moe_alltoall.csv.gz"

COLLECTIVE_COLUMNS = ("device", "kernel", "dtype", "num_gpus", "bytes", "latency_us", "impl", "source")
EXPERT_COLUMNS = (
    "device", "kernel", "ep", "node_num", "hidden", "num_tokens", "topk", "num_experts", "sms", "latency_us", "source",
)  # fmt: skip

#: Tokens per rank up to which batches over nodes are used.
LARGEST_SCATTERED = 8192

#: Measurements within a node: many model shapes. Those over nodes know one.
ONE_NODE_SOURCE = "aic:sglang-0.5.12"

#: Origin of the rows that are used; others record sizes in units of their own, or were measured over several nodes.
ORIGIN = "aic:"

_ELEMENT = {"half": 2, "float16": 2, "bfloat16": 2, "int8": 1}
_OPERATION: dict[str, Operation] = {
    "all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A measured device: the descriptors it stands for, the port its collectives use, and what joins the ports.

    units: SMs (NVIDIA's datasheets and whitepapers). adds: the switch adds up (NVLink SHARP), and the library uses it
    for groups of eight. nic: bytes/s of the scale-out port it was measured with.
    """

    name: str
    devices: tuple[str, ...]
    link: str
    units: int
    shared_uplinks: bool = False
    adds: bool = False
    nic: float | None = None


#: By the name of a device in the tables. NVLink SHARP: NVSwitch 3 and later; four GPUs of a rack are no group of eight.
TARGETS = {
    "a100_sxm": Target("a100-sxm", ("a100-80-sxm", "a100-40-sxm"), "nvlink3", 108),
    "h100_sxm": Target("h100-sxm", ("h100-sxm",), "nvlink4", 132, adds=True, nic=50e9),
    "h200_sxm": Target("h200-sxm", ("h200-sxm",), "nvlink4", 132, adds=True, nic=50e9),
    "b200_sxm": Target("b200-sxm", ("b200-sxm",), "nvlink5", 148, adds=True),
    "gb200": Target("gb200", ("gb200-gpu",), "nvlink5", 148),
    "gb300": Target("gb300", ("gb300-gpu",), "nvlink5", 148),
    "rtx_pro_6000_server": Target("rtx-pro-6000", ("rtx-pro-6000",), "pcie", 188, shared_uplinks=True),
    "l40s": Target("l40s", ("l40s",), "pcie", 142, shared_uplinks=True),
}


@dataclass(frozen=True, eq=False)
class CollectiveGroup:
    """One operation of one library on one device: [rows] sizes, ranks and seconds, repeats merged to their median."""

    target: Target
    library: str
    operation: Operation
    element: int
    size: FloatArray
    ranks: FloatArray
    seconds: FloatArray

    @property
    def name(self) -> str:
        return f"{self.target.name} {self.library} {self.operation} {self.element} B"

    @cached_property
    def shapes(self) -> list[str]:
        pairs = zip(self.ranks, self.size, strict=True)
        return [f"{self.operation}/{ranks:.0f}/{size:.0f}" for ranks, size in pairs]

    @cached_property
    def fitted(self) -> BoolArray:
        return fitted_half(self.shapes)

    @cached_property
    def rejected(self) -> BoolArray:
        return outliers([f"{ranks:.0f}" for ranks in self.ranks], self.size, self.seconds)


@dataclass(frozen=True, eq=False)
class ExpertGroup:
    """One kernel on one device, within one node or over several: [rows] shapes and seconds."""

    target: Target
    library: str
    mode: Mode
    direction: Direction
    scattered: bool
    tokens: FloatArray
    hidden: FloatArray
    top_k: IntArray
    experts: IntArray
    ranks: IntArray
    nodes: IntArray
    units: FloatArray
    seconds: FloatArray

    @property
    def name(self) -> str:
        span = " over nodes" if self.scattered else ""
        return f"{self.target.name} {self.library} {self.mode} {self.direction}{span}"

    @cached_property
    def shapes(self) -> list[str]:
        """Model shapes within a node: what is scored is a model that no fit has seen. Over nodes, where one model was
        measured, the group's and batch's sizes."""
        columns = (self.hidden, self.top_k, self.experts, self.ranks, self.tokens)
        if self.scattered:
            return [f"{self.mode}/{r}/{t:.0f}" for _, _, _, r, t in zip(*columns, strict=True)]
        return [f"{h:.0f}/{k}/{e}" for h, k, e, _, _ in zip(*columns, strict=True)]

    @cached_property
    def fitted(self) -> BoolArray:
        return fitted_half(self.shapes)

    @cached_property
    def rejected(self) -> BoolArray:
        columns = zip(self.hidden, self.top_k, self.experts, self.ranks, self.units, strict=True)
        return outliers(["/".join(map(str, each)) for each in columns], self.tokens, self.seconds)


def collective_groups(data: Path) -> Iterator[CollectiveGroup]:
    """The groups of the table of collectives, in alphabetical order.

    Raises:
        MoesimError: the table is missing, lacks a column, or holds impossible values.
    """
    table = _table(data / COLLECTIVE_TABLE, COLLECTIVE_COLUMNS, ("num_gpus", "bytes"))
    table = table.assign(
        library=[_library(source, impl) for source, impl in zip(table["source"], table["impl"], strict=True)],
        operation=table["kernel"].map(_OPERATION),
        element=table["dtype"].map(_ELEMENT),
    )
    keys = ["device", "library", "operation", "element"]
    merged = table.groupby([*keys, "num_gpus", "bytes"], as_index=False)["latency_us"].median()
    for _, rows in merged.groupby(keys):
        if rows["num_gpus"].nunique() > 1:
            device, library, operation, element = (rows[key].iloc[0] for key in keys)
            size, ranks, took = (rows[name].to_numpy(np.float64) for name in ("bytes", "num_gpus", "latency_us"))
            yield CollectiveGroup(TARGETS[device], library, operation, int(element), size, ranks, took * 1e-6)


def expert_groups(data: Path) -> Iterator[ExpertGroup]:
    """The groups of the table of expert exchanges: DeepEP within a node and over several, in alphabetical order.

    Rows over nodes that are recorded for two devices alike to the last digit are one measurement: they count for the
    first. The normal mode over nodes is read up to `LARGEST_SCATTERED` tokens per rank and four nodes: beyond, the
    network that it was measured on gives a third of its bandwidth (DeepEP's own table knows no such fall).

    Raises:
        MoesimError: the table is missing, lacks a column, or holds impossible values.
    """
    table = _table(data / EXPERT_TABLE, EXPERT_COLUMNS, ("ep", "hidden", "num_tokens", "topk", "num_experts"))
    table = table[table["kernel"].str.startswith("deepep")].assign(library="deepep")
    far, normal = table["node_num"] > 1, table["kernel"].str.contains("normal")
    congested = normal & ((table["num_tokens"] > LARGEST_SCATTERED) | (table["node_num"] > 4))
    table = table[(~far & (table["source"] == ONE_NODE_SOURCE)) | (far & ~congested)]
    measured = [name for name in table.columns if name not in ("device", "bw_gbps", "notify_us")]
    table = table[~(table["node_num"] > 1) | ~table.duplicated(subset=measured)]
    for _, rows in table.groupby(["device", "kernel", table["node_num"] > 1]):
        device, kernel, nodes = (rows[key].iloc[0] for key in ("device", "kernel", "node_num"))
        mode: Mode = "low_latency" if "_ll_" in kernel else "normal"
        direction: Direction = "dispatch" if kernel.endswith("dispatch") else "combine"
        source = str(rows["source"].iloc[0]).removeprefix(ORIGIN)
        yield _expert_group(rows, TARGETS[device], f"deepep-{source}", mode, direction, bool(nodes > 1))


def _expert_group(
    rows: pd.DataFrame, target: Target, library: str, mode: Mode, direction: Direction, scattered: bool
) -> ExpertGroup:
    def column(name: str) -> FloatArray:
        return rows[name].to_numpy(np.float64)

    return ExpertGroup(
        target=target,
        library=library,
        mode=mode,
        direction=direction,
        scattered=scattered,
        tokens=column("num_tokens"),
        hidden=column("hidden"),
        top_k=column("topk").astype(np.int64),
        experts=column("num_experts").astype(np.int64),
        ranks=column("ep").astype(np.int64),
        nodes=column("node_num").astype(np.int64),
        units=rows["sms"].fillna(NORMAL_UNITS).to_numpy(np.float64),
        seconds=column("latency_us") * 1e-6,
    )


def _library(source: str, implementation: object) -> str:
    """`aic:vllm-0.24.0` measured as a graph -> vllm-graph-0.24.0."""
    name, _, version = source.removeprefix(ORIGIN).partition("-")
    way = re.search(r"graph|eager", str(implementation))
    return f"{name}-{way.group()}-{version}" if way else f"{name}-{version}"


def _table(path: Path, columns: tuple[str, ...], positive: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    place = Where(str(path))
    if not path.is_file():
        raise MoesimError("there is no table of measurements", where=place, fix="name the folder that holds it")
    table = pd.read_csv(path)
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise MoesimError(f"the column {missing[0]!r} is missing", where=place, fix=f"it needs {', '.join(columns)}")
    table = table[table["source"].str.startswith(ORIGIN) & table["device"].isin(TARGETS)]
    for name in (*positive, "latency_us"):
        values = pd.to_numeric(table[name], errors="coerce")
        wrong = ~(np.isfinite(values) & (values > 0))
        if wrong.any():
            row = int(table.index[int(np.argmax(wrong))])
            raise MoesimError(f"{name} is {table[name][row]}", where=Where(str(path), row + 2), fix="remove the row")
    return table
