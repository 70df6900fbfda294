"""Published times of dispatch, combine and gathers on real machines."""

from __future__ import annotations

from functools import lru_cache
from math import ceil

import numpy as np

from moesim.fabric.dispatch import combine, dispatch, expert_load, payload
from moesim.fabric.expert_protocol import ExpertTerms
from moesim.fabric.links import group_links
from moesim.fabric.network import TopologyFabric
from moesim.fabric.study import Study, system_fabric
from moesim.fabric.tokens import ExpectedTokens
from moesim.fabric.topology import star
from moesim.fabric.transfer import PICOSECONDS, GroupPorts
from moesim.spec.units import BytesPerSecond, Seconds
from moesim.validate.cases import Found, Setting, case


@case("expert_exchange", unit="second")
def expert_exchange(
    setting: Setting,
    *,
    bandwidth: BytesPerSecond,
    tokens: int,
    experts: int,
    hidden: int,
    dispatch_bytes: float,
    combine_bytes: float,
    devices: int = 64,
    calls: int = 1,
) -> Found:
    """Dispatch and combine `calls` times, one after the other: every device has `tokens`, each of which goes to
    `experts` other devices on a switch; bytes are those of an element."""
    return Found(_exchange(bandwidth, tokens, experts, hidden, dispatch_bytes, combine_bytes, devices) * calls)


@case("tokens_bound_by_exchange", unit="1/second")
def tokens_bound_by_exchange(
    setting: Setting,
    *,
    bandwidth: BytesPerSecond,
    tokens: int,
    experts: int,
    hidden: int,
    dispatch_bytes: float,
    combine_bytes: float,
    devices: int = 64,
    calls: int,
) -> Found:
    """Tokens per second and sequence, where a step takes as long as its `calls` exchanges; see `expert_exchange`."""
    took = _exchange(bandwidth, tokens, experts, hidden, dispatch_bytes, combine_bytes, devices)
    return Found(1 / (took * calls))


def _exchange(
    bandwidth: float, tokens: int, experts: int, hidden: int, there: float, back: float, devices: int
) -> float:  # fmt: skip
    """Seconds of a dispatch and a combine; one expert per device, none of a token's own."""
    counts = np.where(np.eye(devices, dtype=bool), 0.0, tokens * experts / (devices - 1))
    visits = ExpectedTokens(counts, np.arange(devices), devices, experts)
    group = group_links(star(devices, bandwidth), range(devices))
    moved = (
        dispatch(visits, payload(hidden, there), group, "per-expert"),
        combine(visits, payload(hidden, back), group, "per-expert"),
    )
    return sum(int(each.picoseconds) for each in moved) / PICOSECONDS


@case("direct_writes_to_experts", unit="second")
def direct_writes_to_experts(
    setting: Setting,
    *,
    ranks: int,
    tokens: int,
    top_k: int,
    hidden: int,
    element: float,
    header: float,
    port: BytesPerSecond,
    writes: BytesPerSecond,
    signal: Seconds,
    signals: int,
    cores: int,
    ranks_of_node: int,
    launch: Seconds,
) -> Found:
    """A dispatch or combine whose cores write to remote memories themselves, one expert per rank.

    Each rank sends a signal `signals` times to every other; `cores` of them at once. launch: what a call takes besides.
    """
    counts = np.full((ranks, ranks), tokens * top_k / ranks)
    node = np.arange(ranks) // ranks_of_node
    group = GroupPorts(node, np.full(ranks, port), np.full(ranks, port if node[-1] else 0.0))
    load = expert_load(ExpectedTokens(counts, np.arange(ranks), ranks, top_k), group, "per-expert")
    per_expert = signals * signal * ceil(ranks / cores) / ranks
    share = writes / port
    terms = ExpertTerms(launch, share, expert=per_expert, out_efficiency=share, sharpness=64.0)
    size = payload(hidden, element, header=header)
    return Found(float(np.squeeze(terms.seconds(load, size, units=16, port=port, nic=port, experts=ranks))))


@case("gather_bandwidth_ratio")
def gather_bandwidth_ratio(setting: Setting, *, system: str, devices: int, base: int) -> Found:
    """Bytes per second that each of so many devices receives in an all-gather of 8 GB, over that of `base` devices."""
    fabric = _fabric(system)
    rates = []
    for count in (devices, base):
        (answer,) = Study(fabric, "all-gather", range(count)).answers([8e9])
        rates.append(answer.bus_bandwidth)
    return Found(rates[0] / rates[1])


@lru_cache(maxsize=4)
def _fabric(system: str) -> TopologyFabric:
    return system_fabric(system)[1]
