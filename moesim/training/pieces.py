"""What a pass through a part of the model is made of: stretches of computing, and what travels between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from moesim.fabric.transfer import Transfer
from moesim.kernels.base import Cost
from moesim.step.graph import FloatArray, IntArray, picoseconds

#: What bounds a kernel's time.
BOUNDS = ("compute", "memory", "network", "overhead")


@dataclass(frozen=True, eq=False)
class Share:
    """One operator's part of a stretch: seconds on its slowest lane, by BOUNDS."""

    name: str
    kind: str
    seconds: FloatArray


@dataclass(frozen=True, eq=False)
class Piece:
    """Kernels that run one after another on each of the lanes, which do not wait for each other.

    lanes: [n]. duration: [n] picoseconds. use: [4, n] FLOP, bytes, joules of arithmetic and of memory. piece: which
    piece of the streamed experts it needs; -1: the rest of the part's weights.
    """

    name: str
    layer: int
    lanes: IntArray
    duration: IntArray
    use: FloatArray
    shares: tuple[Share, ...]
    piece: int = -1


@dataclass(frozen=True, eq=False)
class Move:
    """A collective: the lanes of each communicator, and its transfer of a single size."""

    name: str
    layer: int
    groups: tuple[tuple[int, ...], ...]
    transfers: tuple[Transfer, ...]


@dataclass(frozen=True, eq=False)
class Kernel:
    """Calls of one kernel on each lane: cost columns and work as arrays [n] (or scalars for alike lanes)."""

    cost: Cost
    flops: FloatArray
    traffic: FloatArray

    def use(self, lanes: int) -> FloatArray:
        columns = (self.flops, self.traffic, self.cost.arithmetic_joules, self.cost.memory_joules)
        return np.array([np.broadcast_to(column, lanes) for column in columns])

    def bounds(self, lanes: int) -> FloatArray:
        """[4] seconds of the slowest lane, by BOUNDS."""
        seconds = np.broadcast_to(self.cost.seconds, lanes)
        at = int(np.argmax(seconds))
        compute, memory, overhead = (
            float(np.broadcast_to(column, lanes)[at])
            for column in (self.cost.compute, self.cost.memory, self.cost.overhead)
        )
        busy = float(seconds[at]) - overhead
        by_arithmetic = compute > memory
        return np.array([busy if by_arithmetic else 0.0, 0.0 if by_arithmetic else busy, 0.0, overhead])


def stretch(name: str, layer: int, lanes: IntArray, named: Iterable[tuple[str, str, Kernel]], piece: int = -1) -> Piece:
    """A piece of the kernels `named` (name, kind, kernel), each rounded by itself to picoseconds."""
    duration, use = np.zeros(len(lanes), dtype=np.int64), np.zeros((4, len(lanes)))
    shares: list[Share] = []
    for title, kind, kernel in named:
        duration += picoseconds(kernel.cost.seconds)
        use += kernel.use(len(lanes))
        shares.append(Share(title, kind, kernel.bounds(len(lanes))))
    return Piece(name, layer, lanes, duration, use, tuple(shares), piece)


def by_lane(kernels: list[Kernel]) -> Kernel:
    """One kernel whose columns differ from lane to lane."""
    columns = [np.array([float(kernel.cost[column]) for kernel in kernels]) for column in range(len(Cost._fields))]
    flops, traffic = ([float(getattr(kernel, name)) for kernel in kernels] for name in ("flops", "traffic"))
    return Kernel(Cost(*columns), np.array(flops), np.array(traffic))
