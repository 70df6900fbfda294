"""Published times of expert kernels on devices that no fit has seen: what taking over coefficients is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.calibrate.fits import MESSAGE_HEAD, NODE_LIMIT, PAYLOAD, RANKS_PER_NODE
from moesim.fabric.calibrated import expert_protocol
from moesim.fabric.expert_protocol import Direction, ExpertProtocol, Mode, uniform_load
from moesim.spec.errors import MoesimError

#: What DeepEP's README measures: DeepSeek-V3 shapes on H800 (NVLink 4 at 200 GB/s, 50 GB/s of InfiniBand each).
HIDDEN, EXPERTS, TOP_K = 7168, 256, 8
LOW_LATENCY_TOKENS, NORMAL_TOKENS, NORMAL_UNITS = 128, 4096, 24

#: Microseconds by ranks, low-latency mode.
LOW_LATENCY: dict[Direction, dict[int, float]] = {
    "dispatch": {8: 77.0, 16: 118.0, 32: 155.0, 64: 173.0, 128: 192.0, 256: 194.0},
    "combine": {8: 114.0, 16: 195.0, 32: 273.0, 64: 314.0, 128: 369.0, 256: 360.0},
}

#: GB/s of the bottleneck by ranks, normal mode: NVLink within a node, InfiniBand over several. A rank's bytes for
#: itself and for its own node are counted.
NORMAL: dict[Direction, dict[int, float]] = {
    "dispatch": {8: 153.0, 16: 43.0, 32: 58.0, 64: 51.0},
    "combine": {8: 158.0, 16: 43.0, 32: 57.0, 64: 50.0},
}


@dataclass(frozen=True)
class Comparison:
    """One published time and ours, in seconds."""

    name: str
    published: float
    predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.published - 1.0


def h800() -> list[Comparison]:
    """DeepEP's README against coefficients of other devices.

    Raises:
        MoesimError: no calibration speaks for NVLink 4.
    """
    protocol = expert_protocol("h800-sxm", family="hopper", link="nvlink4", port=200e9, units=132, nic=50e9)
    if protocol is None:
        raise MoesimError("no calibration of expert kernels speaks for nvlink4", fix="restore hardware/calibrations")
    found = []
    for direction in LOW_LATENCY:
        for ranks, took in LOW_LATENCY[direction].items():
            ours = _predicted(protocol, "low_latency", direction, ranks)
            found.append(Comparison(f"low-latency {direction}, EP {ranks}", took * 1e-6, ours))
        for ranks, rate in NORMAL[direction].items():
            ours = _predicted(protocol, "normal", direction, ranks)
            found.append(Comparison(f"normal {direction}, EP {ranks}", _seconds(direction, ranks, rate), ours))
    return found


def _predicted(protocol: ExpertProtocol, mode: Mode, direction: Direction, ranks: int) -> float:
    normal = mode == "normal"
    load = uniform_load(
        NORMAL_TOKENS if normal else LOW_LATENCY_TOKENS,
        experts=EXPERTS,
        top_k=TOP_K,
        ranks=ranks,
        mode=mode,
        ranks_per_node=RANKS_PER_NODE,
        node_limit=NODE_LIMIT if normal else None,
    )
    head = MESSAGE_HEAD if direction == "dispatch" and not normal else 0.0
    payload = HIDDEN * PAYLOAD[direction] + head
    units = NORMAL_UNITS if normal else None
    nodes = max(1, ranks // RANKS_PER_NODE)
    took = protocol.seconds(direction, load, payload, experts=EXPERTS, mode=mode, nodes=nodes, units=units)
    return float(took)


def _seconds(direction: Direction, ranks: int, rate: float) -> float:
    """The time behind a published bandwidth: all copies over NVLink, or one per node over InfiniBand, own included."""
    load = uniform_load(
        NORMAL_TOKENS, experts=EXPERTS, top_k=TOP_K, ranks=ranks, ranks_per_node=RANKS_PER_NODE, node_limit=NODE_LIMIT
    )
    nodes = ranks // RANKS_PER_NODE
    counted = np.asarray(load.copies if nodes == 1 else np.asarray(load.out) * nodes / (nodes - 1), np.float64)
    return float(counted * HIDDEN * PAYLOAD[direction] / (rate * 1e9))
