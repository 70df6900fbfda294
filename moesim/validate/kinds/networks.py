"""Collectives on topologies, against closed forms.

n devices, S bytes per device (m = S / n for each other one), a seconds of latency, B bytes/s per direction of a port or
link. Thakur, Rabenseifner, Gropp, IJHPCA 2005; Bruck et al., IEEE TPDS 1997; Sanders, Speck, Traeff, Parallel Computing
2009; Cho et al., BlueConnect, MLSys 2019; Patarasuk and Yuan, JPDC 2009.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Any, Literal

import numpy as np

from moesim.fabric.carried import Fidelity, carry
from moesim.fabric.chunk import store_and_forward
from moesim.fabric.flow import Flows, simulate
from moesim.fabric.limits import Limit
from moesim.fabric.network import TopologyFabric
from moesim.fabric.policies import RoutingOptions
from moesim.fabric.study import Collective, Study, library_protocol, system_fabric
from moesim.fabric.topologies import endpoints, fabric_topology
from moesim.fabric.topology import Topology, nest, star
from moesim.fabric.transfer import PICOSECONDS, Transfer, picoseconds
from moesim.spec.errors import MoesimError
from moesim.spec.fabric import FabricSpec
from moesim.spec.units import Bytes, BytesPerSecond, Seconds
from moesim.validate.cases import Found, Setting, case

#: Bytes per second of a device's link, where a case does not say, and bytes of a chunk.
LINK, CHUNK = 1e9, 65536.0

#: (n, S, a, B) -> seconds
Form = Callable[[int, float, float, float], float]

FORMS: dict[str, Form] = {
    "ring all-reduce": lambda n, S, a, B: 2 * (n - 1) * (a + S / n / B),
    "halving-doubling all-reduce": lambda n, S, a, B: 2 * log2(n) * a + 2 * (n - 1) / n * S / B,
    "tree all-reduce": lambda n, S, a, B: 2 * log2(n) * (a + S / B),
    "double-binary-tree all-reduce": lambda n, S, a, B: 2 * log2(n) * a + 2 * S / B,
    "nvls all-reduce": lambda n, S, a, B: a + (n + 1) / n * S / B,
    "sharp all-reduce": lambda n, S, a, B: a + S / B,
    "ring all-gather": lambda n, S, a, B: (n - 1) * (a + S / n / B),
    "ring reduce-scatter": lambda n, S, a, B: (n - 1) * (a + S / n / B),
    "direct all-to-all": lambda n, S, a, B: a + (n - 1) / n * S / B,
    "pairwise all-to-all": lambda n, S, a, B: (n - 1) * (a + S / n / B),
    "bruck all-to-all": lambda n, S, a, B: log2(n) * (a + S / (2 * B)),
    "tree broadcast": lambda n, S, a, B: log2(n) * (a + S / B),
}


@case("collective_on_switch", unit="second")
def collective_on_switch(
    setting: Setting,
    *,
    form: str,
    devices: int,
    size: float,
    latency: Seconds,
    bandwidth: BytesPerSecond,
    fidelity: Fidelity = "bound",
) -> Found:
    """A collective on one switch that can add up, against the form of that name."""
    if form not in FORMS:
        raise MoesimError(f"there is no form {form!r}", fix=f"those that exist are {', '.join(FORMS)}")
    algorithm, _, operation = form.partition(" ")
    topology = star(devices, bandwidth, latency, reduces=True)
    moved = _collective(TopologyFabric(topology), operation, size, algorithm)
    return Found(_seconds(moved, fidelity), FORMS[form](devices, size, latency, bandwidth))


@case("system_collective", unit="second")
def system_collective(
    setting: Setting,
    *,
    system: str,
    collective: Collective,
    size: Bytes,
    devices: int | None = None,
    algorithm: str = "auto",
    fidelity: Fidelity = "bound",
    library: str | None = None,
) -> Found:
    """A collective over the first devices (all where not given) of a system, as `moesim fabric` times it."""
    machine, fabric = system_fabric(system)
    study = Study(fabric, collective, range(devices or fabric.topology.endpoints), algorithm, fidelity, CHUNK)
    study.protocol = None if library is None else library_protocol(machine, library)
    (answer,) = study.answers([size])
    return Found(answer.seconds, detail=answer.algorithm)


@case("two_level_all_reduce", unit="second")
def two_level_all_reduce(
    setting: Setting,
    *,
    nodes: int,
    devices: int,
    size: float,
    inside: BytesPerSecond,
    outside: BytesPerSecond,
    latency: Seconds,
    fidelity: Fidelity = "bound",
) -> Found:
    """Reduce-scatter in nodes of g devices, all-reduce between N nodes, all-gather in nodes: 2 (g-1) (a + S / (g B1)) +
    2 (N-1) (a + S / (g N B2))."""
    node, outer = star(devices, inside, latency), star(nodes * devices, outside, latency, level="scale_out")
    moved = TopologyFabric(nest([node] * nodes, outer)).all_reduce(size, range(nodes * devices), "hierarchical")
    g, n = devices, nodes
    expected = 2 * (g - 1) * (latency + size / g / inside) + 2 * (n - 1) * (latency + size / (g * n) / outside)
    return Found(_seconds(moved, fidelity), expected)


@case("busiest_link")
def busiest_link(setting: Setting, *, fabric: dict[str, Any], devices: int, routing: str | None = None) -> Found:
    """Bytes on the busiest link over its bandwidth, where every device sends one byte to every other and links of
    devices have a bandwidth of one."""
    topology = _topology(fabric, devices)
    moved = TopologyFabric(topology, routing).all_to_all(np.ones((devices, devices)), range(devices))
    return Found(float((carry(moved).load / topology.bandwidth).max()) * LINK)


@case("uneven_all_to_all")
def uneven_all_to_all(setting: Setting, *, devices: int, seeds: int, fidelity: Fidelity = "bound") -> Found:
    """The largest error of random all-to-alls on a switch against max over devices and directions of bytes / B."""
    topology, worst = star(devices, LINK), 0.0
    fabric = TopologyFabric(topology)
    for seed in range(seeds):
        traffic = np.random.default_rng(seed).gamma(0.3, 1e6, (devices, devices))
        away = np.where(np.eye(devices, dtype=bool), 0.0, traffic)
        expected = max(away.sum(axis=0).max(), away.sum(axis=1).max()) / LINK
        worst = max(worst, abs(_seconds(fabric.all_to_all(traffic, range(devices)), fidelity) / expected - 1))
    return Found(error=worst, rows=seeds)


@case("incast", unit="second")
def incast(
    setting: Setting, *, senders: int, size: float, bandwidth: BytesPerSecond, fidelity: Fidelity = "bound"
) -> Found:
    """k senders to one port of a switch: k m / B."""
    traffic = np.zeros((senders + 1, senders + 1))
    traffic[:senders, senders] = size
    moved = TopologyFabric(star(senders + 1, bandwidth)).all_to_all(traffic, range(senders + 1))
    return Found(_seconds(moved, fidelity), senders * size / bandwidth)


@case("chunks_over_hops", unit="second")
def chunks_over_hops(
    setting: Setting,
    *,
    hops: int,
    chunks: int,
    size: float,
    latency: Seconds,
    bandwidth: BytesPerSecond,
    fidelity: Literal["flow", "chunk"] = "chunk",
) -> Found:
    """A message over h links: stored and forwarded in p chunks (p + h - 1) S / (p B) + h a, cut through h a + S / B."""
    line = _topology({"kind": "line", "latency": f"{latency!r} s"}, hops + 1, bandwidth)
    send = TopologyFabric(line).send(size, 0, hops)
    sent = size / bandwidth * ((chunks + hops - 1) / chunks if fidelity == "chunk" else 1)
    return Found(_seconds(send, fidelity, size / chunks), hops * latency + sent)


@case("above_the_lower_bound")
def above_the_lower_bound(
    setting: Setting, *, fabric: dict[str, Any], devices: int, seeds: int, fidelity: Fidelity = "bound"
) -> Found:
    """The least ratio, over random all-to-alls, of their time to the lower bound of all cuts and distances: at least
    1."""
    topology = _topology(fabric, devices)
    network = TopologyFabric(topology)
    limit, least = Limit(network.ports(range(devices))), np.inf
    for seed in range(seeds):
        traffic = np.random.default_rng(seed).gamma(0.3, 1e6, (devices, devices))
        moved = network.all_to_all(traffic, range(devices))
        least = min(least, _seconds(moved, fidelity) / limit.seconds("all_to_all", traffic))
    return Found(float(least), 1.0, rows=seeds)


@case("flow_over_bound")
def flow_over_bound(setting: Setting, *, fabric: dict[str, Any], devices: int, seeds: int) -> Found:
    """The least ratio, over random all-to-alls, of the time of flows to latency plus busiest link: at least 1."""
    topology, ratios = _topology(fabric, devices), []
    for seed in range(seeds):
        traffic = np.random.default_rng(seed).gamma(0.3, 1e6, (devices, devices))
        moved = TopologyFabric(topology).all_to_all(traffic, range(devices))
        ratios.append(_seconds(moved, "flow") / _seconds(moved, "bound"))
    return Found(min(ratios), 1.0, rows=seeds, detail=f"ratios up to {max(ratios):.2f}")


@case("single_paths_over_spraying")
def single_paths_over_spraying(setting: Setting, *, leaves: int, hosts: int, spines: int) -> Found:
    """The busiest link of an all-to-all on single paths with minimal splitting, over that of packet spraying."""
    fabric = {"kind": "fat-tree", "leaf": hosts, "spines": spines, "latency": "1 us"}
    topology, load = _topology(fabric, leaves * hosts), {}
    for routing in ("minimal-split", "shortest", "hash"):
        options = RoutingOptions(ties="hash" if routing == "hash" else "split")
        network = TopologyFabric(topology, "shortest" if routing == "hash" else routing, options=options)
        n = topology.endpoints
        moved = network.all_to_all(np.ones((n, n)), range(n))
        load[routing] = float((carry(moved).load / topology.bandwidth).max())
    detail = f"hashed onto single paths: {load['hash'] / load['shortest']:.2f}"
    return Found(load["minimal-split"] / load["shortest"], detail=detail)


def _topology(fabric: dict[str, Any], devices: int, link: float = LINK) -> Topology:
    """A fabric between devices, each of whose links carries `link` bytes/s."""
    document = {"name": "fabric", "link": "port", "latency": "0 s"} | fabric
    spec = FabricSpec.model_validate(document)
    return fabric_topology(spec, endpoints(np.full(devices, link * spec.links_of_port(devices))))


def _collective(fabric: TopologyFabric, operation: str, size: float, algorithm: str) -> Transfer:
    """A collective of `size` bytes per device over all of them."""
    n = fabric.topology.endpoints
    if operation == "all-to-all":
        return fabric.all_to_all(np.full((n, n), size / n), range(n), algorithm)
    if operation in ("all-gather", "reduce-scatter"):
        make = fabric.all_gather if operation == "all-gather" else fabric.reduce_scatter
        return make(np.full(n, size / n), range(n), algorithm)
    if operation == "broadcast":
        return fabric.broadcast(size, range(n), 0, algorithm)
    return fabric.all_reduce(size, range(n), algorithm)


def _seconds(moved: Transfer, fidelity: Fidelity, chunk: float = np.inf) -> float:
    return carry(moved, fidelity, chunk).picoseconds / PICOSECONDS


@case("queue_at_link", unit="second")
def queue_at_link(
    setting: Setting,
    *,
    load: float,
    count: int,
    size: float,
    bandwidth: BytesPerSecond,
    fidelity: Literal["flow", "chunk"] = "chunk",
    seed: int = 1,
) -> Found:
    """Mean delay of equal messages that arrive at a link at random times, with mu = B / S: in a queue rho / (2 mu (1 -
    rho)) (M/D/1), as flows that share the link rho / (mu (1 - rho)) (processor sharing): Kleinrock, Queueing Systems,
    1975 and 1976, volume I section 5.6 and volume II section 4.4."""
    service = size / bandwidth
    gaps = np.random.default_rng(seed).exponential(service / load, count)
    start = picoseconds(np.cumsum(gaps))
    one = np.arange(count, dtype=np.int64)
    wire = star(2, bandwidth)
    link = int(np.flatnonzero(wire.source == 0)[0])
    flows = Flows(
        np.append(one, count), np.full(count, link), np.ones(count), np.full(count, size), np.zeros(count), one, start,
        ((),) * count,
    )  # fmt: skip
    queued = fidelity == "chunk"
    arrivals = store_and_forward(flows, wire, np.inf) if queued else simulate(flows, wire.bandwidth)
    delay = (arrivals.finish - start) / PICOSECONDS - service
    return Found(float(delay.mean()), load * service / ((2 if queued else 1) * (1 - load)), rows=count)
