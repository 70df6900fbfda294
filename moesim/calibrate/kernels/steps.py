"""Groups of whole iterations of dense models, as splitwise-sim has them: fitted where nothing finer was measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moesim.calibrate.fitting import Parameter
from moesim.calibrate.kernels.groups import KernelGroup
from moesim.calibrate.kernels.tables import columns_of, known_devices, read_table, table_paths
from moesim.hardware.device import make_device
from moesim.kernels.calibrated import device_rates
from moesim.kernels.forms import steps as steps  # registers the form
from moesim.kernels.shapes import MatrixShape
from moesim.spec.loading import load_descriptor

if TYPE_CHECKING:
    import pandas as pd

PARAMETERS = (
    Parameter("overhead", (5e-3,), 1e-5, 0.1),
    Parameter("per_token", (1e-6,), 1e-9, 1e-3),
    Parameter("compute", (0.5,), 0.02, 1.0),
    Parameter("memory", (0.7,), 0.05, 1.0),
)


def groups(data: Path) -> Iterator[KernelGroup]:
    """One group per device and stack: prompts and single tokens together, since one model's weights serve both.

    Tables of layers and steps that are there to be predicted from kernels name no parameters, and are passed over.

    Raises:
        MoesimError: a table cannot be used.
    """
    paths = [path for path in table_paths(data, "steps") if "parameters" in columns_of(path, "steps").columns]
    if not paths:
        return
    for (device, source), rows in known_devices(read_table(paths, "steps")).groupby(["device", "source"]):
        yield _group(rows, str(device), str(source).partition(":")[2])


def _group(rows: pd.DataFrame, device: str, stack: str) -> KernelGroup:
    keys = ["model", "parameters", "tp", "batch", "q_len", "kv_len"]
    merged = rows.groupby(keys)["latency_us"].median().reset_index()
    batch, new, tp, weights, seen = (
        merged[each].to_numpy(np.float64) for each in ("batch", "q_len", "tp", "parameters", "kv_len")
    )
    tokens, shard = batch * new, weights / tp
    calls = [f"step/{m}/{t:.0f}/{b:.0f}/{k:.0f}" for m, t, b, k in zip(merged["model"], tp, batch, seen, strict=True)]
    made = make_device(load_descriptor("devices", device), index=0, name=device, node=0)
    return KernelGroup(
        device=device,
        stack=stack,
        kernel="step",
        format="fp16",
        implementation="",
        rates=device_rates(made, "fp16"),
        shape=MatrixShape(tokens, shard, np.ones_like(shard), 2.0, 2.0, 2.0),
        seconds=merged["latency_us"].to_numpy(np.float64) * 1e-6,
        split=calls,
        series=calls,
        size=tokens,
        sizes={"tokens": tokens, "shard": shard, "keys": seen},
        parameters=PARAMETERS,
    )
