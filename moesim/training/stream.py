"""Weights streamed from an outer memory tier: how many bytes each lane brings and stores, and how long that takes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moesim.spec.base import DTYPE_BYTES
from moesim.spec.errors import MoesimError
from moesim.spec.training import StreamSpec
from moesim.step.graph import FloatArray, IntArray, picoseconds
from moesim.training.memory import part_sizes, update_bytes
from moesim.training.plan import TrainingPlan


class Load(NamedTuple):
    """Bytes that lanes move between the tiers at the same time: lanes [n], size [n], duration [n] picoseconds, and who
    shares a tier: label [n]. Who shares one divides its bandwidth, all are done when the last byte is there."""

    lanes: IntArray
    size: FloatArray
    duration: IntArray
    label: IntArray


class Stream:
    """The traffic of each part of the model with the outer tier."""

    def __init__(self, plan: TrainingPlan, spec: StreamSpec, pairs: FloatArray) -> None:
        self.plan, self.spec, self._pairs = plan, spec, pairs
        self.sizes = part_sizes(plan)
        self._label = sharers(plan, spec.tier)
        for part in range(plan.layout.parts):
            self._check_room(part)

    def weights(self, part: int, passes: int) -> list[Load]:
        """What a run of passes through the part needs: the dense lanes' weights, then the experts' piece by piece.

        Args:
            passes: backward passes in it, whose activations are brought back too.
        """
        dense, experts = self._lanes(part)
        size = self.sizes[part]
        saved, pairs = self._saved(part, passes)
        each = (size.expert_bytes + pairs) / self.spec.pieces
        loads = [self._load(dense, size.read + saved, write=False)]
        return loads + [self._load(experts, each, write=False) for _ in range(self.spec.pieces if size.experts else 0)]

    def activations(self, part: int, passes: int) -> list[Load]:
        """What so many forward passes through the part leave behind."""
        dense, experts = self._lanes(part)
        saved, pairs = self._saved(part, passes)
        return [self._load(dense, saved, write=True), self._load(experts, pairs, write=True)]

    def update(self, part: int) -> list[Load]:
        """The optimizer's traffic: gradients are written, states and master weights read and written, weights
        written (read too where they are their own masters); each at the rate of its direction."""
        dense, experts = self._lanes(part)
        size, training = self.sizes[part], self.plan.training
        gradient = DTYPE_BYTES[training.gradients]
        loads = []
        for lanes, number, held in ((dense, size.dense, size.dense_bytes), (experts, size.experts, size.expert_bytes)):
            each = update_bytes(self.plan, held / number if number else 0.0)
            loads.append(self._load(lanes, number * (gradient + each), write=True))
        return loads

    def _lanes(self, part: int) -> tuple[IntArray, IntArray]:
        layout = self.plan.layout
        stage = part % layout.stages
        return layout.dense[:, stage].ravel(), layout.experts[:, stage].ravel()

    def _saved(self, part: int, passes: int) -> tuple[float, FloatArray]:
        """Bytes of activations of a dense lane, and [n] of the expert lanes."""
        size, (_, experts) = self.sizes[part], self._lanes(part)
        return size.saved * self.plan.tokens * passes, self._pairs[part, experts] * size.saved_pair * passes

    def _load(self, lanes: IntArray, size: float | FloatArray, *, write: bool) -> Load:
        spread: FloatArray = np.broadcast_to(np.asarray(size, dtype=np.float64), lanes.shape).copy()
        label = self._label[lanes]
        tiers = [self.plan.machine.devices[lane].tier(self.spec.tier) for lane in lanes]
        rate = np.array([tier.write_bandwidth if write else tier.bandwidth for tier in tiers])
        latency = np.array([tier.latency for tier in tiers])
        shared = np.array([tier.shared_by for tier in tiers])
        total = np.array([spread[label == mine].sum() for mine in label])
        seconds = np.where(total > 0, latency + total / (rate * shared), 0.0)
        return Load(lanes, spread, picoseconds(seconds), label)

    def _check_room(self, part: int) -> None:
        """Raises MoesimError where the inner tiers have no room for the weights that are to be in them, beside the
        gradients of a chunk's experts, to which every micro-batch adds."""
        size, spec = self.sizes[part], self.spec
        dense, experts = self._lanes(part)
        needed = np.zeros(len(self.plan.machine.devices))
        gradient = DTYPE_BYTES[self.plan.training.gradients]
        needed[dense] += size.resident * max((spec.ahead + 1) // spec.pieces, 1)
        needed[experts] += size.expert_bytes / spec.pieces * (spec.ahead + 1) + size.experts * gradient
        for lane in np.flatnonzero(needed):
            room = sum(tier.capacity for tier in self.plan.near[lane].tiers)
            if needed[lane] > room:
                names = " and ".join(tier.tier for tier in self.plan.near[lane].tiers)
                raise MoesimError(
                    f"{spec.ahead + 1} pieces of a chunk's weights and its gradients take {needed[lane] / 1e6:,.0f} MB "
                    f"on {self.plan.machine.devices[lane].name}, its {names} holds {room / 1e6:,.0f} MB",
                    key="training.stream.ahead",
                    fix="lower ahead, or raise chunks or pieces" if spec.ahead else "raise chunks, or use more devices",
                )


def sharers(plan: TrainingPlan, tier: str) -> IntArray:
    """[N] which devices share a tier: consecutive ones of a kind and node, `shared_by` at a time."""
    label, counts = np.zeros(len(plan.machine.devices), dtype=np.int64), dict[tuple[int, str], int]()
    known: dict[tuple[int, str, int], int] = {}
    for lane, device in enumerate(plan.machine.devices):
        kind = device.node, device.spec.name
        number = counts.get(kind, 0)
        counts[kind] = number + 1
        parts = next((each.shared_by for each in device.tiers if each.tier == tier), 1)
        label[lane] = known.setdefault((*kind, number // parts), len(known))
    return label
