"""What a run leaves behind: plain numpy columns, turned into tables by `results`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.step.graph import Schedule, StepGraph

Column = NDArray[Any]


@dataclass(frozen=True)
class TimelineStep:
    """One executed step in full detail, kept for the timeline."""

    start: int  # picoseconds
    replica: int
    step: int
    label: str
    graph: StepGraph
    schedule: Schedule
    devices: tuple[int, ...]  # device index of each lane


@dataclass
class RunRecord:
    """Columns of a finished (or interrupted) run. Times in seconds unless named otherwise.

    requests: request, arrival, replica, rank, input_tokens, output_tokens, generated_tokens, cached_tokens,
        first_scheduled, first_token, finish (NaN where it did not happen), preemptions; of some loads also stage,
        class, session, turn.
    iterations: replica, step, start, end, prefill_tokens, decode_tokens (over all DP ranks, dummy tokens excluded),
        sequences (scheduled), waiting, kv_used (share of the KV blocks), prefill_sequences, output_tokens (emitted).
    itl: duration (seconds), count: inter-token latencies as a weighted sample.
    devices: device, name, descriptor, replica, dp_rank, stage, compute_busy, network_busy (seconds), flops,
        memory_bytes, sent_bytes, energy_compute, energy_memory, energy_link, energy_idle (joules), weight_bytes,
        kv_bytes, capacity_bytes, peak_flops (at the dtype of matrix products), peak_bandwidth.
    operators: name, kind, seconds (critical path), compute_seconds, memory_seconds, network_seconds, overhead_seconds
        (what bounds each, on the critical path), least_seconds (of transfers: their calls, and the busiest link at work
        without a pause; NaN of others), level (of transfers: the part of the machine that this link belongs to; empty
        of others), device_seconds, flops, memory_bytes (over all devices, on the critical path or
        not; NaN of what does not compute).
    links: name, level (part of the machine), bandwidth (bytes/s that large transfers reach), bytes.
    expert_tokens: [MoE layers, experts] copies routed.
    """

    requests: dict[str, Column]
    iterations: dict[str, Column]
    itl: dict[str, Column]
    devices: dict[str, Column]
    operators: dict[str, Column]
    links: dict[str, Column]
    expert_tokens: NDArray[np.float64]
    moe_layers: tuple[int, ...]
    #: Sums over all steps, see `Totals`.
    totals: Totals
    end: float
    partial: bool = False
    #: A few steps in full detail. They are compiled when somebody asks: it takes as long as many priced steps.
    timeline: Callable[[], list[TimelineStep]] = list
    notes: list[str] = field(default_factory=list)
    #: By device and class of kernels: where their times come from, as `h100-sxm vllm-0.24.0`; `datasheet`.
    kernels: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Of a run of several phases: number and begin of each that began, in seconds; -1 is a warm-up.
    stages: list[tuple[int, float]] = field(default_factory=list)
    #: The run was ended before its requests, because its queue did not drain.
    overloaded: bool = False
    #: Stages (0 where there are none) in which requests are sent when others have finished: their queue cannot grow.
    closed: frozenset[int] = frozenset()


@dataclass
class Totals:
    """Sums over a run. `dense_*` count every expert, as a dense model would; `sparse_*` only those a step touched
    (MoE-CAP, arXiv 2412.07067: S-MFU and S-MBU). Bytes are weights plus KV cache read, model-wide and per step."""

    busy: float = 0.0  # seconds in which a replica executes a step, summed over replicas
    step_count: int = 0
    sparse_flops: float = 0.0
    dense_flops: float = 0.0
    sparse_bytes: float = 0.0
    dense_bytes: float = 0.0
    #: Mean over steps and layers of max/mean tokens per expert-parallel rank, weighted by tokens; and per expert.
    rank_imbalance: float = float("nan")
    expert_imbalance: float = float("nan")
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    #: Requests longer than the model's context that were left out, and that were shortened (`too_long`).
    dropped: int = 0
    clipped: int = 0
    price: float = 0.0  # dollars per second of the whole machine; 0 where no price is known
    #: Seconds of communication behind computation, and of waiting for others on shared links, summed over replicas.
    hidden: float = 0.0
    sharing: float = 0.0
    #: Of experts outside the devices' memory, see step.pricing.ExpertUse: distinct experts per step and layer, bytes.
    expert_requests: int = 0
    expert_hits: int = 0
    expert_fetched_ahead: int = 0
    expert_on_host: int = 0
    expert_copied: float = 0.0
    chassis_power: float = 0.0  # watts beside the devices
    peak_flops: float = 0.0  # of the devices that take part, at the dtype of matrix products
    peak_bandwidth: float = 0.0
