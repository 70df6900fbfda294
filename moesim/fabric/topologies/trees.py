"""Devices below switches: one switch, trees of switches, trees on a package, PCI Express behind root complexes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from moesim.fabric.topologies.cables import Cables, Endpoints
from moesim.fabric.topology import Topology
from moesim.spec.fabric import FabricSpec


def one_switch(spec: FabricSpec, devices: Endpoints, level: str) -> Topology:
    """All devices on one switch, or on the root complex of a host."""
    cables = Cables(spec, devices, level)
    hub = cables.switch()
    for device in range(len(devices)):
        cables.plug(device, hub)
    return cables.topology()


def tree(spec: FabricSpec, devices: Endpoints, level: str) -> Topology:
    """Devices at the leaves; on every switch `arity` devices or switches of the tier below, up to a single one."""
    cables, tier, height = Cables(spec, devices, level), list(range(len(devices))), 0
    while height == 0 or len(tier) > 1:
        above = []
        for number, below in enumerate(_groups(tier, _arity(spec))):
            above.append(cables.switch(f"tier{height + 1}-{number}"))
            for child in below:
                if height == 0:
                    cables.plug(child, above[-1])
                else:
                    cables.join(child, above[-1], cables.wire_rate(spec.uplink), spec.hop_latency)
        tier, height = above, height + 1
    return cables.topology()


def nop_tree(spec: FabricSpec, devices: Endpoints, level: str) -> Topology:
    """A network on package: leaves below switches, the switches below a root, which is a switch or the first device
    (Mozart, NeurIPS 2025, arXiv 2603.07006: one attention chiplet, 4 switches, 16 expert chiplets)."""
    cables = Cables(spec, devices, level)
    by_device = spec.root == "device"
    root = 0 if by_device else cables.switch("root")
    leaves = list(range(1 if by_device else 0, len(devices)))
    for number, below in enumerate(_groups(leaves, _arity(spec))):
        switch = cables.switch(f"switch{number}")
        cables.join(switch, root, cables.wire_rate(spec.uplink), spec.latency / 2 if by_device else spec.hop_latency)
        for leaf in below:
            cables.plug(leaf, switch)
    return cables.topology(forwarding=(0,) if by_device else ())


def pcie_tree(spec: FabricSpec, devices: Endpoints, level: str) -> Topology:
    """`arity` devices share the uplink of a PCIe switch to a root complex; root complexes are joined to each other."""
    cables = Cables(spec, devices, level)
    roots = [cables.switch(f"root{number}") for number in range(spec.roots)]
    for one, other in combinations(roots, 2):
        cables.join(one, other, cables.wire_rate(spec.root_link), spec.hop_latency)
    groups = list(_groups(list(range(len(devices))), _arity(spec)))
    for number, below in enumerate(groups):
        switch = cables.switch(f"switch{number}")
        root = roots[number * spec.roots // len(groups)]
        cables.join(switch, root, cables.wire_rate(spec.uplink), spec.hop_latency)
        for device in below:
            cables.plug(device, switch)
    return cables.topology()


def _arity(spec: FabricSpec) -> int:
    assert spec.arity is not None
    return spec.arity


def _groups(members: list[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(members), size):
        yield members[first : first + size]
