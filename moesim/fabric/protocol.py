"""Protocol effects of collective libraries: how long one call takes, by operation, buffer size and ranks.

A library's call takes longer than its bytes over the wire: its kernel is launched, ranks wait for each other in every
round, small messages travel in slower protocols (NCCL's LL and LL128 before Simple) over fewer channels, and a rank's
own part is copied through its memory. With n ranks, a buffer of S bytes, ports of W bytes/s per direction and

    M = k (n-1)/n S      bytes through each port, k = 2 for an all-reduce and 1 otherwise
                         (the bus bandwidth factors of NCCL's own tests, nccl-tests/doc/PERFORMANCE.md)

one call is

    t     = launch + round (n-1) + move
    ring  = M (n/2)^contention / (efficiency W) + S / (n local W)
    reduced in the switch (from `switch_ranks` ranks on): (n+1)/n S / (in_switch W), if that is less than the ring
    paced = ring + ramp (M / 1 MB)^exponent
    one-shot (each rank reads all others, small all-reduces): (n-1) S / (direct W)
    move  = paced, or the smaller one of staging + paced and one-shot

and never less than the port needs for the bytes of the algorithm. Each term grows with S, so t does. The coefficients
are fitted to measurements (`moesim.calibrate.collectives`) and kept in hardware/calibrations/collectives.

S is the whole buffer of one rank: what is reduced, what is gathered (all chunks), what is scattered (all chunks), what
is sent in an all-to-all (the rank's own part included).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moesim.fabric.transfer import Operation

FloatArray = NDArray[np.float64]

#: Bytes at which `ramp` is given.
RAMP_BYTES = 1e6

#: Exponent of the smooth minimum of two ways to do the same: at the crossing it lies 16 % below either.
SHARPNESS = 4.0

#: Elements whose all-reduce the switch can do itself take two bytes (NVLink SHARP adds up bf16 and fp16, not int8).
TWO_BYTES = 2


@dataclass(frozen=True)
class CollectiveTerms:
    """Coefficients of one operation of a library on a device.

    launch: seconds per call. round: seconds per further rank. efficiency: share of the port's rate that the ring
    reaches. local: rate of the copy of the own part, in ports' rates; inf leaves it out. ramp: seconds, at 1 MB through
    the port, that small messages lose to slower protocols and fewer channels. exponent: how that grows with the bytes.
    contention: how the ring slows down with its ranks where they share uplinks (0 on a switch). direct: share of the
    port's rate of one-shot kernels; 0 where there are none. staging: seconds that the longer way takes besides.
    in_switch: share of the port's rate of a reduction in the switch; 0 where it cannot. switch_ranks: the smallest
    group for which the library uses it.
    """

    launch: float
    round: float
    efficiency: float
    local: float = np.inf
    ramp: float = 0.0
    exponent: float = 0.5
    contention: float = 0.0
    direct: float = 0.0
    staging: float = 0.0
    in_switch: float = 0.0
    switch_ranks: int = 8

    def seconds(self, operation: Operation, size: ArrayLike, ranks: ArrayLike, port: float) -> FloatArray:
        """Duration of one call.

        Args:
            size: bytes of a rank's buffer. ranks: of the group; one alone makes no call. Both broadcast.
            port: bytes/s of each rank's port and direction.
        """
        held, n = np.broadcast_arrays(np.asarray(size, np.float64), np.asarray(ranks, np.float64))
        moved = port_bytes(operation, held, n)
        shape = np.maximum(n / 2.0, 1.0) ** self.contention
        paced = moved * shape / (self.efficiency * port) + held / (n * self.local * port)
        least = moved / port
        if self.in_switch > 0:
            used, inside = n >= self.switch_ranks, held * (n + 1.0) / n / port
            paced = np.where(used, smaller(paced, inside / self.in_switch), paced)
            least = np.where(used, np.minimum(least, inside), least)
        paced = paced + self.ramp * (moved / RAMP_BYTES) ** self.exponent
        if self.direct > 0:
            paced = smaller(self.staging + paced, (n - 1.0) * held / (self.direct * port))
        total: FloatArray = self.launch + self.round * (n - 1.0) + np.maximum(paced, least)
        return np.where(n > 1, total, 0.0)


@dataclass(frozen=True)
class CollectiveProtocol:
    """A library on a device: the terms of each operation it was measured with, by bytes per element.

    port: bytes/s per device and direction. ranks: largest measured group. origin: what the terms were measured on, and
    how they came to this device; for the summary of a run.
    """

    library: str
    device: str
    port: float
    terms: Mapping[tuple[Operation, int], CollectiveTerms]
    ranks: int = 8
    origin: str = ""

    def __contains__(self, operation: object) -> bool:
        return any(known == operation for known, _ in self.terms) or (operation == "send" and "all_to_all" in self)

    def of(self, operation: Operation, element: int = TWO_BYTES) -> CollectiveTerms:
        """The terms of an operation on elements of so many bytes, or of the other size where that was not measured.

        Raises:
            KeyError: the library was not measured with this operation.
        """
        known = self.terms.get((operation, element)) or self.terms.get((operation, 3 - element))
        if known is None:
            raise KeyError(f"{self.library} on {self.device} has no terms of {operation}")
        return known

    def seconds(self, operation: Operation, size: ArrayLike, ranks: ArrayLike, element: int = TWO_BYTES) -> FloatArray:
        """Duration of one call within one node.

        Args:
            size: bytes of a rank's buffer (see the module), of a send the bytes sent. ranks: of the group. They
                broadcast. element: bytes per element, 1 or 2.

        Raises:
            KeyError: the library was not measured with this operation.
        """
        if operation == "send":  # the library's all-to-all is made of sends: half of a buffer between two ranks
            both = 2.0 * np.asarray(size, np.float64)
            return self.of("all_to_all", element).seconds("all_to_all", both, 2, self.port)
        return self.of(operation, element).seconds(operation, size, ranks, self.port)

    def overhead(self, operation: Operation, element: int = TWO_BYTES) -> float:
        """Seconds per call, whatever its size and group: for topologies that the library was not measured on."""
        return self.of("all_to_all" if operation == "send" else operation, element).launch

    def latency(self, operation: Operation, element: int = TWO_BYTES) -> float:
        """Seconds per round: a ring of n ranks makes n-1 of them, an all-reduce twice as many in the same time."""
        terms = self.of("all_to_all" if operation == "send" else operation, element)
        return terms.round / (2.0 if operation == "all_reduce" else 1.0)

    def efficiency(
        self, operation: Operation, size: ArrayLike, ranks: ArrayLike, element: int = TWO_BYTES
    ) -> FloatArray:  # fmt: skip
        """Share of the port's rate, launch and rounds apart: what remains of a link's bandwidth for such messages.

        At most 1, except where the switch adds up: then fewer bytes pass than a ring would send.
        """
        held, n = np.broadcast_arrays(np.asarray(size, np.float64), np.asarray(ranks, np.float64))
        terms = self.of("all_to_all" if operation == "send" else operation, element)
        moving = self.seconds(operation, held, n, element) - terms.launch - terms.round * (n - 1.0)
        wire = (held if operation == "send" else port_bytes(operation, held, n)) / self.port
        return np.divide(wire, moving, out=np.ones_like(wire), where=moving > 0)

    def bus_bandwidth(
        self, operation: Operation, size: ArrayLike, ranks: ArrayLike, element: int = TWO_BYTES
    ) -> FloatArray:  # fmt: skip
        """Bytes/s through each port, as NCCL's tests report it."""
        held, n = np.broadcast_arrays(np.asarray(size, np.float64), np.asarray(ranks, np.float64))
        took = self.seconds(operation, held, n, element)
        moved = held if operation == "send" else port_bytes(operation, held, n)
        return np.divide(moved, took, out=np.zeros_like(took), where=took > 0)


def port_bytes(operation: Operation, size: FloatArray, ranks: FloatArray) -> FloatArray:
    """Bytes out of each rank's port in the algorithm with the fewest, without help of the switch."""
    passes = 2.0 if operation == "all_reduce" else 1.0
    moved: FloatArray = passes * (ranks - 1.0) / ranks * size
    return moved


def smaller(one: FloatArray, other: FloatArray) -> FloatArray:
    """Smooth minimum of two positive durations, growing in both: (a^-p + b^-p)^(-1/p)."""
    low, high = np.minimum(one, other), np.maximum(one, other)
    ratio = np.divide(low, high, out=np.zeros_like(low), where=high > 0)
    found: FloatArray = low * (1.0 + ratio**SHARPNESS) ** (-1.0 / SHARPNESS)
    return found
