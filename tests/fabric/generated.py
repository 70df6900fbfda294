"""Topologies generated from descriptors, and what to count of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.fabric.routes import shortest_routes
from moesim.fabric.topologies import endpoints, fabric_topology
from moesim.fabric.topology import Topology
from moesim.spec.fabric import FabricSpec

RATE = 100e9
DIRECT = ["full-mesh", "ring", "line", "mesh", "torus"]
SHAPED = {
    "wafer": {"shape": [8, 8]},
    "tree": {"arity": 3},
    "nop-tree": {"arity": 4},
    "pcie-tree": {"arity": 4},
    "fat-tree": {"leaf": 4},
    "rail": {"leaf": 2},
    "multi-plane": {"leaf": 4, "planes": 2, "striped": True},
    "dragonfly": {"hosts": 2, "routers": 4, "global_links": 2},
    "unified-bus": {"planes": 7},
}


def spec(kind: str, **fields: object) -> FabricSpec:
    common = {"name": kind, "kind": kind, "link": "x", "latency": "1 us", "energy": "8 pJ/byte"}
    return FabricSpec.model_validate(common | SHAPED.get(kind, {}) | fields)


def made(kind: str, devices: int, per_node: int | None = None, **fields: object) -> Topology:
    return fabric_topology(spec(kind, **fields), endpoints(np.full(devices, RATE), per_node))


def cables(topology: Topology) -> int:
    return topology.links // 2


def degrees(topology: Topology) -> list[int]:
    """Cables at each device."""
    return np.bincount(topology.source, minlength=topology.vertices)[: topology.endpoints].tolist()


def bisection(topology: Topology, half: Sequence[int]) -> float:
    """Bytes/s from one set of vertices to all others."""
    inside = np.zeros(topology.vertices, dtype=bool)
    inside[list(half)] = True
    return float(topology.bandwidth[inside[topology.source] & ~inside[topology.target]].sum())


def hops(topology: Topology, one: int, other: int) -> float:
    return float(shortest_routes(topology, [(one, other)]).hops[0])
