"""A training step as a user writes it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from moesim.spec.base import Dtype, Schema

Sequences = Annotated[int, Field(gt=0, le=10_000_000)]
Pieces = Annotated[int, Field(gt=0, le=1024)]


class StreamSpec(Schema):
    """Weights that live in an outer memory tier and are brought to the inner ones one model chunk at a time.

    `tier` holds weights, gradients, optimizer states and saved activations; kernels read from the tiers before it. The
    experts of a device are brought in `pieces`, the most popular first. `ahead`: beside the piece in use, so many have
    room; with 0, a chunk is brought when the one before is done, and computed when all of it is there.
    """

    tier: Literal["sram", "hbm", "gddr", "lpddr", "ddr", "flash", "optane"] = "hbm"
    pieces: Pieces = 1
    ahead: int = Field(default=0, ge=0, le=1024)

    @model_validator(mode="after")
    def _pieces_need_a_place(self) -> Self:
        if self.ahead + 1 < self.pieces:
            raise ValueError(
                f"a micro-batch needs all {self.pieces} pieces of a chunk in turn, and only ahead + 1 = "
                f"{self.ahead + 1} of them have room; raise ahead to {self.pieces - 1} or more"
            )
        return self


class TrainingSpec(Schema):
    """One optimizer step over `batch` sequences of `sequence` tokens.

    Every data-parallel rank computes its share of the batch in `micro_batches`. `schedule` orders the forward and
    backward passes of a pipeline's stages; each stage holds `chunks` of consecutive layers. `schedule: listed` takes
    the order from `order`, a text per stage like "F0 F1 B0 B1" (micro-batches by number; "F0.1" is chunk 1).

    `recompute`: what the backward pass computes again instead of keeping it: nothing, the attention kernels, or whole
    layers. `gradients`: what they are stored and reduced in. `sharded_optimizer` divides optimizer states over the
    data-parallel ranks (ZeRO stage 1). `overlap`: a stage may begin a micro-batch while the one before is being
    exchanged. `expert_devices`: how many devices beside each stage's tp x dp hold its experts; 0: the same ones.
    """

    batch: Sequences
    sequence: Sequences
    micro_batches: Annotated[int, Field(gt=0, le=100_000)] = 1
    schedule: str = "1f1b"
    chunks: Pieces = 1
    order: tuple[str, ...] = ()
    recompute: Literal["none", "attention", "full"] = "none"
    optimizer: Literal["adam", "sgd"] = "adam"
    sharded_optimizer: bool = False
    gradients: Dtype = "fp32"
    overlap: bool = False
    expert_devices: Annotated[int, Field(ge=0, le=100_000)] = 0
    stream: StreamSpec | None = None

    @model_validator(mode="after")
    def _listed_order(self) -> Self:
        if (self.schedule == "listed") != bool(self.order):
            raise ValueError("order and schedule: listed belong together; give both or neither")
        return self
