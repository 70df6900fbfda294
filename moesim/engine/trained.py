"""What a training run leaves behind: plain numpy columns, turned into tables by `results`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moesim.engine.record import Column, TimelineStep


@dataclass
class TrainingRecord:
    """Columns of one optimizer step. Times in seconds.

    tasks: stage, chunk, micro_batch, backward (0 or 1), start, end.
    devices: device, name, descriptor, stage (-1: takes no part), compute_busy, network_busy, copy_busy (seconds),
        flops, memory_bytes, copied_bytes (between memory tiers), sent_bytes, energy_compute, energy_memory,
        energy_link, energy_idle (joules), weight_bytes, gradient_bytes, optimizer_bytes, activation_bytes,
        workspace_bytes, capacity_bytes, peak_flops, peak_bandwidth.
    operators: name, kind, seconds on the critical path, and by what bounds them: compute_seconds, memory_seconds,
        network_seconds, overhead_seconds.
    links: name, level, bandwidth, bytes.
    expert_tokens: [MoE layers, experts] copies routed. copies: messages per token on its way to its experts, the mean
        over layers; NaN for dense models.
    span: seconds from the first pass to the end of the last one. bubble: share of it in which a stage runs no pass,
        the mean over stages; formula: the schedule's, for equal parts and free sending, NaN where there is none.
    model_flops: of forward and backward passes, without recomputation.
    """

    tasks: dict[str, Column]
    devices: dict[str, Column]
    operators: dict[str, Column]
    links: dict[str, Column]
    expert_tokens: NDArray[np.float64]
    moe_layers: tuple[int, ...]
    schedule: str
    stages: int
    chunks: int
    micro_batches: int
    in_flight: int
    sequences: int
    tokens: int
    span: float
    bubble: float
    formula: float
    copies: float
    model_flops: float
    hardware_flops: float
    price: float  # dollars per second; NaN where one is unknown
    chassis_power: float  # watts beside the devices
    end: float
    timeline: Callable[[], list[TimelineStep]]
    notes: list[str] = field(default_factory=list)
    kernels: dict[str, dict[str, str]] = field(default_factory=dict)
