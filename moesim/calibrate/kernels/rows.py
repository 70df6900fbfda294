"""Groups of measured streaming kernels: per device, stack and what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import moesim.kernels.forms.rows  # noqa: F401 - registers the forms
from moesim.calibrate.fitting import Parameter
from moesim.calibrate.kernels.groups import KernelGroup
from moesim.calibrate.kernels.profiles import STREAMING, streams
from moesim.calibrate.kernels.sources import rates
from moesim.calibrate.kernels.tables import DEVICES, known_devices, merged, newest, parts, read_table, table_paths
from moesim.kernels.shapes import RowShape

if TYPE_CHECKING:
    import pandas as pd

FEWEST_ROWS = 60

#: A group with fewer widths is split by rows and width, else by width alone.
FEWEST_WIDTHS = 4

#: Kernel of a table -> the form that prices it, and elements read and written per row of `n` (read once: weights). The
#: activation of a gated MLP reads twice its width. Quantisation to fp8 is part of the products that need it.
KERNELS: dict[str, tuple[str, float, float, float]] = {
    "input_layernorm": ("norm", 1.0, 1.0, 1.0),
    "post_attention_layernorm": ("norm", 1.0, 1.0, 1.0),
    "add": ("elementwise", 2.0, 1.0, 0.0),
    "mlp_act": ("elementwise", 2.0, 1.0, 0.0),
    "attn_rope": ("elementwise", 1.0, 1.0, 0.0),
    "emb": ("embedding", 1.0, 1.0, 0.0),
    "layernorm": ("norm", 2.0, 2.0, 1.0),
    "final_layernorm": ("norm", 2.0, 2.0, 1.0),
    "qk_norm": ("norm", 1.0, 1.0, 0.0),
    "act_fn": ("elementwise", 2.0, 1.0, 0.0),
    "rotary_emb": ("elementwise", 1.0, 1.0, 0.0),
    "rope": ("elementwise", 1.0, 1.0, 0.0),
    "embedding": ("embedding", 1.0, 1.0, 0.0),
    "add_norm": ("norm", 2.0, 2.0, 1.0),
    "norm": ("norm", 1.0, 1.0, 1.0),
    "activation": ("elementwise", 2.0, 1.0, 0.0),
    "sampling": ("sampling", 1.0, 0.0, 0.0),
}
ELEMENT = 2.0  # bf16, fp16

#: KV heads per query head of models that share them; `n` of a rotary embedding counts queries alone.
SHARED_KEYS = {
    "vidur:Llama-2-70b-hf": 0.125, "vidur:CodeLlama-34b-Instruct-hf": 0.125, "vidur:Meta-Llama-3-70B": 0.125,
    "vidur:Meta-Llama-3-8B": 0.25,
}  # fmt: skip

TERMS = (
    Parameter("launch", (2e-6,), 1e-7, 1e-4),
    Parameter("memory", (0.7,), 0.02, 1.0),
    Parameter("sharpness", (3.0,), 1.0, 12.0),
    Parameter("kept", (3e7,), 1e5, 3e8),
    Parameter("cache", (2.0,), 1.0, 10.0),
    Parameter("resident", (2.0, 8.0), 1.0, 32.0),
    Parameter("wave", (3e-7,), 1e-9, 1e-5),
    Parameter("flow", (2.0,), 0.1, 100.0),
    Parameter("rounding", (0.3,), 0.0, 1.0, linear=True),
)


def groups(data: Path) -> Iterator[KernelGroup]:
    """The groups of a folder's tables and of `data`/profiles.

    Raises:
        MoesimError: a table cannot be used.
    """
    paths = table_paths(data, "elementwise")
    for (device, stack, name), part in _usable(read_table(paths, "elementwise")) if paths else ():
        if len(part) >= FEWEST_ROWS:
            kernel, read, written, shared = KERNELS[name]
            keys = part["source"].map(SHARED_KEYS).fillna(1.0) if name == "attn_rope" else 0.0
            width = part["n"] * ELEMENT * (1.0 + keys)
            shaped = part.assign(read=width * read, written=width * written, shared=width * shared)
            yield _group(shaped, device, stack, kernel, name)
    for device, stack, name, part in streams(data):
        yield _group(part, DEVICES[device], stack, STREAMING[name], name)


def _usable(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Rows of each device, stack and kernel. Vidur's tables name a model where others name a stack."""
    rows = rows[rows["kernel"].isin(KERNELS) & (rows["n"] > 0)]
    vidur = rows["source"].str.startswith("vidur:")
    told = [known_devices(rows[vidur]).assign(stack="vidur"), newest(rows[~vidur])]
    for each in told:
        yield from parts(each, ("device", "stack", "kernel"))


def _group(rows: pd.DataFrame, device: str, stack: str, kernel: str, name: str) -> KernelGroup:
    sizes = ["m", "read", "written", "shared"]
    rows = merged(rows, sizes)
    tokens, read, written, shared = (rows[each].to_numpy(np.float64) for each in sizes)
    widths = [f"{name}/{width:.0f}" for width in read]
    few = len(set(widths)) < FEWEST_WIDTHS
    return KernelGroup(
        device=device,
        stack=stack,
        kernel=kernel,
        format="bf16",
        implementation=name,
        rates=rates(device, "bf16"),
        shape=RowShape(tokens, read, written, shared),
        seconds=rows["latency_us"].to_numpy(np.float64) * 1e-6,
        split=[f"{width}/{count:.0f}" for width, count in zip(widths, tokens, strict=True)] if few else widths,
        series=widths,
        size=tokens,
        sizes={"rows": tokens, "read": read},
        parameters=TERMS,
    )
