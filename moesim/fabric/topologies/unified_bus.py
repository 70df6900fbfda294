"""The unified bus of CloudMatrix384: dies, the switches of a node, and above them the switches of the super-node
(Zuo et al., Serving Large Language Models on Huawei CloudMatrix384, arXiv 2506.12708)."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from moesim.fabric.topologies.cables import Cables, Endpoints, endpoints
from moesim.fabric.topology import IntArray, Topology
from moesim.spec.errors import MoesimError
from moesim.spec.fabric import FabricSpec


def unified_bus(spec: FabricSpec, devices: Endpoints, level: str) -> Topology:
    """Within a node: each device on all `planes` switches with an equal part of its port; dies of a package joined."""
    assert spec.planes is not None
    cables = Cables(spec, devices, level)
    switches = [cables.switch(f"plane{plane}") for plane in range(spec.planes)]
    for device in range(len(devices)):
        for switch in switches:
            cables.plug(device, switch, spec.planes)
    for first in range(0, len(devices), spec.dies):
        for one, other in combinations(range(first, min(first + spec.dies, len(devices))), 2):
            cables.join(one, other, cables.wire_rate(spec.die_bandwidth), spec.die_latency)
    return cables.topology()


def super_node(spec: FabricSpec, inner: FabricSpec, node: Topology, nodes: int) -> tuple[Topology, IntArray]:
    """Between nodes: the switch of a plane of every node on all second-level switches of that plane.

    Not blocking: a node's switch sends up as much as its devices do. What the way to another node takes beyond the way
    within the node is on the links between switches.

    Returns:
        The topology whose endpoints are the nodes' switches, and [nodes x planes, 3] which endpoint is which node's
        which vertex.

    Raises:
        MoesimError: the two levels differ in the number of planes, or the node is no unified bus.
    """
    if inner.kind != "unified-bus" or inner.planes != spec.planes:
        has = f"{inner.planes} planes" if inner.kind == "unified-bus" else f"a {inner.kind}"
        raise MoesimError(
            f"{spec.name} joins the switches of {spec.planes} planes, but {inner.name} within the nodes has {has}",
            fix="give both levels the same planes",
        )
    assert spec.planes is not None
    first = node.endpoints
    up = [node.target == first + plane for plane in range(spec.planes)]
    rate = np.array([node.bandwidth[into & (node.source < first)].sum() for into in up])
    rate = rate / inner.efficiency * spec.efficiency
    ports = endpoints(np.tile(rate, nodes), spec.planes)
    latency = max(spec.latency - inner.latency, 0.0) / 2
    cables = Cables(spec, ports, "scale_out")
    for plane in range(spec.planes):
        for number in range(spec.switches):
            switch = cables.switch(f"plane{plane}-switch{number}")
            for each in range(nodes):
                cables.join(each * spec.planes + plane, switch, float(rate[plane]) / spec.switches, latency)
    at = np.arange(nodes * spec.planes)
    return cables.topology(), np.stack([at, at // spec.planes, first + at % spec.planes], axis=1)
