"""What is measured: shapes of the operators of chosen models, and sizes around them. Without PyTorch.

Sizes around a model's are there because half of the shapes is kept apart to score, and so that a fit covers models
that were not chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.kernels.tables import TABLES
from moesim.calibrate.split import rank
from moesim.hardware.device import Device
from moesim.model.operators import Operator, epilogue_operators, layer_types, prologue_operators
from moesim.model.operators import attention_operators as attention_of
from moesim.model.operators import feed_forward_operators as feed_forward_of
from moesim.spec.base import DTYPE_BYTES, Dtype
from moesim.spec.model import ModelSpec

#: Columns of sizes by table; the first ones as in public tables.
COLUMNS: dict[str, tuple[str, ...]] = {
    **{name: TABLES[name] for name in ("gemm", "moe", "attention_prefill", "attention_decode")},
    "elementwise": ("m", "n"),
    "memcpy": ("bytes",),
    "storage": ("bytes", "depth"),
    "collective": ("num_gpus", "num_nodes", "bytes"),
    "steps": ("model", "part", "layers", "batch", "q_len", "kv_len"),
}

#: A case is left out whose roofline takes longer than so many seconds, or whose tensors take this share of the memory.
LONGEST, MOST_MEMORY = 0.03, 0.2


@dataclass(frozen=True)
class Case:
    """One row to be: its table, the kernel, the sizes in the order of COLUMNS, and the variant where there are several.

    work: (FLOP, bytes) of a call, to leave out what takes too long.
    """

    table: str
    kernel: str
    sizes: tuple[int | str, ...]
    variant: str = ""
    work: tuple[float, float] = (0.0, 0.0)

    @property
    def key(self) -> tuple[str, ...]:
        return (self.kernel, self.variant, *(str(size) for size in self.sizes))

    def size(self, name: str) -> int:
        return int(self.sizes[COLUMNS[self.table].index(name)])

    def label(self, name: str) -> str:
        return str(self.sizes[COLUMNS[self.table].index(name)])


def plan(models: Sequence[ModelSpec], device: Device, dtype: Dtype, tables: Iterable[str]) -> dict[str, list[Case]]:
    """The cases of each table that a device can take, in a fixed random order, so that any beginning is a fair sample.

    memcpy, storage, collective and steps have plans of their own (transfers.py, steps.py).
    """
    size = DTYPE_BYTES[dtype]
    makers = {
        "gemm": gemm_cases, "moe": expert_cases, "attention_prefill": prefill_cases,
        "attention_decode": decode_cases, "elementwise": row_cases,
    }  # fmt: skip
    seconds = device.peak(dtype), device.memory.compute_bandwidth
    found = {}
    for table in tables:
        if table in makers:
            cases = [
                case
                for case in makers[table](models, size)
                if max(case.work[0] / seconds[0], case.work[1] / seconds[1]) <= LONGEST
                and case.work[1] <= MOST_MEMORY * device.memory.capacity
            ]
            found[table] = shuffled(cases)
    return found


def shuffled(cases: Iterable[Case]) -> list[Case]:
    """Each once, in an order that only the cases themselves decide."""
    unique = {(case.table, *case.key): case for case in cases}
    return [unique[key] for key in sorted(unique, key=lambda key: rank("order/" + "/".join(key)))]


def operators_of(model: ModelSpec) -> list[Operator]:
    """Every distinct operator of a model."""
    found = dict.fromkeys(prologue_operators(model))
    for kind in dict.fromkeys(layer_types(model)):
        found |= dict.fromkeys([*attention_of(model, kind), *feed_forward_of(model, kind)])
    return [*found, *epilogue_operators(model)]


def powers(low: int, high: int, halves: bool = False) -> list[int]:
    """Powers of two from low to high, and with `halves` also one and a half times them."""
    found = {1 << place for place in range(high.bit_length())}
    if halves:
        found |= {3 << place for place in range(high.bit_length())}
    return sorted(size for size in found if low <= size <= high)


def gemm_cases(models: Sequence[ModelSpec], item: float) -> Iterator[Case]:
    """The products of the models, and a grid of (n, k) in between."""
    pairs = {
        (operator.outputs, operator.inputs)
        for model in models
        for operator in operators_of(model)
        if operator.kind in ("gemm", "router")
    }
    sides = [side for pair in pairs for side in pair if side >= 64]
    between = powers(max(min(sides) // 2, 64), min(2 * max(sides), 16384), halves=True)
    pairs |= {(n, k) for n in between for k in between if 1 / 8 <= n / k <= 8}
    for n, k in sorted(pairs):
        for m in [*powers(1, 16384), 48, 96, 192, 384, 768, 1536, 3072]:
            yield Case("gemm", "gemm", (m, n, k), work=(2.0 * m * n * k, item * (m * k + n * k + m * n)))


def expert_cases(models: Sequence[ModelSpec], item: float) -> Iterator[Case]:
    """The routed experts of the models, and others of half and double their sizes."""
    shapes = set()
    for model in models:
        if model.moe is not None:
            hidden, width, count, top = model.hidden, model.moe.width, model.moe.experts, model.moe.top_k
            shapes |= {
                (h, w, e, k)
                for h in (hidden // 2, hidden, 2 * hidden)
                for w in (width // 2, width, 2 * width)
                for e, k in {(count, top), (max(count // 2, top), top), (count, max(top // 2, 1))}
            }
    for hidden, width, experts, top in sorted(shapes):
        for tokens in powers(1, 16384, halves=True):
            touched = len(np.unique(balanced(tokens, experts, top)))
            flops = 6.0 * tokens * top * hidden * width
            traffic = item * (3.0 * touched * hidden * width + 6.0 * tokens * top * hidden)
            yield Case("moe", "fused_moe", (tokens, hidden, width, experts, top, 1, 1), work=(flops, traffic))


def balanced(tokens: int, experts: int, top_k: int) -> NDArray[np.int64]:
    """[tokens, top_k] experts: choice i of token t is expert t + i · stride, or as evenly spread if tokens are few."""
    stride = -(-experts // top_k)
    first = np.arange(tokens) if tokens >= stride else np.arange(tokens) * stride / tokens
    return (first[:, None] + np.arange(top_k)[None, :] * stride).astype(np.int64) % experts


def head_shapes(models: Sequence[ModelSpec]) -> list[tuple[int, int, int]]:
    """(heads, KV heads, width): the models', their halves on tensor-parallel ranks, and other ratios of heads."""
    found = set()
    for spec in (model.attention for model in models if model.attention.kv_rank is None):
        for shards in (1, 2, 4):
            if spec.heads % shards == 0:
                heads = spec.heads // shards
                found |= {
                    (heads, kv_heads, spec.head_dim)
                    for kv_heads in {max(spec.kv_heads // shards, 1), heads, max(heads // 4, 1)}
                    if heads % kv_heads == 0
                }
    return sorted(found)


def prefill_cases(models: Sequence[ModelSpec], item: float) -> Iterator[Case]:
    """Whole prompts, causal."""
    for heads, kv_heads, width in head_shapes(models):
        for batch in powers(1, 64):
            for length in powers(16, 16384, halves=True):
                flops = 2.0 * heads * width * batch * length * (length + 1)
                traffic = item * batch * length * width * 2.0 * (heads + kv_heads)
                sizes = (batch, length, length, heads, kv_heads, width)
                yield Case("attention_prefill", "attention_prefill", sizes, work=(flops, traffic))


def decode_cases(models: Sequence[ModelSpec], item: float) -> Iterator[Case]:
    """One new token behind a cache."""
    for heads, kv_heads, width in head_shapes(models):
        for batch in powers(1, 256):
            for length in powers(16, 65536, halves=True):
                pairs = float(batch * length)
                work = 4.0 * heads * width * pairs, item * 2.0 * kv_heads * width * pairs
                sizes = (batch, 1, length, heads, kv_heads, width)
                yield Case("attention_decode", "attention_decode", sizes, work=work)


def row_cases(models: Sequence[ModelSpec], item: float) -> Iterator[Case]:
    """Norms, activations and the other kernels that stream rows of n features."""
    widths: dict[str, set[int]] = {}
    for model in models:
        for name, width in row_widths(model):
            widths.setdefault(name, set()).add(width)
    for kernel in sorted(widths):
        base = widths[kernel]
        around = {2 ** round(math.log2(w) + shift) for w in base for shift in (-2, -1, 0, 1, 2)}
        for n in sorted(base | {w for w in around if w >= 8}):
            for m in powers(1, 32768):
                # PyTorch goes over the rows several times.
                yield Case("elementwise", kernel, (m, n), work=(0.0, 16.0 * item * m * n))


def row_widths(model: ModelSpec) -> Iterator[tuple[str, int]]:
    """(kernel, n) of the operators of a model that stream rows; see kernels.py for what n counts."""
    for operator in operators_of(model):
        kernel = row_kernel(operator)
        if kernel is not None:
            yield kernel, row_features(operator)
        elif operator.kind == "experts" and model.moe is not None:
            yield "router_topk", model.moe.experts
            yield "permute", model.hidden


def row_kernel(operator: Operator) -> str | None:
    """What an operator that streams rows is called in the table of elementwise kernels."""
    if operator.name == "qk_norm":
        return "qk_norm"
    if operator.kind == "norm":  # two vectors per token where it also adds the residual
        return "add_norm" if operator.flops_per_token == 2.5 * operator.inputs else "norm"
    if operator.kind == "elementwise":
        return "rope" if operator.name == "rope" else "activation"
    return operator.kind if operator.kind in ("embedding", "sampling") else None


def row_features(operator: Operator) -> int:
    """n of an operator that streams rows."""
    if operator.kind == "sampling":
        return operator.inputs
    return operator.outputs // 2 if row_kernel(operator) == "add_norm" else operator.outputs
