"""The routing-dependent part of a step: the experts of every MoE layer, and the exchange around them.

Two sources of the same answer: `sampled` draws the tokens per expert of every step afresh (or replays them);
`tabulated`, for routings without state, draws them once for a grid of token counts and interpolates. Only what depends
on the routing is reused this way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.transfer import Transfer
from moesim.hardware.machine import Device
from moesim.kernels.base import Calls, Cost
from moesim.model.operators import Operator
from moesim.placement import Slots, rank_loads
from moesim.processors.mapped import Mapped
from moesim.routing.drawn import Drawn
from moesim.routing.replicated import Replicas
from moesim.step.batch import Batch
from moesim.step.exchange import Exchange
from moesim.step.graph import PICOSECONDS, FloatArray, IntArray
from moesim.step.layout import ReplicaLayout
from moesim.step.program import StageProgram
from moesim.step.relieved import Relieved, SentLoad, SentWeights
from moesim.step.sharding import ExpertShare
from moesim.step.sizes import Sizes
from moesim.step.tables import StepContext


@dataclass(frozen=True)
class RoutedLoad:
    """What routing puts on the expert ranks, in each of D draws (P stages, E expert ranks, L MoE layers of the model).

    duration: [D, P, E] picoseconds of expert kernels, summed over the stage's layers; slowest: [D, P] the same of the
    slowest rank of each layer; bound: [D, 3] seconds of the slowest ranks' overhead, compute-bound and memory-bound
    time.
    """

    duration: FloatArray
    slowest: FloatArray
    bound: FloatArray
    copies: FloatArray  # [D, P, E] (token, expert) pairs
    touched: FloatArray  # [D, P, E] distinct experts, summed over layers
    joules: FloatArray  # [D, P, E, 2] of arithmetic, and of memory
    rank_imbalance: FloatArray  # [D] largest rank's tokens over the mean, mean over layers
    expert_imbalance: FloatArray  # [D]
    sent: SentLoad | None = None  # of a placement that moves tokens in every step


@dataclass
class RoutedTotals:
    """Sums of routed loads over executed steps; the imbalances are means of max/mean, weighted by tokens."""

    duration: FloatArray  # [P, E] seconds of expert kernels
    bound: FloatArray  # [3] as in RoutedLoad
    copies: FloatArray  # [P, E]
    touched: FloatArray  # [P, E]
    joules: FloatArray  # [P, E, 2]
    expert_tokens: FloatArray  # [L, experts]
    weight: float = 0.0
    rank_imbalance: float = 0.0
    expert_imbalance: float = 0.0
    sent: SentLoad | None = None

    @classmethod
    def zeros(cls, stages: int, ranks: int, layers: int, experts: int) -> RoutedTotals:
        by_rank = [np.zeros((stages, ranks)) for _ in range(3)]
        joules, tokens = np.zeros((stages, ranks, 2)), np.zeros((layers, experts))
        return cls(by_rank[0], np.zeros(3), by_rank[1], by_rank[2], joules, tokens)

    def add(self, load: RoutedLoad, steps: FloatArray, expert_tokens: NDArray[Any]) -> None:
        """Add each draw `steps` [D] times, and tokens [L, experts] once."""
        each = steps[:, None, None]
        self.duration += (load.duration * each).sum(axis=0) / PICOSECONDS
        self.bound += (load.bound * steps[:, None]).sum(axis=0)
        self.copies += (load.copies * each).sum(axis=0)
        self.touched += (load.touched * each).sum(axis=0)
        self.joules += (load.joules * each[..., None]).sum(axis=0)
        self.expert_tokens += expert_tokens
        if load.sent is not None:
            self.sent = load.sent.summed(steps, self.sent)
        tokens = load.copies.sum(axis=(1, 2)) * steps
        self.weight += float(tokens.sum())
        self.rank_imbalance += float((tokens * load.rank_imbalance).sum())
        self.expert_imbalance += float((tokens * load.expert_imbalance).sum())


def _imbalance(loads: NDArray[Any]) -> FloatArray:
    """[D] mean over layers of the largest load over the mean one, of loads [L, D, ...]."""
    ratios: FloatArray = (loads.max(axis=2) / loads.mean(axis=2)).mean(axis=0)
    return ratios


class RoutedPrice(NamedTuple):
    """Picoseconds of the MoE parts of consecutive steps on the critical path, [P, steps], and what their pricer wants
    to know about them once they have been executed. weights: of the weights that a placement sends in every step."""

    experts: IntArray
    dispatch: IntArray
    combine: IntArray
    origin: Any
    weights: IntArray | None = None


class _Kernels(NamedTuple):
    """[L, D, E] of the expert kernels of every layer and rank; bound: [3, L, D, E] as in RoutedLoad. joules:
    [L, D, E, 2]. durations, memory: [processors, L, D, E] of each of a device's processors (Mapped)."""

    copies: FloatArray
    touched: FloatArray
    duration: IntArray
    bound: FloatArray
    joules: FloatArray
    durations: IntArray
    memory: FloatArray
    relieved: Relieved | None


#: A place in a table [layers, D, expert ranks].
_Place = tuple[slice, slice, slice | list[int]]


class ExpertCosts:
    """Expert kernels of every stage and expert rank, from the tokens per expert."""

    def __init__(
        self,
        context: StepContext,
        layout: ReplicaLayout,
        programs: list[StageProgram],
        slots: Slots,
        sent: Callable[[float], SentWeights] | None = None,
    ) -> None:
        """Args: sent: of the bytes of an expert, what a placement that moves tokens in every step sends along; None for
        all others."""
        self.context, self.layout, self.owner = context, layout, slots.owner
        self.operator: Operator = next(
            row.operator for each in programs for row in each.rows if row.action == "experts" and row.operator
        )
        moe = context.model.moe
        assert moe is not None
        self.experts = slots.owner.shape[1]
        self._replicas = Replicas(slots, moe.experts) if slots.replicated else None
        held = self.experts / layout.expert_ranks
        kernels = context.engine.expert_kernels or ""
        self._share = ExpertShare(self.operator, context.model, held, layout.expert_tp, context.dtype, kernels)
        self.sent = None if sent is None else sent(self._share.weights)
        self._sorted = layout.dp > 1 and context.engine.transport == "alltoall"
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

    def calls(self, copies: FloatArray, touched: FloatArray, everywhere: FloatArray) -> Calls:
        """Kernel calls of expert ranks with so many (token, expert) pairs and distinct experts. everywhere: pairs on
        all ranks, which a kernel is handed unless an all-to-all has sorted them."""
        return self._share.calls(copies, touched, copies if self._sorted else everywhere)

    def zeros(self) -> RoutedTotals:
        return RoutedTotals.zeros(self.layout.pp, self.layout.expert_ranks, self.layers, self.experts)

    def load(self, counts: IntArray) -> RoutedLoad:
        """Args: counts: [layers, D, experts] tokens per expert, over all sources."""
        kernels = self._kernels(counts)
        slowest = kernels.duration.argmax(axis=2)[:, :, None]
        bound = np.take_along_axis(kernels.bound, slowest[None], axis=3)
        return RoutedLoad(
            duration=self._by_stage(kernels.duration),
            slowest=self._by_stage(np.take_along_axis(kernels.duration, slowest, axis=2)[:, :, 0]),
            bound=bound.sum(axis=(1, 3)).T,
            copies=self._by_stage(kernels.copies),
            touched=self._by_stage(kernels.touched),
            joules=self._by_stage(kernels.joules),
            rank_imbalance=_imbalance(kernels.copies),
            expert_imbalance=_imbalance(self.by_expert(counts)),
            sent=None if self.sent is None or kernels.relieved is None else self.sent.load(kernels.relieved),
        )

    def by_expert(self, tokens: NDArray[Any]) -> NDArray[Any]:
        """[layers, ..., experts] of tokens [layers, ..., slots]: all replicas of an expert together."""
        return tokens if self._replicas is None else self._replicas.together(tokens)

    def by_layer(self, counts: IntArray) -> tuple[IntArray, FloatArray, list[Transfer | None]]:
        """[processors, layers, expert ranks] picoseconds of the kernels, and seconds that their bytes take at full
        bandwidth; by layer the transfer of the weights that they wait for.

        Args:
            counts: [layers, experts] tokens per expert.
        """
        kernels = self._kernels(counts[:, None])
        sends: list[Transfer | None] = [None] * self.layers
        if self.sent is not None and kernels.relieved is not None:
            sends = self.sent.by_layer(kernels.relieved.weights[:, 0])
        return kernels.durations[:, :, 0], kernels.memory[:, :, 0], sends

    def _kernels(self, counts: IntArray) -> _Kernels:
        """Args: counts: [layers, D, slots]."""
        ranks, relieved = self.layout.expert_ranks, None
        if self.sent is None:
            copies = rank_loads(counts, self.owner, ranks).astype(np.float64)
            touched = rank_loads((counts > 0).astype(np.int64), self.owner, ranks).astype(np.float64)
        else:
            relieved = self.sent.relieved(counts, self.owner)
            copies, touched = relieved.copies, relieved.touched
        everywhere = np.broadcast_to(counts.sum(axis=2, dtype=np.float64)[..., None], copies.shape)
        most = max(len(self.context.mapped.processors(device)) for _, device in self._kinds)
        duration, bound = np.zeros(copies.shape, dtype=np.int64), np.zeros((3, *copies.shape))
        durations, memory = np.zeros((most, *copies.shape), dtype=np.int64), np.zeros((most, *copies.shape))
        joules = np.zeros((*copies.shape, 2))
        for at, device in self._kinds:
            mapped = self._mapped(counts, copies, touched, everywhere, at, device)
            cost, used = mapped.cost, len(mapped.durations)
            duration[at], durations[:used][:, *at], memory[:used][:, *at] = mapped.duration, *mapped[1::2]
            compute_bound = cost.compute > cost.memory
            bound[0][at] = cost.overhead
            bound[1][at] = np.where(compute_bound, cost.compute, 0)
            bound[2][at] = np.where(compute_bound, 0, cost.memory)
            joules[*at, 0], joules[*at, 1] = cost.arithmetic_joules, cost.memory_joules
        return _Kernels(copies, touched, duration, bound, joules, durations, memory, relieved)

    def _mapped(
        self, counts: IntArray, copies: FloatArray, touched: FloatArray, everywhere: FloatArray, at: _Place,
        device: Device,
    ) -> Mapped:  # fmt: skip
        """Of the ranks of one kind. The experts of a device with several processors may part, rank by rank."""
        mapped = self.context.mapped
        if len(mapped.processors(device)) == 1:
            return mapped.whole(self.calls(copies[at], touched[at], everywhere[at]), device)
        layers, _, ranks = at
        found = []
        for rank in np.arange(self.layout.expert_ranks)[ranks]:
            held = self.owner[layers] == rank
            if (held == held[0]).all():
                tokens = counts[layers][..., held[0]]
            else:
                tokens = np.where(held[:, None], counts[layers], 0)
            found.append(mapped.experts(self.calls, tokens.astype(np.float64), everywhere[layers][..., rank], device))
        cost = Cost(*(np.stack(column, axis=-1) for column in zip(*(each.cost for each in found), strict=True)))
        return Mapped(cost, *(np.stack(column, axis=-1) for column in list(zip(*found, strict=True))[1:]))

    def _by_stage(self, values: NDArray[Any]) -> FloatArray:
        """[L, D, ...] summed over the layers of each stage, [D, P, ...]."""
        return np.stack([values[at].sum(axis=0) for at in self.stage_layers], axis=1).astype(np.float64)


def _kinds(layers: slice, devices: list[Device]) -> list[tuple[_Place, Device]]:
    """Places in a table [layers, D, expert ranks] that devices of one kind fill, with one of these devices."""
    names = [device.spec.name for device in devices]
    if len(set(names)) == 1:
        return [((layers, slice(None), slice(None)), devices[0])]
    return [
        ((layers, slice(None), [e for e, other in enumerate(names) if other == name]), devices[names.index(name)])
        for name in dict.fromkeys(names)
    ]


class RoutedPricer(Protocol):
    """Prices the MoE parts of a batch's steps."""

    @property
    def exchange(self) -> Exchange: ...

    def price(self, sizes: Sizes, batch: Batch) -> RoutedPrice: ...

    def drawn(self, batch: Batch, step: int) -> Drawn:
        """What the tokens of the batch's `step`-th step choose, drawn for it alone."""
        ...

    def record(self, executed: Sequence[tuple[RoutedPrice, int]]) -> None:
        """Count the first so many steps of prices as executed, in this order."""
        ...

    def totals(self) -> RoutedTotals: ...

    def clear(self) -> None:
        """Count from nothing again."""
        ...

    @property
    def reuses(self) -> bool:
        """Whether steps with equal token counts have equal prices, so that many cost little more than one."""
        ...
