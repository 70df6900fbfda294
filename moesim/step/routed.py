"""The routing-dependent part of a step: the experts of every MoE layer, and the exchange around them.

Two sources of the same answer: `sampled` draws the tokens per expert of every step afresh (or replays them);
`tabulated`, for routings without state, draws them once for a grid of token counts and interpolates. Only what depends
on the routing is reused this way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moesim.hardware.machine import Device
from moesim.kernels.base import Calls
from moesim.model.operators import Operator
from moesim.placement.base import check_owner
from moesim.step.batch import Batch
from moesim.step.graph import PICOSECONDS, FloatArray, IntArray, picoseconds
from moesim.step.layout import ReplicaLayout
from moesim.step.program import StageProgram
from moesim.step.sharding import expert_calls
from moesim.step.sizes import Sizes
from moesim.step.tables import StepContext


@dataclass
class RoutedLoad:
    """What one step's routing puts on the expert ranks (P stages, E expert ranks, L MoE layers of the model).

    duration: [P, E] picoseconds of expert kernels, summed over the stage's layers; slowest: [P] the same of the slowest
    rank of each layer; bound: [3] seconds of the slowest ranks' overhead, compute-bound and memory-bound time.
    """

    duration: FloatArray
    slowest: FloatArray
    bound: FloatArray
    copies: FloatArray  # [P, E] (token, expert) pairs
    touched: FloatArray  # [P, E] distinct experts, summed over layers
    expert_tokens: FloatArray  # [L, experts]
    rank_imbalance: float  # largest rank's tokens over the mean, mean over layers
    expert_imbalance: float
    layer_duration: IntArray  # [L, E] picoseconds
    layer_memory: FloatArray  # [L, E] seconds that the kernels' bytes take at full bandwidth


@dataclass
class RoutedTotals:
    """Sums of routed loads over executed steps; the imbalances are means of max/mean, weighted by tokens."""

    duration: FloatArray  # [P, E] seconds of expert kernels
    bound: FloatArray  # [3] as in RoutedLoad
    copies: FloatArray  # [P, E]
    touched: FloatArray  # [P, E]
    expert_tokens: FloatArray  # [L, experts]
    weight: float = 0.0
    rank_imbalance: float = 0.0
    expert_imbalance: float = 0.0

    @classmethod
    def zeros(cls, stages: int, ranks: int, layers: int, experts: int) -> RoutedTotals:
        by_rank = [np.zeros((stages, ranks)) for _ in range(3)]
        return cls(by_rank[0], np.zeros(3), by_rank[1], by_rank[2], np.zeros((layers, experts)))

    def add(self, load: RoutedLoad, steps: float) -> None:
        self.duration += load.duration * (steps / PICOSECONDS)
        self.bound += load.bound * steps
        self.copies += load.copies * steps
        self.touched += load.touched * steps
        self.expert_tokens += load.expert_tokens * steps
        tokens = float(load.copies.sum()) * steps
        self.weight += tokens
        self.rank_imbalance += tokens * load.rank_imbalance
        self.expert_imbalance += tokens * load.expert_imbalance


def _imbalance(loads: NDArray[Any]) -> float:
    """Mean over layers of the largest load over the mean one."""
    return float((loads.max(axis=1) / loads.mean(axis=1)).mean())


@dataclass(frozen=True)
class RoutedPrice:
    """Picoseconds of the MoE parts of consecutive steps on the critical path, [P, steps], and what they come from: the
    load of each step, or the tokens (in all [steps], of prefill) for which tabulated loads were interpolated."""

    experts: IntArray
    dispatch: IntArray
    combine: IntArray
    loads: tuple[RoutedLoad, ...] = ()
    tokens: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    prefill: int = 0


class ExpertCosts:
    """Expert kernels of every stage and expert rank, from the tokens per expert."""

    def __init__(
        self, context: StepContext, layout: ReplicaLayout, programs: list[StageProgram], owner: IntArray
    ) -> None:
        self.context, self.layout, self.owner = context, layout, owner
        self.operator: Operator = next(
            row.operator for each in programs for row in each.rows if row.action == "experts" and row.operator
        )
        moe = context.model.moe
        assert moe is not None
        self.experts = moe.experts
        layers = [layer for program in programs for layer in program.moe_layers]
        #: Slices of the model's MoE layers that each stage holds.
        bounds = np.cumsum([0] + [len(program.moe_layers) for program in programs])
        self.stage_layers = [slice(int(a), int(b)) for a, b in pairwise(bounds)]
        self.layers = len(layers)
        lanes = layout.devices.reshape(layout.pp, -1)[:, :: layout.expert_tp]
        self.devices = [[context.machine.devices[i] for i in stage] for stage in lanes]
        self._kinds = [
            kind for at, stage in zip(self.stage_layers, self.devices, strict=True) for kind in _kinds(at, stage)
        ]
        check_owner(owner, self.layers, self.experts, layout.expert_ranks)
        #: Where each (layer, expert) lies in a table [layers, expert ranks].
        self._cell = (np.arange(self.layers)[:, None] * layout.expert_ranks + owner).ravel()

    def calls(self, copies: FloatArray, touched: FloatArray) -> Calls:
        """Kernel calls of expert ranks with so many (token, expert) pairs and distinct experts."""
        return expert_calls(self.operator, copies, touched, self.experts, self.layout.expert_tp, self.context.dtype)

    def zeros(self) -> RoutedTotals:
        return RoutedTotals.zeros(self.layout.pp, self.layout.expert_ranks, self.layers, self.experts)

    def load(self, counts: IntArray) -> RoutedLoad:
        """Args: counts: [layers, experts] tokens per expert, over all sources."""
        shape = (self.layers, self.layout.expert_ranks)
        copies, touched = self.by_rank(counts), self.by_rank(counts > 0)
        seconds, memory, bounds = np.zeros(shape), np.zeros(shape), np.zeros((3, *shape))
        for at, device in self._kinds:
            cost = self.context.kernels.cost(self.calls(copies[at], touched[at]), device)
            seconds[at], memory[at] = cost.seconds, cost.memory
            compute_bound = cost.compute > cost.memory
            bounds[0][at] = cost.overhead
            bounds[1][at] = np.where(compute_bound, cost.compute, 0)
            bounds[2][at] = np.where(compute_bound, 0, cost.memory)
        duration = picoseconds(seconds)
        slowest = duration.argmax(axis=1)
        rows = np.arange(len(duration))
        return RoutedLoad(
            duration=self._by_stage(duration),
            slowest=self._by_stage(duration[rows, slowest]),
            bound=bounds[:, rows, slowest].sum(axis=1),
            copies=self._by_stage(copies),
            touched=self._by_stage(touched),
            expert_tokens=counts.astype(np.float64),
            rank_imbalance=_imbalance(copies),
            expert_imbalance=_imbalance(counts),
            layer_duration=duration,
            layer_memory=memory,
        )

    def by_rank(self, values: NDArray[Any]) -> FloatArray:
        """[L, experts] summed over the experts of each rank, [L, expert ranks]."""
        shape = (self.layers, self.layout.expert_ranks)
        sums = np.bincount(self._cell, weights=values.ravel(), minlength=shape[0] * shape[1])
        return sums.reshape(shape).astype(np.float64, copy=False)

    def _by_stage(self, values: NDArray[Any]) -> FloatArray:
        """[L, ...] summed over the layers of each stage."""
        return np.array([values[at].sum(axis=0) for at in self.stage_layers], dtype=np.float64)


def _kinds(layers: slice, devices: list[Device]) -> list[tuple[tuple[slice, slice | list[int]], Device]]:
    """Places in a table [layers, expert ranks] that devices of one kind fill, with one of these devices."""
    names = [device.spec.name for device in devices]
    if len(set(names)) == 1:
        return [((layers, slice(None)), devices[0])]
    return [
        ((layers, [e for e, other in enumerate(names) if other == name]), devices[names.index(name)])
        for name in dict.fromkeys(names)
    ]


class RoutedPricer(Protocol):
    """Prices the MoE parts of a batch's steps."""

    def price(self, sizes: Sizes, batch: Batch) -> RoutedPrice: ...

    def counts(self, batch: Batch, step: int) -> IntArray:
        """Tokens per (MoE layer, source rank, expert), drawn for the batch's `step`-th step alone."""
        ...

    def record(self, price: RoutedPrice, steps: int) -> None:
        """Count the first `steps` steps of a price as executed."""
        ...

    def totals(self) -> RoutedTotals: ...

    @property
    def reuses(self) -> bool:
        """Whether steps with equal token counts have equal prices, so that many cost little more than one."""
        ...
