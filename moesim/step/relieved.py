"""Experts whose tokens are computed elsewhere for a step: who computes how many, and how their weights get there."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.collectives import all_to_all
from moesim.fabric.transfer import Transfer
from moesim.placement import Relief
from moesim.step.communication import Communication
from moesim.step.graph import FloatArray, IntArray
from moesim.step.program import StageProgram


class Relieved(NamedTuple):
    """Tokens and distinct experts of every rank [L, D, ranks], and experts whose weights go from rank to rank
    [L, D, ranks, ranks]."""

    copies: FloatArray
    touched: FloatArray
    weights: IntArray


@dataclass
class SentLoad:
    """What a relief did in each of D draws; summed over steps, without the first axis. P stages, L MoE layers, E ranks.

    experts: [D, P, E, E] experts whose weights go from rank to rank, summed over the stage's layers; calls: [D, P]
    layers that send any; waits: [D, P] picoseconds; copies: [D, L, E] (token, expert) pairs that ranks compute.
    """

    experts: NDArray[Any]
    calls: NDArray[Any]
    waits: NDArray[Any]
    copies: FloatArray

    def summed(self, steps: FloatArray, before: SentLoad | None) -> SentLoad:
        """Each draw so many times, steps [D], and what was summed before."""
        sums = [np.tensordot(steps, column, axes=1) for column in self._columns()]
        return SentLoad(*(a + b for a, b in zip(sums, before._columns(), strict=True)) if before else sums)

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.experts, self.calls, self.waits, self.copies


class SentWeights:
    """What a relief makes of the tokens of each layer, and the transfers of weights that come before its kernels: all
    at once, straight from rank to rank.

    Args:
        expert_bytes: weights of an expert on one of the lanes that share it.
    """

    def __init__(
        self, relief: Relief, communication: Communication, programs: list[StageProgram], expert_bytes: float
    ) -> None:
        self.relief, self.expert_bytes = relief, expert_bytes
        self._ranks, self._expert_tp = communication.layout.expert_ranks, communication.layout.expert_tp
        bounds = np.cumsum([0] + [len(program.moe_layers) for program in programs])
        self._stages = [slice(int(a), int(b)) for a, b in pairwise(bounds)]
        stages = range(communication.layout.pp)
        self._groups = [communication.fabric.ports(communication.stage_devices(p)) for p in stages]

    def relieved(self, counts: IntArray, owner: IntArray) -> Relieved:
        """Args: counts: [L, D, slots] tokens. owner: [L, slots]."""
        layers, draws, slots = counts.shape
        owners = np.repeat(owner, draws, axis=0)
        moved = self.relief.relieve(counts.reshape(-1, slots), owners, self._ranks)
        shape = (layers, draws, self._ranks)
        copies = moved.tokens.sum(axis=1).astype(np.float64).reshape(shape)
        touched = (moved.tokens > 0).sum(axis=1).astype(np.float64).reshape(shape)
        return Relieved(copies, touched, moved.weights.reshape(*shape, self._ranks))

    def transfer(self, stage: int, weights: NDArray[Any]) -> Transfer:
        """Of experts [..., ranks, ranks] that go from rank to rank; lanes that share one send their shards to lanes of
        the same index."""
        shards = weights[..., :, None, :, None] * np.eye(self._expert_tp)[:, None, :]
        lanes = self._ranks * self._expert_tp
        traffic = shards.reshape(*weights.shape[:-2], lanes, lanes) * self.expert_bytes
        return all_to_all(traffic, self._groups[stage])

    def load(self, relieved: Relieved) -> SentLoad:
        busy = relieved.weights.sum(axis=(2, 3)) > 0  # [L, D]
        experts, calls, waits = [], [], []
        for p, at in enumerate(self._stages):
            took = np.where(busy[at], self.transfer(p, relieved.weights[at]).picoseconds, 0)
            experts.append(relieved.weights[at].sum(axis=0))
            calls.append(busy[at].sum(axis=0))
            waits.append(took.sum(axis=0))
        sent, sending, waited = (np.stack(each, axis=1) for each in (experts, calls, waits))
        return SentLoad(sent, sending, waited, relieved.copies.swapaxes(0, 1))

    def by_layer(self, weights: IntArray) -> list[Transfer | None]:
        """The transfer of each layer [L, ranks, ranks], None where nothing is sent."""
        found: list[Transfer | None] = []
        for p, at in enumerate(self._stages):
            found += [self.transfer(p, each) if each.any() else None for each in weights[at]]
        return found
