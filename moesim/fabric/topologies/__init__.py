"""Topologies of fabrics and of whole machines, from their descriptors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from moesim.fabric.policies import RoutingOptions, make_routing
from moesim.fabric.routing import Routing
from moesim.fabric.topologies import clos, direct, trees
from moesim.fabric.topologies.cables import Cables, Endpoints, endpoints
from moesim.fabric.topologies.dragonfly import dragonfly
from moesim.fabric.topologies.unified_bus import super_node, unified_bus
from moesim.fabric.topology import Topology, nest
from moesim.hardware.machine import Machine
from moesim.spec.fabric import LATTICES, FabricKind, FabricSpec

__all__ = ["Endpoints", "endpoints", "fabric_topology", "machine_routing", "machine_topology"]

#: (descriptor, devices, level) -> topology
Generator = Callable[[FabricSpec, Endpoints, str], Topology]

GENERATORS: dict[FabricKind, Generator] = {
    "switch": trees.one_switch,
    "host-bridge": trees.one_switch,
    "full-mesh": direct.neighbours,
    "ring": direct.neighbours,
    "line": direct.neighbours,
    "mesh": direct.neighbours,
    "torus": direct.neighbours,
    "wafer": direct.neighbours,
    "tree": trees.tree,
    "nop-tree": trees.nop_tree,
    "pcie-tree": trees.pcie_tree,
    "fat-tree": clos.fat_tree,
    "rail": clos.rail,
    "multi-plane": clos.multi_plane,
    "dragonfly": dragonfly,
    "unified-bus": unified_bus,
}


def fabric_topology(spec: FabricSpec, devices: Endpoints, level: str = "scale_up") -> Topology:
    """The topology of one fabric between its devices.

    Raises:
        MoesimError: the devices do not fit its shape.
    """
    return GENERATORS[spec.kind](spec, devices, level)


def machine_topology(machine: Machine) -> Topology:
    """All devices of a machine: each node's fabric, and the fabric between nodes on the devices' NICs, or on the
    nodes' own switches where it is a unified bus.

    Raises:
        MoesimError: the devices do not fit a fabric's shape.
    """
    node = _node_topology(machine)
    if machine.nodes == 1 or machine.scale_out is None:
        return replace(node, name=machine.spec.name, vertex_name=tuple(f"node0/{name}" for name in node.vertex_name))
    inner, out = machine.scale_up(0), machine.scale_out
    attach = None
    if out.kind == "unified-bus" and inner is not None:
        outer, attach = super_node(out, inner, node, machine.nodes)
    else:
        outer = fabric_topology(out, _ports(machine), "scale_out")
    routing = outer.routing if outer.routing != "dimension-order" else "shortest"
    whole = nest([node] * machine.nodes, outer, attach=attach, name=machine.spec.name, routing=routing)
    if out.kind in LATTICES and whole.forwards is not None:
        devices = np.arange(whole.vertices) < whole.endpoints
        whole = replace(whole, forwards=whole.forwards | devices)
    return whole


def machine_routing(machine: Machine, topology: Topology) -> Routing:
    """The routing that the machine's topology advises, with the descriptor's ties: those of the fabric between nodes,
    or, in a single node, of its own.

    Raises:
        MoesimError: there is no policy of that name.
    """
    fabric = machine.scale_out if machine.nodes > 1 else machine.scale_up(0)
    options = RoutingOptions(ties=fabric.ties if fabric is not None else "split")
    return make_routing(topology.routing, options)


def _node_topology(machine: Machine) -> Topology:
    """One node; all are alike."""
    devices, fabric = machine.devices_of(0), machine.scale_up(0)
    names = tuple(device.name.partition("/")[2] for device in devices)
    if fabric is None:
        spec = FabricSpec.model_construct(name="node", kind="switch", link="", latency=0.0)
        return Cables(spec, endpoints(np.ones(len(devices)), names=names), "scale_up").topology()
    rates = np.array([machine.port_bandwidth(device, "scale_up") for device in devices])
    return fabric_topology(fabric, endpoints(rates, names=names))


def _ports(machine: Machine) -> Endpoints:
    """The devices as the fabric between nodes sees them."""
    rates = np.array([machine.port_bandwidth(device, "scale_out") for device in machine.devices])
    return endpoints(rates, len(machine.devices_of(0)), tuple(device.name for device in machine.devices))
