"""Whether measured times can be right: none faster than the device's peaks, none so slow that its unit must be another.

Both rest on the least time of a call: arithmetic at the datasheet's peak, bytes at the bandwidth of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moesim.spec.errors import MoesimError, Where
from moesim.spec.hardware import DeviceSpec

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]

#: Times the peak that is called impossible: boost clocks lie a few percent above a datasheet's, timers have a grain.
IMPOSSIBLE = 1.2

#: Times longer than from cold memory, launch included, that no kernel takes; a thousand is a slip of the unit.
BEYOND = 300.0
LAUNCH = 20e-6

#: Bytes that no cache holds: loops of a benchmark find smaller operands there.
UNCACHED = 512e6

#: Times fewer experts than with even routing that skewed routing touches, at most.
SKEWED = 4.0

#: Share of rows beyond any plausible time from which on it is no single bad measurement.
TOO_MANY = 0.01

#: Fewest rows of a table that are worth a fit.
FEWEST_ROWS = 16

_BYTES = {"fp32": 4.0, "float": 4.0, "float32": 4.0, "fp8": 1.0, "fp8_block": 1.0, "int8": 1.0}
_HALF = frozenset({"bfloat16", "bf16", "float16", "fp16", "half"})


def check_times(table: pd.DataFrame, kind: str, device: DeviceSpec, place: Where) -> None:
    """Refuse rows of one device whose times cannot be right; classes whose work we cannot name pass.

    Raises:
        MoesimError: a row faster than 1.2 times the peak, or times of mixed or mistaken units.
    """
    if kind not in _WORK:
        return
    seconds = table["latency_us"].to_numpy(np.float64) * 1e-6
    least, cold = _bounds(table, kind, device)
    fast, slow = seconds * IMPOSSIBLE < least, seconds > BEYOND * (cold + LAUNCH)
    if device.kind == "cpu":  # a few of its cores, perhaps
        slow[:] = False
    for wrong, word in ((fast, "short"), (slow, "long")):
        if wrong.mean() > 0.5:
            factor = float(np.median(seconds / (cold + LAUNCH)))
            what = f"{kind}: most times are too {word} for {device.name} by a factor of {max(factor, 1 / factor):.0f}"
            raise MoesimError(what, where=place, fix="are they in the unit that this format has?")
    if slow.mean() > TOO_MANY:
        row = int(np.argmax(slow))
        what = (
            f"{kind}: {_row(table, row)} takes {seconds[row]:.3g} s, {device.name} needs {cold[row]:.3g} at its peaks"
        )
        raise MoesimError(what, where=place, fix="are units mixed? remove or convert such rows")
    if fast.any():
        row = int(np.argmax(np.where(fast, least / seconds, 0.0)))
        took, needs = f"{seconds[row] * 1e6:.3g} us", f"{least[row] * 1e6:.3g} us"
        what = f"{kind}: {_row(table, row)} takes {took}, {device.name} needs {needs} at its peaks"
        raise MoesimError(what, where=place, fix=f"remove the {int(fast.sum())} impossible rows")


def check_count(rows: int, place: Where) -> None:
    """Raises MoesimError: these are too few rows of a class to fit anything to."""
    if rows < FEWEST_ROWS:
        fix = f"measure at least {FEWEST_ROWS} sizes"
        raise MoesimError(f"{rows} points are too few to fit", where=place, fix=fix)


def _bounds(table: pd.DataFrame, kind: str, device: DeviceSpec) -> tuple[FloatArray, FloatArray]:
    """[rows] seconds that the device's peaks allow: where caches hold what they may hold, and where nothing is held."""
    flops, size = _WORK[kind](table)
    known = {name: rate for name, rate in device.compute if name not in ("units", "clock") and rate is not None}
    fastest = max(known.values(), default=np.inf)
    half = max((known[name] for name in ("bf16", "fp16") if name in known), default=fastest)
    eight = max((known[name] for name in ("fp8", "int8") if name in known), default=half)
    rate = table["dtype"].map(lambda name: half if name in _HALF else eight if _bytes(name) >= 1.0 else fastest)
    compute, memory = flops / rate.to_numpy(np.float64), size / device.memory[0].bandwidth
    return np.maximum(compute, np.where(size > UNCACHED, memory, 0.0)), np.maximum(compute, memory)


def _bytes(dtype: str) -> float:
    """Bytes per element of weights or cache, at least; formats of four bits are many."""
    return 2.0 if dtype in _HALF else _BYTES.get(dtype, 0.5)


def _products(table: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    m, n, k = (table[name].to_numpy(np.float64) for name in ("m", "n", "k"))
    return 2.0 * m * n * k, n * k * table["dtype"].map(_bytes).to_numpy(np.float64)


def _experts(table: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    """At least: two matrices per expert (one in a table of single products), evenly routed tokens."""
    names = ("num_tokens", "topk", "ep", "hidden", "inter", "tp")
    tokens, chosen, ranks, hidden, width, shards = (table[name].to_numpy(np.float64) for name in names)
    matrices = np.where(table["kernel"].astype(str).str.contains("grouped"), 1.0, 2.0)
    pairs, weights = tokens * chosen / ranks, matrices * hidden * width / shards
    touched = np.minimum(pairs, table["num_experts"].to_numpy(np.float64) / ranks) / SKEWED
    return 2.0 * pairs * weights, touched * weights * table["dtype"].map(_bytes).to_numpy(np.float64)


def _visible(table: pd.DataFrame) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    names = ("batch", "q_len", "kv_len", "q_heads", "kv_heads", "head_dim")
    batch, new, keys, heads, kv_heads, width = (table[name].to_numpy(np.float64) for name in names)
    window = table["window"].fillna(0.0).to_numpy(np.float64) if "window" in table.columns else np.zeros(len(table))
    seen = np.where(window > 0, np.minimum(keys, window), keys)
    pairs = batch * new * np.where(window > 0, np.minimum(seen, keys - new / 2.0) / 2.0, keys - new / 2.0)
    return pairs, batch * seen, heads * width, kv_heads * width


def _prefill(table: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    pairs, _, wide, _ = _visible(table)
    return 4.0 * pairs * wide, np.zeros(len(table))


def _decode(table: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    _, keys, _, wide = _visible(table)
    cache = table["kv_dtype"] if "kv_dtype" in table.columns else table["dtype"]
    return np.zeros(len(table)), 2.0 * keys * wide * cache.map(_bytes).to_numpy(np.float64)


def _rows(table: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    """Read or written once."""
    m, n = table["m"].to_numpy(np.float64), table["n"].to_numpy(np.float64).clip(min=1.0)  # -1: not known
    return np.zeros(len(table)), m * n * table["dtype"].map(_bytes).to_numpy(np.float64)


#: FLOPs and bytes of each row, at least.
_WORK = {
    "gemm": _products, "moe": _experts, "attention_prefill": _prefill, "attention_decode": _decode,
    "elementwise": _rows,
}  # fmt: skip


def _row(table: pd.DataFrame, row: int) -> str:
    """'m=16 n=4096 k=4096': what identifies a row to the one who measured it."""
    hidden = {"device", "source", "kernel", "impl", "latency_us", "dtype", "kv_dtype", "window"}
    return " ".join(f"{name}={table[name].iloc[row]}" for name in table.columns if name not in hidden)
