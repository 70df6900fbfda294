"""What a pipeline stage executes, row by row: operators sharded by rank, joined by collectives.

The rows are the same for every step; only their sizes change. Between two points where all lanes of a stage wait for
each other, the rows form a *part*: `local` parts (attention, dense layers, router) need no other DP rank, `moe` parts
(dispatch, experts, combine) are the exchange. Since all lanes leave a part together, a step takes the sum over its
parts of the slowest lane's time, which is what makes it cheap to price.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from moesim.model.operators import (
    LayerType,
    Operator,
    attention_operators,
    draft_operators,
    epilogue_operators,
    feed_forward_operators,
    layer_types,
    prologue_operators,
)
from moesim.spec.model import ModelSpec
from moesim.spec.serving import EngineSpec
from moesim.step.layout import ReplicaLayout

Action = Literal[
    "operator", "attention", "experts", "reduce", "reduce_sums", "gather", "gather_logits", "dispatch", "combine",
    "barrier", "send", "shared", "copy",
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One operator or collective of a stage. `shared` rows are operators on the second compute stream."""

    name: str
    action: Action
    layer: int = -1
    operator: Operator | None = None
    attention: Literal["local", "full"] | None = None


@dataclass(frozen=True)
class Part:
    """A local part as a multiset: how often each operator, attention kernel, reduction and head occurs. A head stands
    for the operators that run once per sequence, which choose its next token."""

    operators: tuple[tuple[Operator, int], ...]
    full_attention: int
    local_attention: int
    reductions: int
    norm_reductions: int
    gathers: int
    heads: int


@dataclass(frozen=True)
class StageProgram:
    """`parts` with how often each occurs; `moe_layers` are the stage's MoE layers (model-wide numbers)."""

    stage: int
    rows: tuple[Row, ...]
    parts: tuple[tuple[Part, int], ...]
    moe_layers: tuple[int, ...]
    #: Operators on the second compute stream, with how often each runs; they belong to no part.
    beside: tuple[tuple[Operator, int], ...]


def stage_program(model: ModelSpec, layout: ReplicaLayout, stage: int, engine: EngineSpec) -> StageProgram:
    """The rows of one stage and their grouping into parts."""
    types = layer_types(model)
    owned = [layer for layer, at in enumerate(layout.stage_of_layer(model.layers)) if at == stage]
    rows: list[Row] = []
    if stage == 0:
        rows += [Row(op.name, "operator", operator=op) for op in prologue_operators(model)]
        rows += _reduction("embedding_reduce", -1, layout)
    for layer in owned:
        rows += _attention_rows(model, types[layer], layer, layout)
        rows += _feed_forward_rows(model, types[layer], layer, layout, engine)
    if stage == layout.pp - 1:
        rows += _head_rows(model, layout)
        for draft in range(engine.draft_layers):
            rows += _draft_rows(model, types[-1], model.layers + draft, layout, engine)
    else:
        if layout.dp > 1:  # the ranks of an expert-parallel group leave a stage together
            rows.append(Row("stage_barrier", "barrier"))
        rows.append(Row("stage_send", "send"))
    moe_layers = tuple(row.layer for row in rows if row.action == "experts")
    beside = Counter(row.operator for row in rows if row.action == "shared" and row.operator is not None)
    parts = _parts(rows, layout.dp == 1)
    return StageProgram(stage, tuple(rows), parts, moe_layers, tuple(beside.items()))


def _head_rows(model: ModelSpec, layout: ReplicaLayout) -> list[Row]:
    rows = [Row(op.name, "operator", operator=op) for op in epilogue_operators(model)]
    if layout.tp > 1:
        at = next(i for i, row in enumerate(rows) if row.name == "sampling")
        rows.insert(at, Row("logits_gather", "gather_logits"))
    return rows


def _draft_rows(
    model: ModelSpec, kind: LayerType, layer: int, layout: ReplicaLayout, engine: EngineSpec
) -> list[Row]:
    """A pass through the layer that predicts one token more, with the model's embedding and head."""
    rows = [Row(op.name, "operator", layer, op) for op in draft_operators(model)]
    at = next(i for i, row in enumerate(rows) if row.name == "embedding")
    rows[at + 1 : at + 1] = _reduction("embedding_reduce", layer, layout)
    rows += _attention_rows(model, kind, layer, layout)
    return rows + _feed_forward_rows(model, kind, layer, layout, engine) + _head_rows(model, layout)


def _combines(model: ModelSpec, layer: int, layout: ReplicaLayout, engine: EngineSpec) -> bool:
    """Whether a MoE layer ends in a collective: without returns (`DispatchSpec.returns`) only the last does, which
    gathers the context."""
    if layout.stage_lanes == 1 or engine.dispatch.returns or layout.dp == 1 or engine.transport != "alltoall":
        return layout.stage_lanes > 1
    return layer == max(at for at, kind in enumerate(layer_types(model)) if kind.feed_forward == "moe")


def _reduction(name: str, layer: int, layout: ReplicaLayout) -> list[Row]:
    return [Row(name, "reduce", layer)] if layout.tp > 1 else []


def _attention_rows(model: ModelSpec, kind: LayerType, layer: int, layout: ReplicaLayout) -> list[Row]:
    rows: list[Row] = []
    for op in attention_operators(model, kind):
        if op.kind == "attention":
            rows.append(Row(op.name, "attention", layer, op, kind.attention))
        else:
            rows.append(Row(op.name, "operator", layer, op))
        if op.reduces:
            rows += _reduction("attention_reduce", layer, layout)
        if op.name == "qk_norm" and model.attention.qk_norm == "full" and layout.tp > 1:
            # A norm over all heads: a pass over them for the squares, which the ranks add up, and one that scales them.
            rows += [Row("qk_norm_reduce", "reduce_sums", layer), Row("qk_norm_scale", "operator", layer, op)]
    return rows


def _feed_forward_rows(
    model: ModelSpec, kind: LayerType, layer: int, layout: ReplicaLayout, engine: EngineSpec
) -> list[Row]:
    """MoE: norm, router, shared expert; then dispatch, experts, combine; then what follows the sum (post-norms)."""
    operators = feed_forward_operators(model, kind)
    if kind.feed_forward == "dense":
        rows = []
        for op in operators:
            rows.append(Row(op.name, "operator", layer, op))
            if op.reduces:
                rows += _reduction("mlp_reduce", layer, layout)
        return rows
    experts = next(op for op in operators if op.kind == "experts")
    after = [op for op in operators if op.name == "post_mlp_norm"]
    before = [op for op in operators if op is not experts and op not in after]
    beside = [op for op in before if engine.overlap_shared_experts and op.name.startswith(("shared_", "residual_"))]
    rows = [Row(op.name, "operator", layer, op) for op in before if op not in beside]
    if layout.dp > 1:
        rows.append(Row("dispatch", "dispatch", layer))
    rows += [Row(op.name, "shared", layer, op) for op in beside]
    rows.append(Row("experts", "experts", layer, experts))
    if _combines(model, layer, layout, engine):
        rows.append(Row("combine", "combine", layer))
    elif layout.dp > 1:  # ranks wait for each other as after a combine, though only the next dispatch needs it
        rows.append(Row("experts_barrier", "barrier", layer))
    if layout.dp > 1 and layout.tp > 1:
        # Each lane has part of every sum or, after an all-to-all without shared experts, all sums of some tokens.
        partial = any(op.reduces for op in before)
        gathered = engine.transport == "alltoall" and not partial
        rows.append(Row("experts_gather", "gather", layer) if gathered else Row("experts_reduce", "reduce", layer))
    return rows + [Row(op.name, "operator", layer, op) for op in after]


def _parts(rows: list[Row], alone: bool) -> tuple[tuple[Part, int], ...]:
    """The local parts between the exchanges.

    A DP rank that is `alone` waits for nobody, so that all its parts may be added up as one.
    """
    found: Counter[Part] = Counter()
    current: list[Row] = []
    for row in rows:
        if row.action == "experts" and not alone:
            found[_part(current)] += 1
            current = []
        elif row.action in ("operator", "attention", "reduce", "reduce_sums", "gather"):
            current.append(row)
    found[_part(current)] += 1
    return tuple(found.items())


def _part(rows: list[Row]) -> Part:
    operators = Counter(
        row.operator
        for row in rows
        if row.action == "operator" and row.operator is not None and not row.operator.per_sequence
    )
    return Part(
        tuple(operators.items()),
        sum(row.attention == "full" for row in rows),
        sum(row.attention == "local" for row in rows),
        sum(row.action == "reduce" for row in rows),
        sum(row.action == "reduce_sums" for row in rows),
        sum(row.action == "gather" for row in rows),
        sum(row.name == "sampling" for row in rows),
    )
