"""The fabric of a machine: ports where switches join its devices, links everywhere else."""

from __future__ import annotations

from moesim.fabric.network import TopologyFabric
from moesim.fabric.switch import Fabric, SwitchFabric
from moesim.fabric.topologies import machine_routing, machine_topology
from moesim.hardware.machine import Machine

#: Kinds in which nothing but the devices' own ports limits.
_PORTS = frozenset({"switch", "host-bridge"})


def only_ports(machine: Machine) -> bool:
    """Whether ports alone decide how long a transfer takes."""
    fabrics = (machine.scale_up(0), machine.scale_out if machine.nodes > 1 else None)
    return all(fabric is None or fabric.kind in _PORTS for fabric in fabrics)


def machine_fabric(machine: Machine) -> Fabric:
    """How the devices of a machine talk to each other.

    Raises:
        MoesimError: the devices do not fit the shape of their fabric.
    """
    return SwitchFabric(machine) if only_ports(machine) else link_fabric(machine)


def link_fabric(machine: Machine) -> TopologyFabric:
    """The same, on links throughout: where ports alone decide, with the algorithms and times of these.

    Raises:
        MoesimError: the devices do not fit the shape of their fabric.
    """
    topology = machine_topology(machine)
    algorithm = "rings" if only_ports(machine) else "auto"
    return TopologyFabric(topology, machine_routing(machine, topology), algorithm=algorithm)
