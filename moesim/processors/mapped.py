"""What operators take on the processors that a mapping assigns them to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.transfer import picoseconds
from moesim.hardware.machine import Device
from moesim.kernels.base import Calls, Cost, KernelModel
from moesim.processors.base import FloatArray, IntArray, Loads, ProcessorMapping

#: Calls of pairs, experts that they touch, and pairs on all ranks (ExpertShare.calls).
ExpertCalls = Callable[[FloatArray, FloatArray, FloatArray], Calls]


class Mapped(NamedTuple):
    """cost: of all processors together; its seconds are the operator's. durations: [processors, ...] picoseconds of
    each, 0 where it is idle. duration: of the operator. memory: [processors, ...] seconds that its bytes take at the
    processor's full bandwidth."""

    cost: Cost
    durations: IntArray
    duration: IntArray
    memory: FloatArray


class MappedKernels:
    """A kernel model on devices of several processors. Without a mapping every device has one."""

    def __init__(self, kernels: KernelModel, mapping: ProcessorMapping | None) -> None:
        self.kernels, self.mapping = kernels, mapping

    def processors(self, device: Device) -> tuple[Device, ...]:
        return (device,) if self.mapping is None else device.processors

    @property
    def concurrent(self) -> bool:
        """Whether processors work side by side on the pieces of an operator."""
        return self.mapping is not None and self.mapping.concurrent

    def whole(self, calls: Calls, device: Device) -> Mapped:
        """Of calls that are not divided, each on one processor."""
        return self._of_pieces((calls.kind,), (calls,), calls, device)

    def attention(self, prefill: Calls, decode: Calls, both: Calls, device: Device) -> Mapped:
        """Of attention, whose prefilling and decoding sequences may part. both: all of them in one kernel."""
        return self._of_pieces(("prefill_attention", "decode_attention"), (prefill, decode), both, device)

    def _of_pieces(self, names: Sequence[str], pieces: Sequence[Calls], all_: Calls, device: Device) -> Mapped:
        processors = self.processors(device)
        if len(processors) == 1:
            return _together([self.kernels.cost(all_, device)], False)
        assert self.mapping is not None
        costs = [[_full(self.kernels.cost(piece, each)) for piece in pieces] for each in processors]
        assigned = self.mapping.assign(names, _loads(pieces, costs), device)
        found = []
        for p, (each, alone) in enumerate(zip(processors, costs, strict=True)):
            mine = assigned == p
            parts = [_where(mine[..., i], cost) for i, cost in enumerate(alone)]
            together = mine.all(axis=-1)
            joined = _sum(parts)
            if len(pieces) > 1 and together.any():
                joined = _choose(together, _full(self.kernels.cost(all_, each)), joined)
            found.append(joined)
        return _together(found, self.mapping.concurrent)

    def experts(self, calls: ExpertCalls, tokens: FloatArray, everywhere: FloatArray, device: Device) -> Mapped:
        """Of a layer's experts on a device, one grouped kernel on each processor.

        Args:
            tokens: [..., experts] of each that the device holds. everywhere: [...] pairs on all ranks.
        """
        processors = self.processors(device)
        touched = (tokens > 0).astype(np.float64)
        if len(processors) == 1:
            whole = calls(tokens.sum(axis=-1), touched.sum(axis=-1), everywhere)
            return _together([self.kernels.cost(whole, device)], False)
        assert self.mapping is not None
        each_alone = calls(tokens, touched, tokens)
        alone = [[self.kernels.cost(each_alone, each)] for each in processors]
        loads = _expert_loads(tokens, each_alone, alone)
        assigned = self.mapping.assign(("experts",) * tokens.shape[-1], loads, device)
        costs = []
        for p, each in enumerate(processors):
            mine = (assigned == p) * touched
            pairs = (tokens * mine).sum(axis=-1)
            handed = calls(pairs, mine.sum(axis=-1), pairs if p else np.where(pairs > 0, everywhere, 0.0))
            costs.append(_where(pairs > 0, _full(self.kernels.cost(handed, each))))
        return _together(costs, self.mapping.concurrent)


def _loads(pieces: Sequence[Calls], costs: Sequence[Sequence[Cost]]) -> Loads:
    flops = np.stack(np.broadcast_arrays(*(piece.flops for piece in pieces)), axis=-1)
    moved = np.stack(np.broadcast_arrays(*(piece.weight_bytes + piece.data_bytes for piece in pieces)), axis=-1)
    seconds = np.stack([np.stack([np.maximum(c.compute, c.memory) for c in of], axis=-1) for of in costs])
    return Loads(flops, flops, np.broadcast_to(moved, flops.shape), seconds)


def _expert_loads(tokens: FloatArray, calls: Calls, costs: Sequence[Sequence[Cost]]) -> Loads:
    seconds = np.stack([np.maximum(cost.compute, cost.memory) for (cost,) in costs])
    return Loads(tokens, calls.flops, calls.weight_bytes + calls.data_bytes, seconds)


def _full(cost: Cost) -> Cost:
    """With columns of one shape."""
    return Cost(*np.broadcast_arrays(*cost))


def _where(holds: NDArray[np.bool_], cost: Cost) -> Cost:
    return Cost(*(np.where(holds, column, 0.0) for column in cost))


def _choose(holds: NDArray[np.bool_], one: Cost, other: Cost) -> Cost:
    return Cost(*(np.where(holds, a, b) for a, b in zip(one, other, strict=True)))


def _sum(costs: Sequence[Cost]) -> Cost:
    """Of kernels one after the other on one processor."""
    if len(costs) == 1:
        return costs[0]
    columns = [np.sum(column, axis=0) for column in zip(*costs, strict=True)]
    return Cost(*columns)


def _together(costs: Sequence[Cost], concurrent: bool) -> Mapped:
    """Of the processors of a device: the slowest where they work side by side, else one after the other. What bounds
    them together is what bounds most of their time."""
    durations = np.stack([np.asarray(picoseconds(cost.seconds)) for cost in costs])
    memory = np.stack([np.asarray(cost.memory) for cost in costs])
    if len(costs) == 1:
        return Mapped(costs[0], durations, durations[0], memory)
    if concurrent:
        slowest = np.stack([cost.seconds for cost in costs]).argmax(axis=0)
        columns = [np.choose(slowest, np.stack(column)) for column in list(zip(*costs, strict=True))[:4]]
        duration = durations.max(axis=0)
    else:
        working = [np.maximum(cost.compute, cost.memory) for cost in costs]
        by_arithmetic = sum(np.where(c.compute > c.memory, w, 0.0) for c, w in zip(costs, working, strict=True))
        busy = np.sum(working, axis=0)
        by_memory = busy - by_arithmetic
        compute = np.where(by_arithmetic > by_memory, busy, by_arithmetic)
        streaming = np.where(by_arithmetic > by_memory, by_memory, busy)
        columns = [sum(c.seconds for c in costs), compute, streaming, sum(c.overhead for c in costs)]
        duration = durations.sum(axis=0)
    joules = [sum(cost[4] for cost in costs), sum(cost[5] for cost in costs)]
    return Mapped(Cost(*columns, *joules), durations, duration, memory)
