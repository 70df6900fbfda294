"""What a training step keeps in memory: weights, gradients, optimizer states, and activations until they are used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.memory.capacity import GIB, workspace_bytes
from moesim.model.attention import kv_elements_per_token
from moesim.model.operators import Operator, epilogue_operators
from moesim.spec.base import DTYPE_BYTES
from moesim.spec.errors import MoesimError
from moesim.step.graph import FloatArray, IntArray
from moesim.step.sharding import base_dtype, kv_share, weight_dtype, weight_elements
from moesim.training.order import in_flight
from moesim.training.plan import TrainingPlan

#: Bytes of optimizer state per parameter: Adam's two moments in fp32 (Kingma and Ba, ICLR 2015), and the master copy in
#: fp32 where weights are narrower (Micikevicius et al., ICLR 2018, arXiv 1710.03740).
MOMENTS = {"adam": 8.0, "sgd": 0.0}
MASTER = 4.0


@dataclass(frozen=True)
class PartSize:
    """One lane's share of a part of the model, in bytes, but for the numbers of parameters.

    dense, experts: parameters, and bytes of their weights. read: of the dense ones, bytes that a pass reads as a whole
    (not a table of embeddings, in which it looks up rows); resident: bytes of those that it holds as a whole (the head
    is read tile by tile). saved: activations kept per token of a dense lane, and per (token, expert) pair of an expert
    lane. recomputed: where layers are, what each kind of layer keeps besides its input while its backward pass runs,
    per token and per pair.
    """

    dense: float
    dense_bytes: float
    experts: float
    expert_bytes: float
    read: float
    resident: float
    saved: float
    saved_pair: float
    recomputed: tuple[tuple[float, float], ...]


def part_sizes(plan: TrainingPlan) -> list[PartSize]:
    return [_part_size(plan, part) for part in range(plan.layout.parts)]


def _part_size(plan: TrainingPlan, part: int) -> PartSize:
    model, layout, dtype = plan.spec.model, plan.layout, plan.spec.storage
    operators = [(row.operator, row.layer) for row in plan.programs[part].rows if row.operator is not None]
    if model.tied_embeddings and part == 0 and layout.stages > 1:
        operators += [(op, -1) for op in epilogue_operators(model) if op.name == "lm_head"]
    shards = layout.expert_ranks * layout.expert_tp
    sizes = {"dense": [0.0, 0.0], "experts": [0.0, 0.0]}
    by_layer: dict[int, float] = {}
    pairs: dict[int, float] = {}
    read = resident = 0.0
    for operator, layer in operators:
        elements = weight_elements(operator, model, layout.tp, shards)
        entry = sizes["experts" if operator.kind == "experts" else "dense"]
        entry[0] += elements
        entry[1] += elements * DTYPE_BYTES[weight_dtype(operator, dtype)]
        if operator.kind == "experts":
            width = operator.inputs + operator.intermediate / layout.expert_tp
            pairs[layer] = pairs.get(layer, 0.0) + width * DTYPE_BYTES[base_dtype(dtype)]
        else:
            by_layer[layer] = by_layer.get(layer, 0.0) + saved_bytes(plan, operator)
            held = elements * DTYPE_BYTES[weight_dtype(operator, dtype)]
            read += held if operator.kind != "embedding" else 0.0
            resident += held if operator.tensor != "embedding" else 0.0
    inputs = model.hidden * DTYPE_BYTES[base_dtype(dtype)]
    full = plan.training.recompute == "full"
    kept = {layer: inputs if full and layer >= 0 else size for layer, size in by_layer.items()}
    again = {(size - inputs, pairs.get(layer, 0.0)) for layer, size in by_layer.items() if layer >= 0}
    return PartSize(
        dense=sizes["dense"][0], dense_bytes=sizes["dense"][1], experts=sizes["experts"][0],
        expert_bytes=sizes["experts"][1], read=read, resident=resident, saved=sum(kept.values()),
        saved_pair=0.0 if full else sum(pairs.values()), recomputed=tuple(sorted(again)) if full else (),
    )  # fmt: skip


def saved_bytes(plan: TrainingPlan, operator: Operator) -> float:
    """Bytes per token that one lane keeps of an operator's inputs for its backward pass.

    Norms keep their input once (the residual stream is the next norm's); attention its queries, keys, values and
    output, from which its kernel computes the scores again (Dao, arXiv 2307.08691), unless it is recomputed whole; the
    embedding keeps nothing but token numbers, the loss its logits.
    """
    model, tp = plan.spec.model, plan.layout.tp
    element = DTYPE_BYTES[base_dtype(plan.spec.storage)]
    if operator.kind == "embedding":
        return 0.0
    if operator.kind == "attention":
        if plan.training.recompute == "attention":
            return 0.0
        return (operator.inputs / tp + kv_elements_per_token(model) * kv_share(model, tp)) * element
    divided = operator.kind in ("sampling", "elementwise") or operator.shard in ("row", "heads")
    streams = 2 if operator.kind == "norm" and operator.inputs == 2 * model.hidden else 1
    return operator.inputs / (tp if divided else 1) / streams * element


@dataclass(frozen=True)
class TrainingFootprint:
    """Bytes on each lane of the machine, [N] each; `capacity` is of the tier that holds them."""

    weights: FloatArray
    gradients: FloatArray
    optimizer: FloatArray
    activations: FloatArray
    workspace: FloatArray
    capacity: FloatArray

    @property
    def total(self) -> FloatArray:
        return self.weights + self.gradients + self.optimizer + self.activations + self.workspace


def optimizer_bytes(plan: TrainingPlan, weight_bytes: float) -> float:
    """Bytes of optimizer state per parameter whose weight has so many."""
    return MOMENTS[plan.training.optimizer] + (MASTER if weight_bytes < MASTER else 0.0)


def update_bytes(plan: TrainingPlan, weight_bytes: float) -> float:
    """Bytes per parameter, beside its gradient, that the optimizer reads and writes: its states twice; the weight once
    where it is written from a master copy, twice where it is its own."""
    return 2 * optimizer_bytes(plan, weight_bytes) + weight_bytes * (1 if weight_bytes < MASTER else 2)


def footprint(plan: TrainingPlan, pairs: FloatArray) -> TrainingFootprint:
    """What every device holds at the fullest moment of the step.

    Args:
        pairs: [parts, N] (token, expert) pairs of a layer and micro-batch on a lane, the largest there are.
    """
    layout, training, lanes = plan.layout, plan.training, len(plan.machine.devices)
    columns = {name: np.zeros(lanes) for name in ("weights", "gradients", "optimizer", "activations")}
    recomputed = np.zeros(lanes)  # of the one layer that is in its backward pass
    flights = [in_flight(tasks) for tasks in plan.order]
    gradient = DTYPE_BYTES[training.gradients]
    for part, size in enumerate(part_sizes(plan)):
        stage = part % layout.stages
        # Whatever is in flight on a stage is spread over its chunks.
        alive = flights[stage] / layout.chunks
        dense, experts = layout.dense[:, stage].ravel(), layout.experts[:, stage].ravel()
        for at, number, held, ranks in (
            (dense, size.dense, size.dense_bytes, layout.ranks),
            (experts, size.experts, size.expert_bytes, layout.groups),
        ):
            each = held / number if number else 0.0
            columns["weights"][at] += held
            columns["gradients"][at] += number * gradient
            states = number * optimizer_bytes(plan, each)
            columns["optimizer"][at] += states / (ranks if training.sharded_optimizer else 1)
        columns["activations"][dense] += alive * plan.tokens * size.saved
        columns["activations"][experts] += alive * pairs[part, experts] * size.saved_pair
        for token, pair in size.recomputed:
            layer = np.zeros(lanes)
            layer[dense] = plan.tokens * token
            layer[experts] += pairs[part, experts] * pair
            recomputed = np.maximum(recomputed, layer)
    columns["activations"] += recomputed
    used: IntArray = np.concatenate([layout.all_lanes(stage) for stage in range(layout.stages)])
    workspace = np.zeros(lanes)
    workspace[used] = [workspace_bytes(plan.machine.devices[lane], len(used)) for lane in used]
    capacity = np.array([_tier_capacity(plan, lane) for lane in range(lanes)])
    return TrainingFootprint(**columns, workspace=workspace, capacity=capacity)


def _tier_capacity(plan: TrainingPlan, lane: int) -> float:
    device, stream = plan.machine.devices[lane], plan.training.stream
    return device.memory.capacity if stream is None else device.tier(stream.tier).capacity


def check_footprint(plan: TrainingPlan, found: TrainingFootprint) -> None:
    """Raises MoesimError where a device's memory is too small for its share; names the fullest one."""
    over = found.total / found.capacity
    lane = int(np.argmax(over))
    if over[lane] <= 1:
        return
    parts = ", ".join(
        f"{name} {getattr(found, name)[lane] / GIB:#.3g}"
        for name in ("weights", "gradients", "optimizer", "activations", "workspace")
    )
    where = "its memory" if plan.training.stream is None else f"its share of {plan.training.stream.tier}"
    raise MoesimError(
        f"training {plan.spec.model.name} does not fit on {plan.machine.devices[lane].name}: {parts} GiB make "
        f"{found.total[lane] / GIB:#.3g} GiB, {where} holds {found.capacity[lane] / GIB:#.3g} GiB",
        key="training",
        fix="raise pp, tp, ep or micro_batches, shard the optimizer, recompute activations, or use devices with more "
        "memory",
    )
