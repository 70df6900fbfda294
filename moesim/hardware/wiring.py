"""How the parts of a node are joined: which vertices and links a machine's graph has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from moesim.hardware.device import Device, MemoryTier
from moesim.hardware.lattice import lattice
from moesim.spec.errors import MoesimError
from moesim.spec.fabric import LATTICES
from moesim.spec.hardware import DeviceSpec, FabricSpec

VertexKind: TypeAlias = Literal["device", "host", "storage", "memory", "switch", "host-bridge", "nic"]

#: Links between hosts and what is plugged into them. Large copies reach 0.80 to 0.85 of PCI Express 4.0 and 5.0 x16
#: (nvbandwidth reports: A100 25.1, RTX 4090 25.6 to 26.8, H100 52.8 GB/s) and 0.77 of NVLink-C2C (GH200, 346 GB/s).
HOST_EFFICIENCY = 0.82
#: One crossing of a PCI Express link and root complex, 1 to 2 us by common measurement.
HOST_LATENCY = 1.5e-6
#: 5 to 6 pJ/bit, commonly quoted for PCI Express 5.0 SerDes.
HOST_ENERGY = 5.5e-12 * 8


Subject: TypeAlias = Device | MemoryTier | FabricSpec | None


@dataclass(frozen=True)
class Vertex:
    """A place in the graph. subject: what stands there; None for a NIC."""

    name: str
    kind: VertexKind
    node: int | None
    subject: Subject


@dataclass(frozen=True)
class Link:
    """One direction of a connection: bytes per second that large transfers reach, seconds, joules per byte."""

    u: str
    v: str
    name: str
    bandwidth: float
    latency: float
    energy: float


class Wiring:
    """Vertices and links under construction."""

    def __init__(self) -> None:
        self.vertices: dict[str, Vertex] = {}
        self.links: list[Link] = []

    def add_device(self, device: Device, kind: Literal["device", "host", "storage"]) -> None:
        """A device and its memory tiers; reads and writes are the two directions of a tier's link."""
        self._vertex(device.name, kind, device.node, device)
        for tier in device.tiers:
            name = f"{device.name}/{tier.tier}"
            self._vertex(name, "memory", device.node, tier)
            self.links.append(Link(name, device.name, tier.tier, tier.bandwidth, tier.latency, tier.energy))
            self.links.append(Link(device.name, name, tier.tier, tier.write_bandwidth, tier.latency, tier.energy))

    def wire_node(
        self,
        node: int,
        devices: Sequence[Device],
        hosts: Sequence[Device],
        storage: Sequence[Device],
        *,
        fabric: FabricSpec | None,
    ) -> None:
        """Devices to their fabric, devices and storage to their host, hosts to each other."""
        bridge = None
        if fabric is not None and fabric.kind in LATTICES:
            self._wire_lattice(node, devices, fabric)
        elif fabric is not None:
            hub = f"node{node}/{fabric.name}"
            kind = vertex_kind(fabric)
            self._vertex(hub, kind, node, fabric)
            for device in devices:
                rate = fabric.port_rate(device.spec.links[fabric.link], len(devices))
                self._plug(device.name, hub, fabric, rate, _fabric_energy(device, fabric))
            bridge = hub if kind == "host-bridge" else None
        for host in hosts if bridge else ():
            self._both(host.name, bridge or "", "root complex", host.memory.bandwidth, HOST_LATENCY, HOST_ENERGY)
        if hosts and not bridge:
            self._to_hosts(devices, hosts)
        for one, other in pairwise(hosts):
            self._join(one, other, "socket")
        if storage and hosts:
            self._to_hosts(storage, hosts)
        elif storage:
            self._storage_to(bridge, storage)

    def _wire_lattice(self, node: int, devices: Sequence[Device], fabric: FabricSpec) -> None:
        """Neighbours to each other; sites of a wafer that hold no device pass traffic on, as switches do."""
        sites = lattice(fabric, len(devices))
        rates = [fabric.port_rate(device.spec.links[fabric.link], len(devices)) for device in devices]
        names = [device.name for device in devices]
        for site in range(len(devices), sites.sites):
            names.append(f"node{node}/{fabric.name}/site{site}")
            rates.append(min(rates))
            self._vertex(names[-1], "switch", node, fabric)
        links = fabric.links_of_port(len(devices))
        for one, other in sites.cables.tolist():
            rate = min(rates[one], rates[other]) / links * fabric.efficiency
            energy = _fabric_energy(devices[min(one, len(devices) - 1)], fabric)
            self._both(names[one], names[other], fabric.link, rate, fabric.latency, energy)

    def wire_out(self, device: Device, fabric: FabricSpec, rate: float) -> None:
        """The device's NIC (or its own port) and the way from there to the scale-out fabric."""
        self._vertex(fabric.name, "switch", None, fabric)
        nic = f"{device.name}/nic"
        self._vertex(nic, "nic", device.node, None)
        self._both(device.name, nic, fabric.link, rate * fabric.efficiency, 0.0, 0.0)
        self._plug(nic, fabric.name, fabric, rate, _fabric_energy(device, fabric))

    def _to_hosts(self, plugged: Sequence[Device], hosts: Sequence[Device]) -> None:
        """Neighbours share a host: 8 devices and 2 hosts make 4 and 4."""
        for position, device in enumerate(plugged):
            host = hosts[position * len(hosts) // len(plugged)]
            port = _common_port(device.spec, host.spec)
            if port is not None:
                self._join(device, host, port)

    def _storage_to(self, bridge: str | None, storage: Sequence[Device]) -> None:
        if bridge is None:
            raise MoesimError(
                f"no link reaches {storage[0].name}: the node has neither a host nor a host-bridge fabric",
                key="machine.storage",
                fix="add a host (such as xeon-8480-plus: 2)",
            )
        for drive in storage:
            rate = drive.spec.links.get("pcie", drive.memory.bandwidth) * HOST_EFFICIENCY
            self._both(drive.name, bridge, "pcie", rate, HOST_LATENCY, HOST_ENERGY)

    def _join(self, one: Device, other: Device, port: str) -> None:
        """A point-to-point link on a port that both have; none where one lacks it."""
        if port in one.spec.links and port in other.spec.links:
            rate = min(one.spec.links[port], other.spec.links[port]) * HOST_EFFICIENCY
            self._both(one.name, other.name, port, rate, HOST_LATENCY, HOST_ENERGY)

    def _plug(self, name: str, hub: str, fabric: FabricSpec, rate: float, energy: float) -> None:
        """Half of the fabric's latency and energy lies on the way in, half on the way out."""
        self._both(name, hub, fabric.link, rate * fabric.efficiency, fabric.latency / 2, energy / 2)

    def _both(self, u: str, v: str, name: str, bandwidth: float, latency: float, energy: float) -> None:
        self.links.append(Link(u, v, name, bandwidth, latency, energy))
        self.links.append(Link(v, u, name, bandwidth, latency, energy))

    def _vertex(self, name: str, kind: VertexKind, node: int | None, subject: Subject) -> None:
        self.vertices.setdefault(name, Vertex(name, kind, node, subject))


def vertex_kind(fabric: FabricSpec) -> Literal["switch", "host-bridge"]:
    """What a fabric with switches is in the graph, where one vertex stands for all of them."""
    return "host-bridge" if fabric.kind in ("host-bridge", "pcie-tree") else "switch"


def _common_port(one: DeviceSpec, other: DeviceSpec) -> str | None:
    """The port on which two parts exchange most; None where they share none."""
    shared = [port for port in one.links if port in other.links]
    return max(shared, key=lambda port: min(one.links[port], other.links[port]), default=None)


def _fabric_energy(device: Device, fabric: FabricSpec) -> float:
    own = fabric.energy is None and (fabric.chiplet is None or fabric.chiplet.energy is None)
    return device.family.link_energy if own else fabric.joules_per_byte
