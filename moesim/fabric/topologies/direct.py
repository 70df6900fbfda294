"""Devices joined to each other: full mesh, ring, line, mesh, torus, wafer."""

from __future__ import annotations

import numpy as np

from moesim.fabric.topologies.cables import Cables, Endpoints
from moesim.fabric.topology import Topology
from moesim.hardware.lattice import lattice
from moesim.spec.fabric import FabricSpec


def neighbours(spec: FabricSpec, devices: Endpoints, level: str) -> Topology:
    """A cable between each two neighbours, as fast as the slower one's port divided by its links; the fabric's latency
    on each. Meshes and tori advise routing dimension by dimension.

    Raises:
        MoesimError: the devices do not fill the shape, or do not fit on the wafer.
    """
    sites = lattice(spec, len(devices))
    spare = sites.sites - len(devices)
    rate = np.concatenate([devices.rate, np.full(spare, devices.rate.min())]) / spec.links_of_port(len(devices))
    cables = Cables(spec, devices, level)
    for site in range(len(devices), sites.sites):
        cables.switch(f"site{site}")
    for one, other in sites.cables.tolist():
        cables.join(one, other, float(min(rate[one], rate[other])), spec.latency)
    grid = spec.kind in ("mesh", "torus")
    return cables.topology(routing="dimension-order" if grid else "shortest", coordinates=sites.places)
