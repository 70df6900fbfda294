"""One rank's share of an operator: FLOPs and bytes under tensor and expert parallelism, for any number of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from moesim.kernels.base import Calls
from moesim.kernels.shapes import AttentionShape, ExpertShape, MatrixShape, RowShape
from moesim.model.attention import Reach
from moesim.model.operators import Operator
from moesim.spec.base import DTYPE_BYTES, Dtype
from moesim.spec.experiment import DtypeSpec
from moesim.spec.model import ModelSpec
from moesim.step.attention import AttentionSums
from moesim.step.graph import FloatArray

#: Tensors that engines keep in the model's base dtype when weights are quantised.
_UNQUANTISED = frozenset({"router", "embedding", "norm", "none"})


#: Marlin multiplies all weights of four bits alike; int4 was measured with 384 experts, mxfp4 with 896, which take
#: longer to sort tokens by.
_FOUR_BITS = ("int4-bf16", "mxfp4-bf16")

#: Triton's experts of eight bits were measured with scales of blocks, and run with any.
_EIGHT_BITS = ("fp8-block", "fp8")

#: By parts of operators' names: what measured kernels are told apart by.
_VARIANTS = {"rope": "rope", "act": "act", "qk_norm": "qk_norm", "norm": "norm"}


def base_dtype(dtype: DtypeSpec) -> Dtype:
    """What is not quantised is stored and computed in: the weights' dtype where that is a float of 16 bits or more."""
    return dtype.weights if DTYPE_BYTES[dtype.weights] >= 2 else "bf16"


def weight_dtype(operator: Operator, dtype: DtypeSpec) -> Dtype:
    if operator.tensor in _UNQUANTISED:
        return base_dtype(dtype)
    if operator.tensor == "experts" and dtype.experts is not None:
        return dtype.experts
    if operator.tensor == "attention" and dtype.attention is not None:
        return dtype.attention
    return dtype.weights


def arithmetic_dtype(operator: Operator, dtype: DtypeSpec) -> Dtype:
    """Products run in the wider dtype of weights and activations: int4 weights, bf16 activations multiply in bf16."""
    if operator.kind in ("gemm", "experts") and operator.tensor not in _UNQUANTISED:
        return _wider(weight_dtype(operator, dtype), dtype.activations)
    return base_dtype(dtype)


def products_dtype(dtype: DtypeSpec) -> Dtype:
    """What the run's matrix products are in, and so its peak: experts stored apart from other weights left aside."""
    return _wider(dtype.weights, dtype.activations)


def _wider(weights: Dtype, activations: Dtype) -> Dtype:
    return weights if DTYPE_BYTES[weights] > DTYPE_BYTES[activations] else activations


def _fractions(operator: Operator, model: ModelSpec, tp: int) -> tuple[float, float, float]:
    """Shares of one rank in (weights and FLOPs, inputs, outputs)."""
    if operator.shard == "column" or (operator.shard == "vocab" and operator.kind == "gemm"):
        share = _query_key_value_share(model, tp) if operator.name == "qkv" else 1 / tp
        return share, 1.0, share
    if operator.shard == "row":
        return 1 / tp, 1 / tp, 1.0
    if operator.shard == "vocab":  # each rank looks up the tokens of its part of the vocabulary
        return 1 / tp, 1 / tp, 1.0
    if operator.shard == "heads":
        return 1 / tp, 1 / tp, 1 / tp
    return 1.0, 1.0, 1.0


def _query_key_value_share(model: ModelSpec, tp: int) -> float:
    """KV heads are replicated where there are fewer of them than ranks."""
    heads, kv_heads = model.attention.heads, model.attention.kv_heads
    return (heads / tp + 2 * max(kv_heads / tp, 1)) / (heads + 2 * kv_heads)


def kv_share(model: ModelSpec, tp: int) -> float:
    """Share of the KV cache that one tensor-parallel rank holds and reads; MLA's latent cannot be divided."""
    return 1.0 if model.attention.kv_rank is not None else 1 / min(tp, model.attention.kv_heads)


def weight_elements(operator: Operator, model: ModelSpec, tp: int, expert_shards: float) -> float:
    """Elements of the operator's weights that one rank holds."""
    if operator.kind == "experts":
        return operator.weights / expert_shards
    if operator.kind in ("norm", "elementwise"):
        return float(operator.weights)
    return operator.weights * _fractions(operator, model, tp)[0]


def number_formats(weights: Dtype, activations: Dtype, model: ModelSpec) -> tuple[str, ...]:
    """How calibrations name products of such weights and activations, the closest first.

    Models published in fp8 scale their weights by blocks (DeepSeek-V3, arXiv 2412.19437, section 3.3.2); others are
    quantised by engines, tensor by tensor.
    """
    wide = DTYPE_BYTES[activations] >= 2
    if weights in ("fp4", "int4", "fp8", "int8") and wide:  # products in 16 bits, of narrow weights
        own = {"fp4": ("mxfp4-bf16",), "int4": ("int4-bf16", "int4-weight"), "int8": ("int8-weight",)}
        return (*own.get(weights, ()), "bf16")
    if weights == "fp8":
        return ("fp8-block", "fp8") if model.dtype == "fp8" else ("fp8", "fp8-block")
    if weights == "fp4":
        return ("nvfp4", "mxfp4") if activations == "fp4" else ("mxfp4-mxfp8",)
    return ("bf16",) if DTYPE_BYTES[weights] == 2 else (weights,)


def operator_calls(operator: Operator, rows: ArrayLike, model: ModelSpec, tp: int, dtype: DtypeSpec) -> Calls:
    """One call of an operator (not attention, not the routed experts) for each number of rows (tokens, sequences).

    Inputs are read in the activations' dtype, outputs written in the base dtype; each call reads the weights once.
    """
    count = np.asarray(rows, dtype=np.float64)
    work, inputs, outputs = _fractions(operator, model, tp)
    base = base_dtype(dtype)
    quantised = operator.kind == "gemm" and operator.tensor not in _UNQUANTISED
    whole = operator.tensor == "attention" and DTYPE_BYTES[weight_dtype(operator, dtype)] >= 2
    activations = dtype.activations if quantised and not whole else base
    read, written = operator.inputs * inputs, operator.outputs * outputs
    weights = 0.0 if operator.kind == "embedding" else weight_elements(operator, model, tp, 1)
    weight_bytes = weights * DTYPE_BYTES[weight_dtype(operator, dtype)]
    shape: MatrixShape | RowShape
    if operator.kind in ("gemm", "router"):
        sizes = count, np.asarray(written), np.asarray(read)
        shape = MatrixShape(*sizes, *(DTYPE_BYTES[each] for each in (activations, weight_dtype(operator, dtype), base)))
    else:
        width = DTYPE_BYTES[base]
        shape = RowShape(count, np.asarray(read * width), np.asarray(written * width), np.asarray(weight_bytes))
    return Calls(
        kind=operator.kind,
        dtype=arithmetic_dtype(operator, dtype),
        flops=count * operator.flops_per_token * work,
        weight_bytes=np.where(count > 0, weight_bytes, 0.0),
        data_bytes=count * (read * DTYPE_BYTES[activations] + written * DTYPE_BYTES[base]),
        shape=shape,
        formats=number_formats(weight_dtype(operator, dtype), activations, model),
        variant=next((variant for part, variant in _VARIANTS.items() if part in operator.name), ""),
    )


class ExpertShare:
    """What one rank computes and moves of a layer's routed experts.

    Args:
        held: experts on a rank. expert_tp: ranks that share an expert's matrices. variant: see `Calls`.
    """

    def __init__(
        self, operator: Operator, model: ModelSpec, held: float, expert_tp: int, dtype: DtypeSpec, variant: str = ""
    ) -> None:
        assert model.moe is not None
        self._operator, self._expert_tp, self._variant = operator, expert_tp, variant
        self._arithmetic = arithmetic_dtype(operator, dtype)
        self._base = DTYPE_BYTES[base_dtype(dtype)]
        self._moved = (operator.inputs + operator.outputs) + 2 * operator.intermediate / expert_tp
        stored = weight_dtype(operator, dtype)
        #: Bytes of an expert's weights on one rank.
        self.weights = operator.weights / model.moe.experts / expert_tp * DTYPE_BYTES[stored]
        sizes = held, model.hidden, model.moe.width / expert_tp, 3 if model.gated else 2
        columns = (np.asarray(float(each)) for each in sizes)
        self._rest: tuple[Any, ...] = (*columns, DTYPE_BYTES[dtype.activations], DTYPE_BYTES[stored])
        self._formats = number_formats(stored, dtype.activations, model)
        if variant == "marlin" and self._formats[0] in _FOUR_BITS:
            self._formats = _FOUR_BITS
        if variant == "triton" and "fp8-block" in self._formats:
            self._formats = _EIGHT_BITS

    def calls(self, pairs: FloatArray, touched: FloatArray, all_pairs: FloatArray) -> Calls:
        """Args: pairs: (token, expert) pairs of experts held, which touch so many distinct ones. all_pairs: of all
        tokens that the kernel is handed."""
        return Calls(
            kind="experts",
            dtype=self._arithmetic,
            flops=pairs * (self._operator.flops_per_token / self._expert_tp),
            weight_bytes=touched * self.weights,
            data_bytes=pairs * (self._moved * self._base),
            shape=ExpertShape(pairs, all_pairs, touched, *self._rest),
            formats=self._formats,
            variant=self._variant,
        )


class AttentionShare:
    """What one tensor-parallel rank computes and moves of attention, of decoding sequences with `verified` query tokens
    in each step."""

    def __init__(self, model: ModelSpec, tp: int, dtype: DtypeSpec, verified: int = 1) -> None:
        spec, self._dtype, self._nothing = model.attention, base_dtype(dtype), np.zeros(())
        self._tp = tp
        self._kv_bytes = kv_share(model, tp) * DTYPE_BYTES[dtype.kv]
        self._query_bytes = DTYPE_BYTES[self._dtype] / tp
        latent = spec.kv_rank is not None
        query, value = ((spec.nope_dim or 0) + (spec.rope_dim or 0), spec.value_dim) if latent else (spec.head_dim,) * 2
        cached = (spec.kv_rank or 0) + (spec.rope_dim or 0) if latent else 0
        heads = spec.heads / tp, 1.0 if latent else max(spec.kv_heads / tp, 1.0)
        columns = (float(each or 0) for each in (*heads, query, value, cached))
        expanded = 2.0 * (spec.kv_rank or 0) * heads[0] * ((spec.nope_dim or 0) + (spec.value_dim or 0))
        self._rest: tuple[Any, ...] = (
            *columns, DTYPE_BYTES[self._dtype], DTYPE_BYTES[dtype.kv], float(expanded), float(verified)
        )  # fmt: skip
        self._formats = attention_formats(dtype.kv)

    def calls(self, sums: AttentionSums, reach: Reach) -> Calls:
        """One batched attention kernel on one rank, from model-wide sums over its sequences."""
        data = sums.kv_elements * self._kv_bytes + sums.query_elements * self._query_bytes
        shape = AttentionShape(*sums[3:], *self._rest)
        flops, variant = sums.flops / self._tp, "window" if reach == "local" else ""
        return Calls("attention", self._dtype, flops, self._nothing, data, shape, self._formats, variant)


def attention_formats(kv: Dtype) -> tuple[str, ...]:
    """How calibrations name attention over a cache of this dtype, the closest first."""
    return ("bf16-kv-fp8", "bf16") if DTYPE_BYTES[kv] < 2 else ("bf16",)
