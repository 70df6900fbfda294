"""What every generator builds with: the ports of the devices to be joined, and cables under construction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.fabric.topology import FloatArray, IntArray, Topology, from_cables
from moesim.spec.fabric import LATTICES, FabricSpec


@dataclass(frozen=True, eq=False)
class Endpoints:
    """The devices that a fabric joins, in rank order.

    rate: [n] bytes/s per direction that large transfers reach through each device's port. node, place: [n] node of each
    device, and its index there.
    """

    names: tuple[str, ...]
    rate: FloatArray
    node: IntArray
    place: IntArray

    def __len__(self) -> int:
        return len(self.names)


def endpoints(rate: FloatArray, per_node: int | None = None, names: tuple[str, ...] | None = None) -> Endpoints:
    """Devices in nodes of `per_node` (all in one where not given), called gpu0, gpu1, ... without `names`."""
    count = len(rate)
    at = np.arange(count)
    width = per_node or max(count, 1)
    return Endpoints(names or tuple(f"gpu{i}" for i in at), rate, at // width, at % width)


class Cables:
    """Vertices and cables under construction; the devices are the first vertices.

    Half of the fabric's energy per byte is spent on each cable of a switch, all of it on one between devices.
    """

    def __init__(self, spec: FabricSpec, devices: Endpoints, level: str) -> None:
        self.spec, self.devices, self.level = spec, devices, level
        self.names = list(devices.names)
        self.ends: list[tuple[int, int]] = []
        self.bandwidth: list[float] = []
        self.latency: list[float] = []

    def switch(self, name: str = "") -> int:
        """A new vertex, called after the fabric."""
        self.names.append(f"{self.spec.name}/{name}" if name else self.spec.name)
        return len(self.names) - 1

    def join(self, one: int, other: int, bandwidth: float, latency: float) -> None:
        self.ends.append((one, other))
        self.bandwidth.append(bandwidth)
        self.latency.append(latency)

    def plug(self, device: int, switch: int, parts: int = 1) -> None:
        """A device's port, or one of the parts that it is divided into, to a switch."""
        self.join(device, switch, float(self.devices.rate[device]) / parts, self.spec.latency / 2)

    def wire_rate(self, bandwidth: float | None) -> float:
        """Bytes/s that large transfers reach over a link between switches; that of the fastest port without one."""
        return float(self.devices.rate.max()) if bandwidth is None else bandwidth * self.spec.efficiency

    def topology(
        self, *, routing: str = "shortest", coordinates: IntArray | None = None, forwarding: tuple[int, ...] = ()
    ) -> Topology:
        """`forwarding`: devices that pass on traffic of others although the fabric has switches; they multicast and add
        up as these do."""
        spec, count = self.spec, len(self.devices)
        relays = np.arange(len(self.names)) >= count
        lattice = spec.kind in LATTICES
        forwards = relays.copy()
        forwards[list(forwarding)] = True
        reduces = spec.kind == "nop-tree" if spec.reduces is None else spec.reduces
        return from_cables(
            spec.name,
            count,
            self.names,
            np.array(self.ends, dtype=np.int64).reshape(-1, 2),
            bandwidth=np.array(self.bandwidth),
            latency=np.array(self.latency),
            energy=spec.joules_per_byte if lattice else spec.joules_per_byte / 2,
            level=self.level,
            coordinates=coordinates,
            node=self.devices.node,
            reduces=forwards if reduces else None,
            forwards=None if lattice else forwards,
            overhead=spec.overhead,
            routing=spec.routing or routing,
        )
