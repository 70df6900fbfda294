"""Protocol effects of kernels that dispatch tokens to experts and combine the results (DeepEP), as calibrated terms.

One call of a rank that holds T tokens and handles C copies of a payload of m bytes on `units` SMs:

    t    = launch + expert E + m / message + hop log2(2 nodes) + fill v / (1 + v) + norm(up, out, work)
    v    = T / (units x fill_tokens): how far the pipeline of the kernel's channels is filled
    up   = bytes through the scale-up port / (efficiency W)
    out  = bytes through the scale-out port / (out_efficiency N)           (several nodes)
    work = (C (copy_time + m / copy_rate) + T (token_time + m / token_rate)) / units (the SMs lent to the kernel)
    norm = (up^p + out^p + work^p)^(1/p)

and never less than either port needs. Copies are counted as the mode makes them: `normal` sends a token once to each
rank that holds one of its experts, and once to each node over the scale-out port, forwarding it there; `low_latency`
sends one copy per expert. A combine is a dispatch backwards. Every term grows with T, C and m.

Coefficients: hardware/calibrations/collectives, fitted by `moesim.calibrate.collectives`. Modes, payloads and the SMs
in use: DeepEP (github.com/deepseek-ai/DeepEP), README and csrc/kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

Mode = Literal["normal", "low_latency"]
Direction = Literal["dispatch", "combine"]

#: SMs that DeepEP's normal mode takes unless told otherwise (Buffer.num_sms).
NORMAL_UNITS = 20


@dataclass(frozen=True)
class ExpertLoad:
    """What the busiest rank of a group handles in one call; arrays broadcast, one value per call.

    tokens: it holds (dispatch) or gets back (combine). copies: that it sends, or receives where that is more; those
    for itself included. up, out: copies through its scale-up and scale-out port, the busier direction.
    """

    tokens: ArrayLike
    copies: ArrayLike
    up: ArrayLike
    out: ArrayLike = 0.0


@dataclass(frozen=True)
class ExpertTerms:
    """Coefficients of one kernel; see the module. Rates in bytes/s (inf leaves the term out), times in seconds.

    launch: per call. expert: per expert of the group. message: rate at which a single payload passes all stages of the
    kernel. hop: per doubling of the nodes. fill, fill_tokens: start of the pipeline. efficiency, out_efficiency: shares
    of the two ports. copy_time, copy_rate, token_time, token_rate: work of one SM per copy and per token. sharpness: p.
    """

    launch: float
    efficiency: float
    expert: float = 0.0
    message: float = np.inf
    hop: float = 0.0
    fill: float = 0.0
    fill_tokens: float = 1.0
    out_efficiency: float = 1.0
    copy_time: float = 0.0
    copy_rate: float = np.inf
    token_time: float = 0.0
    token_rate: float = np.inf
    sharpness: float = 2.0

    def seconds(
        self,
        load: ExpertLoad,
        payload: ArrayLike,
        *,
        units: ArrayLike,
        port: float,
        experts: ArrayLike = 0.0,
        nodes: ArrayLike = 1.0,
        nic: float = np.inf,
    ) -> FloatArray:
        """Duration of one call; all arguments broadcast.

        Args:
            payload: bytes of one copy. units: SMs lent to the kernel. port, nic: bytes/s of the scale-up and the
                scale-out port, per direction. experts: of the whole group. nodes: that it spans.
        """
        tokens, copies = np.asarray(load.tokens, np.float64), np.asarray(load.copies, np.float64)
        size, lent, spanned = (np.asarray(each, np.float64) for each in (payload, units, nodes))
        up, out = np.asarray(load.up, np.float64) * size / port, np.asarray(load.out, np.float64) * size / nic
        work = copies * (self.copy_time + size / self.copy_rate) + tokens * (self.token_time + size / self.token_rate)
        filled = tokens / (lent * self.fill_tokens)
        start = self.launch + self.expert * np.asarray(experts, np.float64) + size / self.message
        start = start + np.where(spanned > 1, self.hop * np.log2(2.0 * spanned), 0.0)
        parts = (up / self.efficiency, out / self.out_efficiency, work / lent)
        moving = np.maximum(norm(parts, self.sharpness), np.maximum(up, out))
        total: FloatArray = start + self.fill * filled / (1.0 + filled) + moving
        return total


@dataclass(frozen=True)
class ExpertProtocol:
    """A library's kernels on a device.

    port, nic: bytes/s of the ports per direction. units: SMs of the device. origin, scattered_origin: what the terms
    within a node and over several were measured on.
    """

    library: str
    device: str
    port: float
    nic: float
    units: int
    terms: Mapping[tuple[Mode, Direction], ExpertTerms]
    scattered: Mapping[tuple[Mode, Direction], ExpertTerms]
    origin: str = ""
    scattered_origin: str = ""

    def seconds(
        self,
        direction: Direction,
        load: ExpertLoad,
        payload: ArrayLike,
        *,
        experts: ArrayLike,
        mode: Mode = "normal",
        nodes: int = 1,
        units: ArrayLike | None = None,
    ) -> FloatArray:
        """Duration of one call.

        Args:
            payload: bytes of one copy (fp8 with its scales, bf16, ...). experts: of the group. nodes: that it spans.
            units: SMs lent to the kernel; None: the library's choice.

        Raises:
            KeyError: the library was not measured in this mode, over so many nodes.
        """
        known = self.terms if nodes == 1 else self.scattered
        if (mode, direction) not in known:
            span = "one node" if nodes == 1 else "several nodes"
            raise KeyError(f"{self.library} on {self.device} has no terms of {mode} {direction} over {span}")
        lent = self.lent(mode, experts) if units is None else units
        terms = known[mode, direction]
        return terms.seconds(
            load, payload, units=lent, port=self.port, experts=experts, nodes=float(nodes), nic=self.nic
        )

    def lent(self, mode: Mode, experts: ArrayLike) -> FloatArray:
        """SMs that the kernels take from everything else while they run."""
        return np.full(np.shape(experts), float(NORMAL_UNITS)) if mode == "normal" else low_latency_units(
            experts, self.units
        )  # fmt: skip


def low_latency_units(experts: ArrayLike, units: ArrayLike) -> FloatArray:
    """SMs of a low-latency kernel: each takes the same number of experts, as few as the device allows."""
    held = np.asarray(experts, np.float64)
    lent: FloatArray = np.ceil(held / np.ceil(held / np.asarray(units, np.float64)))
    return lent


def uniform_load(
    tokens: ArrayLike,
    *,
    experts: int,
    top_k: int,
    ranks: int,
    mode: Mode = "normal",
    ranks_per_node: int | None = None,
    node_limit: int | None = None,
) -> ExpertLoad:
    """The load of a rank with so many tokens, whose experts are drawn without preference.

    A token's `top_k` of `experts` miss a set that holds e of them with probability C(experts - e, k) / C(experts, k).

    Args:
        ranks: of the group, each with the same number of experts. ranks_per_node: where they span several nodes.
        node_limit: nodes that a token's experts may lie on at most (node-limited routing).
    """
    held = np.asarray(tokens, np.float64)
    width = min(ranks_per_node or ranks, ranks)
    nodes = ranks // width
    reach = min(node_limit or nodes, nodes)
    within = experts * reach // nodes
    if mode == "low_latency":
        copies = held * top_k
        return ExpertLoad(held, copies, copies * (width - 1) / ranks, copies * (ranks - width) / ranks)
    copies = held * _reached(reach * width, within, top_k)
    near, far = copies * (width - 1) / width, held * _reached(reach, within, top_k) * (nodes - 1) / nodes
    return ExpertLoad(held, copies, near, far)


def _reached(places: int, experts: int, top_k: int) -> float:
    """Expected number of places, of equally many experts each, that a token's distinct experts lie on."""
    others = experts - experts // places
    missed = math.comb(others, top_k) / math.comb(experts, top_k) if top_k <= others else 0.0
    return places * (1.0 - missed)


def norm(parts: tuple[FloatArray, ...], power: float) -> FloatArray:
    """(sum of part^p)^(1/p) of durations that overlap: their maximum for a large p, their sum for 1."""
    largest = np.maximum.reduce(np.broadcast_arrays(*parts))
    scale = np.where(largest > 0, largest, 1.0)
    found: FloatArray = largest * sum((part / scale) ** power for part in parts) ** (1.0 / power)
    return found
