"""What a replica keeps in its devices' memory, and how many KV blocks are left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from moesim.memory.capacity import Footprint, footprint
from moesim.model.operators import Operator, epilogue_operators, kv_elements_per_token
from moesim.model.parameters import all_operators
from moesim.spec.base import DTYPE_BYTES
from moesim.spec.experiment import DtypeSpec
from moesim.spec.model import ModelSpec
from moesim.step.layout import ReplicaLayout
from moesim.step.program import StageProgram
from moesim.step.sharding import kv_share, weight_dtype, weight_elements
from moesim.step.tables import StepContext


@dataclass(frozen=True)
class ReplicaMemory:
    """`blocks` KV blocks per DP rank, what the fullest device leaves; `footprints` of one device per stage, with as
    many blocks: every lane of every stage caches the same tokens."""

    blocks: int
    footprints: tuple[Footprint, ...]


def weight_bytes(model: ModelSpec, dtype: DtypeSpec) -> dict[str, float]:
    """Bytes of the whole model's weights by tensor class, unsharded; "lookup" is the table of embeddings that a step
    does not read as a whole (tied to the head, it counts there)."""
    sizes: Counter[str] = Counter()
    for operator, times in all_operators(model).items():
        tensor = "lookup" if operator.kind == "embedding" else operator.tensor
        sizes[tensor] += operator.weights * times * DTYPE_BYTES[weight_dtype(operator, dtype)]  # type: ignore[assignment]
    return dict(sizes)


def lane_weight_bytes(
    context: StepContext, layout: ReplicaLayout, program: StageProgram, held: float | None = None
) -> float:
    """Bytes of weights that one lane of a stage holds. Tied embeddings stand at the head and, where that is another
    stage, at the first one too. held: experts of a layer on an expert rank; an even part of them by default."""
    operators = Counter(_held(context.model, program))
    moe = context.model.moe
    parts = layout.expert_ranks if held is None or moe is None else moe.experts / held
    shards = parts * layout.expert_tp
    tied = context.model.tied_embeddings and layout.pp > 1 and program.stage == 0
    operators.update(op for op in epilogue_operators(context.model) if tied and op.name == "lm_head")
    return sum(
        times * weight_elements(op, context.model, layout.tp, shards) * DTYPE_BYTES[weight_dtype(op, context.dtype)]
        for op, times in operators.items()
    )


def _held(model: ModelSpec, program: StageProgram) -> Iterator[Operator]:
    """The stage's operators, each once that drafts share: all of them pass one layer and the model's embedding and
    head."""
    seen: set[tuple[str, int]] = set()
    for row in program.rows:
        shared = row.operator is not None and row.operator.tensor == "embedding"
        place = (row.name, -1 if shared else min(row.layer, model.layers))
        if row.operator is not None and place not in seen:
            seen.add(place)
            yield row.operator


def stage_attention_layers(program: StageProgram) -> set[int]:
    """The model's layers whose KV entries a stage keeps."""
    return {row.layer for row in program.rows if row.action == "attention"}


def stage_kv_bytes_per_token(context: StepContext, layout: ReplicaLayout, program: StageProgram) -> float:
    """Bytes that one token adds to the KV cache of one lane of a stage; sliding-window layers keep every token."""
    layers = sum(operator.kind == "attention" for operator in _held(context.model, program))
    elements = kv_elements_per_token(context.model) * kv_share(context.model, layout.tp)
    return layers * elements * DTYPE_BYTES[context.dtype.kv]


def replica_memory(
    context: StepContext,
    layout: ReplicaLayout,
    programs: list[StageProgram],
    held: float | None = None,
    beyond: Callable[[StageProgram], float] | None = None,
) -> ReplicaMemory:
    """Footprints of a replica's stages, and the KV blocks that all of them have room for.

    Args:
        held: experts of a layer on the fullest expert rank; an even part by default.
        beyond: bytes that a lane of a stage holds beyond its share of one model; negative where it lacks some.

    Raises:
        MoesimError: a stage's weights leave no room; says what is needed and what there is.
    """
    footprints: list[Footprint] = []
    blocks: list[int] = []
    for program in programs:
        per_token = stage_kv_bytes_per_token(context, layout, program)
        weights = lane_weight_bytes(context, layout, program, held)
        if beyond is not None:
            weights += beyond(program)
        for name in dict.fromkeys(context.machine.devices[i].spec.name for i in layout.devices[program.stage].ravel()):
            device = next(d for d in context.machine.devices if d.spec.name == name)
            found = footprint(
                context.model, context.engine, device, weights, per_token, layout.tp, context.dtype,
                dp=layout.dp, expert_ranks=layout.expert_ranks,
            )  # fmt: skip
            blocks.append(found.blocks)
        footprints.append(found)
    least = min(blocks)
    used = tuple(replace(found, blocks=least, kv=found.kv * (least / found.blocks)) for found in footprints)
    return ReplicaMemory(least, used)
