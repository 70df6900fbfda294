"""Which device of a prefill rank sends which part of a sequence's KV entries to which device of a decode rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.model.operators import kv_elements_per_token
from moesim.serving.footprint import stage_attention_layers
from moesim.spec.base import DTYPE_BYTES
from moesim.step.layout import ReplicaLayout
from moesim.step.program import StageProgram
from moesim.step.tables import StepContext


@dataclass(frozen=True)
class Side:
    """A replica at one end of a transfer, as its layout and its programs, one per pipeline stage."""

    layout: ReplicaLayout
    programs: Sequence[StageProgram]

    def layers(self, stage: int) -> set[int]:
        return stage_attention_layers(self.programs[stage])


@dataclass(frozen=True)
class Lane:
    """Bytes per token from one device to another, by their indices on their machines."""

    source: int
    target: int
    bytes_per_token: float


def transfer_lanes(context: StepContext, source: Side, rank: int, target: Side, other: int) -> list[Lane]:
    """The lanes from a prefill replica's DP rank to a decode replica's, all of which move at once.

    Layers go from the stage that computed them to the stage that needs them, KV heads from the devices that hold them
    to those that need them. Where several prefill devices hold a head (or, with latent attention, the latents), each
    of the decode devices that need it reads from another one, as far as there are so many.

    Args:
        context: of the prefill pool; its KV dtype is that of both.
        rank, other: DP ranks of source and target.
    """
    latent = context.model.attention.kv_rank is not None
    heads = 1 if latent else context.model.attention.kv_heads
    of_head = kv_elements_per_token(context.model) / heads * DTYPE_BYTES[context.dtype.kv]
    needed, held = _holders(heads, target.layout.tp), _holders(heads, source.layout.tp)
    sizes: dict[tuple[int, int], float] = {}
    for stage in range(source.layout.pp):
        for to in range(target.layout.pp):
            layers = len(source.layers(stage) & target.layers(to))
            for head in range(heads if layers else 0):
                for place, receiver in enumerate(needed[head]):
                    sender = held[head][(place + other * len(needed[head])) % len(held[head])]
                    ends = source.layout.devices[stage, rank, sender], target.layout.devices[to, other, receiver]
                    pair = int(ends[0]), int(ends[1])
                    sizes[pair] = sizes.get(pair, 0.0) + layers * of_head
    return [Lane(*pair, size) for pair, size in sorted(sizes.items())]


def _holders(heads: int, tp: int) -> list[list[int]]:
    """By KV head, the tensor-parallel ranks that keep it: one, or several where there are more ranks than heads."""
    if tp <= heads:
        return [[head * tp // heads] for head in range(heads)]
    return [np.arange(tp)[head * tp // heads : (head + 1) * tp // heads].tolist() for head in range(heads)]
