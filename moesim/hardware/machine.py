"""The machine: devices in rank order and the graph of everything they are joined by. Pure data, no time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

from moesim.hardware.device import Device, Engine, MemoryTier, make_device
from moesim.hardware.wiring import Link, Vertex, Wiring
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import Library
from moesim.spec.hardware import DeviceSpec, FabricSpec, SystemSpec

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["Device", "Engine", "Link", "Machine", "MemoryTier", "Scope", "Vertex", "assemble"]

Scope: TypeAlias = Literal["scale_up", "scale_out"]


@dataclass(frozen=True, eq=False)
class Machine:
    """A system with every descriptor resolved.

    devices: accelerators in rank order, node by node, within a node in the order of the descriptor. hosts, storage:
    what else computes or stores, node by node. vertices, links: the graph, as data; `graph` is the same for networkx.
    """

    spec: SystemSpec
    devices: tuple[Device, ...]
    hosts: tuple[Device, ...]
    storage: tuple[Device, ...]
    vertices: Mapping[str, Vertex]
    links: tuple[Link, ...]
    _scale_up: FabricSpec | None
    scale_out: FabricSpec | None

    @property
    def nodes(self) -> int:
        return self.spec.nodes

    def scale_up(self, node: int) -> FabricSpec | None:
        """What joins the devices of `node`; None where it holds a single device without a fabric."""
        if not 0 <= node < self.spec.nodes:
            raise MoesimError(f"there is no node {node}", fix=f"the nodes count from 0 to {self.spec.nodes - 1}")
        return self._scale_up

    def devices_of(self, node: int) -> tuple[Device, ...]:
        """The accelerators of one node, in rank order."""
        per_node = len(self.devices) // self.spec.nodes
        return self.devices[node * per_node : (node + 1) * per_node]

    def port_bandwidth(self, device: Device, scope: Scope) -> float:
        """Bytes per second and direction that large transfers of `device` reach through its port.

        The device's port, or the NIC it shares with nobody, capped by the fabric, times the fabric's efficiency.

        Raises:
            MoesimError: the machine has no fabric of that scope, or the device no port on it.
        """
        fabric = self._scale_up if scope == "scale_up" else self.scale_out
        if fabric is None:
            raise MoesimError(f"{device.name} has no {scope} port", fix=f"give the machine a {scope} fabric")
        rate = port_rate(self.spec, device.spec, fabric, scope)
        if rate is None:
            raise _no_port(device.name, device.spec, fabric, scope)
        return rate * fabric.efficiency

    @property
    def price(self) -> float:
        """Dollars per second, of the system or of its parts; NaN where a device's price is unknown."""
        if self.spec.price is not None:
            return self.spec.price * self.spec.nodes
        return self._sum(lambda device: device.spec.price)

    @property
    def power(self) -> float:
        """Watts that devices, hosts and storage may draw at most, and the chassis; NaN where a device's TDP is
        unknown."""
        return self._sum(lambda device: device.tdp) + self.spec.chassis_power * self.spec.nodes

    @property
    def area(self) -> float:
        """Square metres of silicon; NaN where a device's is unknown."""
        return self._sum(_area)

    def _sum(self, amount: Callable[[Device], float | None]) -> float:
        """Over all parts. A device whose amount is unknown makes it NaN; a host or drive counts to the chassis then."""
        amounts = [amount(device) for device in self.devices]
        others = sum(amount(device) or 0.0 for device in (*self.hosts, *self.storage))
        return float("nan") if None in amounts else float(sum(each or 0.0 for each in amounts)) + others

    @property
    def standing_power(self) -> float:
        """Watts drawn beside the devices: chassis, and hosts and storage without work."""
        others = sum(device.idle_power for device in (*self.hosts, *self.storage))
        return self.spec.chassis_power * self.spec.nodes + others

    def reachable(self, a: Device | str, b: Device | str) -> bool:
        """Whether a path of links leads from `a` to `b` (devices, or names of vertices)."""
        import networkx as nx

        first, second = (end.name if isinstance(end, Device) else end for end in (a, b))
        return bool(nx.has_path(self.graph, first, second))

    @cached_property
    def graph(self) -> nx.DiGraph[str]:
        """All vertices and links.

        Vertices carry `kind`, `node` (None beyond nodes) and `subject`: the Device, MemoryTier or FabricSpec they stand
        for; devices also `engines` and `tiers`. Edges carry `bandwidth` (bytes per second, what large transfers reach),
        `latency` (seconds), `energy` (joules per byte) and `name`.
        """
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph(name=self.spec.name)
        for vertex in self.vertices.values():
            extra = {}
            if isinstance(vertex.subject, Device):
                extra = {"engines": vertex.subject.engines, "tiers": vertex.subject.tiers}
            graph.add_node(vertex.name, kind=vertex.kind, node=vertex.node, subject=vertex.subject, **extra)
        for link in self.links:
            graph.add_edge(
                link.u, link.v, name=link.name, bandwidth=link.bandwidth, latency=link.latency, energy=link.energy
            )  # fmt: skip
        return graph


def assemble(system: SystemSpec, library: Library) -> Machine:
    """The machine that `system` describes, of the descriptors in `library`.

    Raises:
        MoesimError: a descriptor is missing, or a device is reached by no link: several devices and no fabric, a device
            without the port that the fabric plugs into, several nodes without a way between them.
    """
    up = _fabric(system.fabric, library)
    out = _fabric(system.scale_out, library)
    specs = {name: _spec(name, library) for group in (system.devices, system.host, system.storage) for name in group}
    _check_reach(system, specs, up, out)
    devices = tuple(_place(system.devices, specs, system.nodes))
    hosts = tuple(_place(system.host, specs, system.nodes))
    storage = tuple(_place(system.storage, specs, system.nodes))
    wiring = Wiring()
    for device in devices:
        wiring.add_device(device, "device")
    for host in hosts:
        wiring.add_device(host, "host")
    for drive in storage:
        wiring.add_device(drive, "storage")
    for node in range(system.nodes):
        local = [[each for each in group if each.node == node] for group in (devices, hosts, storage)]
        wiring.wire_node(node, *local, fabric=up)
    for device in devices:
        rate = port_rate(system, device.spec, out, "scale_out") if out is not None else None
        if out is not None and rate is not None:
            wiring.wire_out(device, out, rate)
    _check_hosts(wiring, hosts, storage)
    return Machine(system, devices, hosts, storage, wiring.vertices, tuple(wiring.links), up, out)


def port_rate(system: SystemSpec, device: DeviceSpec, fabric: FabricSpec, scope: Scope) -> float | None:
    """Wire rate of the device's port on `fabric`, bytes per second and direction; None where it has no such port.

    On the scale-out fabric a device owns a NIC where the system names one, as fast as the bus that leads to it allows;
    else its own port of the fabric's kind.
    """
    rate = device.links.get(fabric.link)
    nic = system.nic_of(device.name) if scope == "scale_out" else None
    if nic is not None:
        rate = min(nic, device.links.get("pcie", nic))
    return None if rate is None else fabric.port_rate(rate, sum(system.devices.values()))


def _area(device: Device) -> float | None:
    """Square metres, from the datasheet's note in square millimetres."""
    found = re.match(r"([\d.]+) *mm2", device.spec.notes.get("area", ""))
    return float(found[1]) * 1e-6 if found else None


def _place(counts: Mapping[str, int], specs: Mapping[str, DeviceSpec], nodes: int) -> Iterator[Device]:
    """Devices node by node; within a node numbered per descriptor, in the order of `counts`."""
    index = 0
    for node in range(nodes):
        for name, count in counts.items():
            for number in range(count):
                place = f"node{node}/{name}{_separator(name)}{number}"
                yield make_device(specs[name], index=index, name=place, node=node)
                index += 1


def _separator(name: str) -> str:
    """Keeps `rtx4090` number 0 apart from a device called `rtx40900`."""
    return "-" if name[-1].isdigit() else ""


def _spec(name: str, library: Library) -> DeviceSpec:
    if name not in library.devices:
        raise MoesimError(f"there is no device {name!r} in the library", key="machine", fix="add its descriptor")
    return library.devices[name]


def _fabric(name: str | None, library: Library) -> FabricSpec | None:
    if name is None:
        return None
    if name not in library.fabrics:
        raise MoesimError(f"there is no fabric {name!r} in the library", key="machine", fix="add its descriptor")
    return library.fabrics[name]


def _check_reach(
    system: SystemSpec, specs: Mapping[str, DeviceSpec], up: FabricSpec | None, out: FabricSpec | None
) -> None:
    per_node = sum(system.devices.values())
    if up is None and per_node > 1:
        lonely, common = specs[list(system.devices)[-1]], _common_ports(system, specs)
        fix = f"give the devices a common port; {lonely.name} has {', '.join(lonely.links) or 'none'}"
        raise MoesimError(
            f"no link reaches {lonely.name}: a node holds {per_node} devices and no fabric joins them",
            key="machine.devices",
            fix=f"add a fabric on a port that all have ({', '.join(common)})" if common else fix,
        )
    for name in system.devices:
        if up is not None and port_rate(system, specs[name], up, "scale_up") is None:
            raise _no_port(name, specs[name], up, "scale_up", _common_ports(system, specs))
    if system.nodes == 1:
        return
    if out is None:
        raise MoesimError(
            f"no link joins the {system.nodes} nodes, so that node1/{next(iter(system.devices))} is out of reach",
            key="machine.nodes",
            fix="add scale_out (such as ib-ndr400) and nic (such as 50 GB/s)",
        )
    for name in system.devices:
        if port_rate(system, specs[name], out, "scale_out") is None:
            raise _no_port(name, specs[name], out, "scale_out")


def _check_hosts(wiring: Wiring, hosts: tuple[Device, ...], storage: tuple[Device, ...]) -> None:
    """Raises MoesimError where nothing is joined to a host or a drive."""
    joined = {link.u for link in wiring.links if wiring.vertices[link.v].kind != "memory"}
    for role, parts in (("host", hosts), ("storage", storage)):
        lonely = next((part for part in parts if part.name not in joined), None)
        if lonely is not None:
            ports, link = ", ".join(lonely.spec.links) or "none", next(iter(lonely.spec.links), None)
            fix = f"choose another {role}, or leave it out"
            raise MoesimError(
                f"no link reaches {lonely.name}: nothing that it could be joined to has a port of its kind ({ports})",
                key=f"machine.{role}",
                fix=fix if link is None else f"{fix}, or give a device a {link} link",
            )


def _common_ports(system: SystemSpec, specs: Mapping[str, DeviceSpec]) -> list[str]:
    """Ports that every device of a node has, in the first one's order."""
    first, *others = (specs[name].links for name in system.devices)
    return [port for port in first if all(port in links for links in others)]


def _no_port(
    name: str, spec: DeviceSpec, fabric: FabricSpec, scope: Scope, common: list[str] | None = None
) -> MoesimError:
    has = f"only {', '.join(spec.links)}" if spec.links else "no ports"
    what = f"no link reaches {name}: the {scope} fabric {fabric.name} plugs into port {fabric.link!r}, it has {has}"
    fix = f"give the device a link {fabric.link!r}, or leave it out"
    if scope == "scale_out":
        fix = f"add nic (such as 50 GB/s), or a link {fabric.link!r} to the device"
    elif common:
        fix = f"choose a fabric on a port that all devices have ({', '.join(common)})"
    return MoesimError(what, key="machine.scale_out" if scope == "scale_out" else "machine.fabric", fix=fix)
