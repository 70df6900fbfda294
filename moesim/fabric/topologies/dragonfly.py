"""Groups of routers, all joined within a group, groups joined to each other (Kim et al., Technology-Driven,
Highly-Scalable Dragonfly Topology, ISCA 2008)."""

from __future__ import annotations

import math
from itertools import combinations

from moesim.fabric.topologies.cables import Cables, Endpoints
from moesim.fabric.topology import Topology
from moesim.spec.errors import MoesimError
from moesim.spec.fabric import FabricSpec


def dragonfly(spec: FabricSpec, devices: Endpoints, level: str) -> Topology:
    """`hosts` devices on each router, `routers` in a group, `global_links` of each to other groups; as many cables
    between each two groups as the links allow, spread over the routers in turn.

    Raises:
        MoesimError: a group has too few links to reach every other group.
    """
    assert spec.hosts is not None
    assert spec.routers is not None
    assert spec.global_links is not None
    per_group, outward = spec.hosts * spec.routers, spec.routers * spec.global_links
    groups = math.ceil(len(devices) / per_group)
    if groups - 1 > outward:
        raise MoesimError(
            f"{spec.name}: {len(devices)} devices make {groups} groups of {per_group}, and the {spec.routers} routers "
            f"of a group have {outward} links to others",
            fix="give more hosts, routers or global_links",
        )
    cables = Cables(spec, devices, level)
    router = [[cables.switch(f"group{g}-router{r}") for r in range(spec.routers)] for g in range(groups)]
    for device in range(len(devices)):
        group, place = divmod(device, per_group)
        cables.plug(device, router[group][place // spec.hosts])
    for members in router:
        for one, other in combinations(members, 2):
            cables.join(one, other, cables.wire_rate(None), spec.hop_latency)
    for one, other in combinations(range(groups), 2):
        for turn in range(outward // (groups - 1)):
            ends = [
                router[here][(turn * (groups - 1) + (there - here) % groups - 1) // spec.global_links]
                for here, there in ((one, other), (other, one))
            ]
            cables.join(ends[0], ends[1], cables.wire_rate(spec.uplink), spec.hop_latency)
    return cables.topology()
