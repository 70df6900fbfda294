"""The fabric's speed beside its limits: `python benchmarks/fabric.py [REPEATS]`. Medians; run it on a quiet machine.

On a busy one, `FABRIC_CLOCK=processor` counts processor seconds, which waiting does not lengthen.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from measure import ROOT, table

from moesim.accelerate import HAVE_NUMBA
from moesim.fabric import collectives
from moesim.fabric.flow import along, simulate
from moesim.fabric.links import GroupLinks, group_links
from moesim.fabric.network import TopologyFabric
from moesim.fabric.study import system_fabric
from moesim.fabric.topologies import endpoints, fabric_topology
from moesim.fabric.topology import Topology
from moesim.fabric.transfer import GroupPorts, Transfer
from moesim.spec.fabric import FabricSpec

LAYERS, DEVICES = 60, 256


CLOCK = time.process_time if os.environ.get("FABRIC_CLOCK") == "processor" else time.perf_counter


def timed(action: Callable[[], object]) -> float:
    begin = CLOCK()
    action()
    return CLOCK() - begin


def uneven(devices: int, layers: int | None = None) -> np.ndarray:
    """Bytes between each two devices, of random popularity."""
    random = np.random.default_rng(0)
    shape = (devices, devices) if layers is None else (layers, devices, devices)
    return random.gamma(0.5, 2e6 / devices, shape)


def both_ways(traffic: np.ndarray, group: GroupPorts | GroupLinks) -> None:
    """Durations of a dispatch and a combine."""
    moved: tuple[Transfer, ...] = (
        collectives.all_to_all(traffic, group),
        collectives.all_to_all(traffic, group, back=True),
    )
    for transfer in moved:
        assert int(transfer.picoseconds.sum()) > 0


def port_sums() -> float:
    """Seconds for the sums of ports on a switch."""
    rates = np.full(DEVICES, 450e9)
    ports = GroupPorts(node=np.zeros(DEVICES, dtype=np.int64), up_bandwidth=rates, out_bandwidth=0 * rates)
    traffic = uneven(DEVICES, LAYERS)
    sent, received = traffic.sum(axis=2), traffic.sum(axis=1)

    def price() -> None:
        for pair in ((sent, received), (received, sent)):
            assert int(collectives.exchange(*pair, ports=ports).picoseconds.sum()) > 0

    return timed(price)


def pairs_on_a_switch() -> float:
    rates = np.full(DEVICES, 450e9)
    ports = GroupPorts(node=np.zeros(DEVICES, dtype=np.int64), up_bandwidth=rates, out_bandwidth=0 * rates)
    traffic = uneven(DEVICES, LAYERS)
    return timed(lambda: both_ways(traffic, ports))


def mesh(side: int) -> Topology:
    spec = FabricSpec(name="mesh", kind="mesh", link="wire", latency="1 us", shape=(side, side))  # type: ignore[arg-type]
    return fabric_topology(spec, endpoints(np.full(side * side, 400e9)))


def on_a_mesh(known: bool) -> float:
    """Of a group whose routes are known, or must be found."""
    both_ways(uneven(4), group_links(mesh(2), range(4)))  # imports
    group, traffic = group_links(mesh(16), range(DEVICES)), uneven(DEVICES, LAYERS)
    if known:
        both_ways(traffic[:1], group)
    return timed(lambda: both_ways(traffic, group))


def flows() -> float:
    """Flows per second of an uneven all-to-all of 64 devices on an 8 x 8 mesh."""
    topology = mesh(8)
    here, there = np.divmod(np.arange(64**2), 64)
    pairs = np.stack([here, there], axis=1)[here != there]
    group = group_links(topology, range(64))
    coflow = along(group.routing.routes(topology, pairs), uneven(64)[pairs[:, 0], pairs[:, 1]])
    simulate(coflow, topology.bandwidth)  # compiled, where numba is there
    return len(coflow) / timed(lambda: simulate(coflow, topology.bandwidth))


def rails() -> float:
    """Seconds for the expert all-to-all of 32 groups of 64 on 2,048 devices, the topology apart."""
    _, fabric = system_fabric("h800-rail-2048")
    traffic = np.random.default_rng(0).gamma(0.5, 2e5, (32, 64, 64))
    members = np.arange(2048).reshape(32, 64)

    def price() -> None:
        moved = collectives.all_to_alls(traffic, fabric.ports(range(2048)), members)
        assert int(moved.picoseconds) > 0

    return timed(price)


def many_endpoints() -> float:
    """Seconds to the tables of a mesh of 100 x 100 and the first answers, of pairs all over it."""
    begin = CLOCK()
    fabric = TopologyFabric(mesh(100))
    for pair in ((0, 9_999), (99, 9_900), (5_000, 4_321)):
        assert int(fabric.send(1e6, *pair).picoseconds) > 0
    fabric.all_to_all(uneven(64), range(0, 6_400, 100))
    return CLOCK() - begin


def apart(name: str, repeats: int, **environment: str) -> tuple[float, float]:
    """Median of a job's value, each in a process of its own, and the peak of their memory in bytes."""
    values, peaks = [], []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, __file__, "--job", name],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        value, peak = done.stdout.split()
        values.append(float(value))
        peaks.append(float(peak))
    return statistics.median(values), max(peaks)


JOBS: dict[str, Callable[[], float]] = {
    "port sums": port_sums,
    "pairs on a switch": pairs_on_a_switch,
    "mesh, first call": lambda: on_a_mesh(known=False),
    "mesh, known routes": lambda: on_a_mesh(known=True),
    "flows": flows,
    "rails": rails,
    "many endpoints": many_endpoints,
}


def main(repeats: int) -> None:
    step = f"dispatch and combine, {LAYERS} layers, {DEVICES} devices: "
    plans = [
        (step + "port sums on a switch", "port sums", "ms", 2.0, {}),
        (step + "pair traffic on a switch", "pairs on a switch", "ms", 25.0, {}),
        (step + "16 x 16 mesh, first call", "mesh, first call", "ms", 100.0, {}),
        (step + "16 x 16 mesh, known routes", "mesh, known routes", "ms", 100.0, {}),
        ("expert all-to-all of 2,048 devices on rails", "rails", "ms", 1000.0, {}),
        ("10,000 endpoints: tables and first answers", "many endpoints", "ms", 10_000.0, {}),
        ("4,032 uneven flows on an 8 x 8 mesh, numpy", "flows", "flows/s", 500.0, {"MOESIM_NUMBA": "0"}),
    ]
    if HAVE_NUMBA:
        plans.append(("the same with numba", "flows", "flows/s", 10_000.0, {}))
    rows = []
    for what, job, unit, limit, environment in plans:
        value, peak = apart(job, repeats, **environment)
        shown = value * 1e3 if unit == "ms" else value
        bound = "at least" if unit == "flows/s" else "limit"
        rows.append([what, f"{shown:,.1f} {unit} ({bound} {limit:,g})", f"{peak / 1e6:,.0f}"])
    header = ["job", "took", "peak, MB (limit 1,000)"]
    table(f"Fabric, medians of {repeats}, each in a process of its own", header, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        found = JOBS[sys.argv[2]]()
        print(found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
