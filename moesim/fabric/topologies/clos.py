"""Leaf switches and what joins them: fat trees, rails, planes (Leiserson, Fat-trees, IEEE Trans. Computers 1985;
Al-Fares, Loukissas, Vahdat, SIGCOMM 2008)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from moesim.fabric.topologies.cables import Cables, Endpoints
from moesim.fabric.topology import Topology
from moesim.spec.fabric import FabricSpec


@dataclass(frozen=True)
class Leaf:
    """A leaf switch, and bytes/s of all ports on it."""

    switch: int
    down: float


def fat_tree(spec: FabricSpec, devices: Endpoints, level: str) -> Topology:
    """`leaf` neighbours on each leaf switch, all leaves on all spines; with `pod`, the leaves of a pod on its own
    spines and those on a third tier of as many cores as a pod has leaves, per spine."""
    cables = Cables(spec, devices, level)
    leaves = _leaves(cables, list(range(len(devices))), "", parts=1)
    if spec.pod is None:
        _spines(cables, leaves, "")
        return cables.topology()
    pods = [leaves[first : first + spec.pod] for first in range(0, len(leaves), spec.pod)]
    spines = [_spines(cables, pod, f"pod{number}-", always=len(pods) > 1) for number, pod in enumerate(pods)]
    if len(pods) > 1:
        for position, column in enumerate(zip(*spines, strict=True)):
            _join_all(cables, column, spec.pod, f"core{position}-", 1.0)
    return cables.topology()


def rail(spec: FabricSpec, devices: Endpoints, level: str) -> Topology:
    """On each leaf switch the devices of one index of `leaf` nodes; all leaves of all rails on common spines, or, with
    none, rails that only meet within nodes (rail-only: Wang et al., arXiv 2307.12169)."""
    cables = Cables(spec, devices, level)
    leaves = []
    for index in range(int(devices.place.max()) + 1):
        members = np.flatnonzero(devices.place == index)
        groups = devices.node[members] // _required(spec.leaf)
        for number in np.unique(groups).tolist():
            leaves.append(_leaf(cables, members[groups == number].tolist(), f"rail{index}-leaf{number}", 1))
    if spec.spines != 0:
        _spines(cables, leaves, "")
    return cables.topology(routing="rail-local")


def multi_plane(spec: FabricSpec, devices: Endpoints, level: str) -> Topology:
    """Separate two-tier fat trees: device i of a node is in plane i modulo their number, or, striped, every device in
    all of them with an equal part of its port (Insights into DeepSeek-V3, ISCA 2025, section 5)."""
    cables, planes = Cables(spec, devices, level), _required(spec.planes)
    for plane in range(planes):
        mine = np.arange(len(devices)) if spec.striped else np.flatnonzero(devices.place % planes == plane)
        leaves = _leaves(cables, mine.tolist(), f"plane{plane}-", parts=planes if spec.striped else 1)
        _spines(cables, leaves, f"plane{plane}-")
    return cables.topology(routing="shortest" if spec.striped else "rail-local")


def _leaves(cables: Cables, members: list[int], prefix: str, parts: int) -> list[Leaf]:
    size = _required(cables.spec.leaf)
    groups = [members[first : first + size] for first in range(0, len(members), size)]
    return [_leaf(cables, group, f"{prefix}leaf{number}", parts) for number, group in enumerate(groups)]


def _leaf(cables: Cables, members: list[int], name: str, parts: int) -> Leaf:
    switch = cables.switch(name)
    for device in members:
        cables.plug(device, switch, parts)
    return Leaf(switch, float(cables.devices.rate[members].sum()) / parts)


def _spines(cables: Cables, leaves: list[Leaf], prefix: str, always: bool = False) -> list[Leaf]:
    """The spines above these leaves; none above a single one, unless `always`."""
    spec = cables.spec
    count = spec.spines or math.ceil(_required(spec.leaf) / spec.oversubscription)
    if len(leaves) < 2 and not always:
        return []
    return _join_all(cables, leaves, count, f"{prefix}spine", spec.oversubscription)


def _join_all(cables: Cables, below: list[Leaf] | tuple[Leaf, ...], count: int, prefix: str, over: float) -> list[Leaf]:
    """`count` switches above, each joined to all those below, which send up what comes from below divided by `over`."""
    above = []
    for number in range(count):
        switch = cables.switch(f"{prefix}{number}")
        for leaf in below:
            cables.join(leaf.switch, switch, leaf.down / (count * over), cables.spec.hop_latency)
        above.append(Leaf(switch, sum(leaf.down for leaf in below) / (count * over)))
    return above


def _required(value: int | None) -> int:
    assert value is not None
    return value
