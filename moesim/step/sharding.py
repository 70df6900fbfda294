"""One rank's share of an operator: FLOPs and bytes under tensor and expert parallelism, for any number of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from moesim.kernels.base import Calls
from moesim.model.operators import Operator
from moesim.spec.base import DTYPE_BYTES, Dtype
from moesim.spec.experiment import DtypeSpec
from moesim.spec.model import ModelSpec
from moesim.step.graph import FloatArray

#: Tensors that engines keep in the model's base dtype when weights are quantised.
_UNQUANTISED = frozenset({"router", "embedding", "norm", "none"})


def base_dtype(dtype: DtypeSpec) -> Dtype:
    """What is not quantised is stored and computed in: the weights' dtype where that is a float of 16 bits or more."""
    return dtype.weights if DTYPE_BYTES[dtype.weights] >= 2 else "bf16"


def weight_dtype(operator: Operator, dtype: DtypeSpec) -> Dtype:
    if operator.tensor in _UNQUANTISED:
        return base_dtype(dtype)
    if operator.tensor == "experts" and dtype.experts is not None:
        return dtype.experts
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


def weight_elements(operator: Operator, model: ModelSpec, tp: int, expert_shards: int) -> float:
    """Elements of the operator's weights that one rank holds."""
    if operator.kind == "experts":
        return operator.weights / expert_shards
    if operator.kind in ("norm", "elementwise"):
        return float(operator.weights)
    return operator.weights * _fractions(operator, model, tp)[0]


def operator_calls(operator: Operator, rows: ArrayLike, model: ModelSpec, tp: int, dtype: DtypeSpec) -> Calls:
    """One call of an operator (not attention, not the routed experts) for each number of rows (tokens, sequences).

    Inputs are read in the activations' dtype, outputs written in the base dtype; each call reads the weights once.
    """
    count = np.asarray(rows, dtype=np.float64)
    work, inputs, outputs = _fractions(operator, model, tp)
    base = DTYPE_BYTES[base_dtype(dtype)]
    read = DTYPE_BYTES[dtype.activations] if operator.kind == "gemm" and operator.tensor not in _UNQUANTISED else base
    data = count * (operator.inputs * inputs * read + operator.outputs * outputs * base)
    weights = 0.0 if operator.kind == "embedding" else weight_elements(operator, model, tp, 1)
    return Calls(
        kind=operator.kind,
        dtype=arithmetic_dtype(operator, dtype),
        flops=count * operator.flops_per_token * work,
        weight_bytes=np.where(count > 0, weights * DTYPE_BYTES[weight_dtype(operator, dtype)], 0.0),
        data_bytes=data,
    )


def expert_calls(
    operator: Operator, copies: FloatArray, touched: FloatArray, experts: int, expert_tp: int, dtype: DtypeSpec
) -> Calls:
    """One layer's routed experts on one rank: `copies` (token, expert) pairs that touch `touched` distinct experts."""
    base = DTYPE_BYTES[base_dtype(dtype)]
    moved = (operator.inputs + operator.outputs) + 2 * operator.intermediate / expert_tp
    weights = operator.weights / experts / expert_tp * DTYPE_BYTES[weight_dtype(operator, dtype)]
    return Calls(
        kind="experts",
        dtype=arithmetic_dtype(operator, dtype),
        flops=copies * (operator.flops_per_token / expert_tp),
        weight_bytes=touched * weights,
        data_bytes=copies * (moved * base),
    )


class AttentionShare:
    """What one tensor-parallel rank computes and moves of attention."""

    def __init__(self, model: ModelSpec, tp: int, dtype: DtypeSpec) -> None:
        self._tp, self._dtype, self._nothing = tp, base_dtype(dtype), np.zeros(())
        self._kv_bytes = kv_share(model, tp) * DTYPE_BYTES[dtype.kv]
        self._query_bytes = DTYPE_BYTES[self._dtype] / tp

    def calls(self, flops: FloatArray, kv_elements: FloatArray, query_elements: FloatArray) -> Calls:
        """One batched attention kernel on one rank, from model-wide sums over its sequences."""
        data = kv_elements * self._kv_bytes + query_elements * self._query_bytes
        return Calls("attention", self._dtype, flops / self._tp, self._nothing, data)
