"""How many parameters a model has, in all and per token."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from moesim.model.operators import (
    Operator,
    Tensor,
    attention_operators,
    epilogue_operators,
    feed_forward_operators,
    layer_types,
    prologue_operators,
)
from moesim.spec.model import ModelSpec


@dataclass(frozen=True)
class Parameters:
    """Elements, not bytes. Layers for multi-token prediction and encoders of other modalities are not counted.

    Attributes:
        total: all weights, tied embeddings once.
        active: total less the routed experts that a token does not visit.
        embedding: the input embedding, a look-up that some publishers leave out of the active parameters.
        experts: all routed experts.
    """

    total: int
    active: int
    embedding: int
    experts: int


def all_operators(model: ModelSpec) -> Counter[Operator]:
    """Every operator of the model and how often it occurs."""
    count: Counter[Operator] = Counter(prologue_operators(model) + epilogue_operators(model))
    for layer_type, layers in Counter(layer_types(model)).items():
        for operator in attention_operators(model, layer_type) + feed_forward_operators(model, layer_type):
            count[operator] += layers
    return count


def weight_elements(model: ModelSpec) -> dict[Tensor, int]:
    """Weight elements of the whole model by tensor class, as dtypes are given per class. Tied embeddings count once."""
    elements: Counter[Tensor] = Counter()
    for operator, times in all_operators(model).items():
        if operator.weights:
            elements[operator.tensor] += operator.weights * times
    return dict(elements)


def parameters(model: ModelSpec) -> Parameters:
    """Total and active parameters, summed over the operators."""
    elements = weight_elements(model)
    total, experts = sum(elements.values()), elements.get("experts", 0)
    visited = experts * model.moe.top_k // model.moe.experts if model.moe else 0
    return Parameters(
        total=total,
        active=total - experts + visited,
        embedding=model.vocabulary * model.hidden,
        experts=experts,
    )
