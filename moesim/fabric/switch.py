"""The seam `Fabric`, and the fabric of switches: who may talk to whom over which port, resolved from a machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike

from moesim.fabric import collectives
from moesim.fabric.links import check_distinct
from moesim.fabric.transfer import GroupPorts, Transfer

if TYPE_CHECKING:
    from moesim.fabric.links import GroupLinks
    from moesim.hardware.machine import Machine


class Fabric(Protocol):
    """Bytes between devices -> transfers. Sizes may be arrays; `devices` are indices into the machine's devices."""

    def all_reduce(self, size: ArrayLike, devices: Sequence[int]) -> Transfer: ...
    def all_gather(self, chunks: ArrayLike, devices: Sequence[int]) -> Transfer: ...
    def reduce_scatter(self, chunks: ArrayLike, devices: Sequence[int]) -> Transfer: ...
    def all_to_all(self, traffic: ArrayLike, devices: Sequence[int]) -> Transfer: ...
    def send(self, size: ArrayLike, source: int, destination: int) -> Transfer: ...
    def ports(self, devices: Sequence[int]) -> GroupPorts | GroupLinks: ...
    def pace(self, transfer: Transfer) -> Transfer:
        """A transfer that was made for a group of this fabric, as long as its library takes."""
        ...


class SwitchFabric:
    """A non-blocking switch in each node, and scale-out ports between nodes: only the devices' own ports limit."""

    def __init__(self, machine: Machine, algorithm: str = "ring") -> None:
        self.machine, self.algorithm = machine, algorithm
        self._ports: dict[tuple[int, ...], GroupPorts] = {}

    def ports(self, devices: Sequence[int]) -> GroupPorts:
        """The ports of a group, resolved once per group. Raises MoesimError where no link joins its devices."""
        key = tuple(int(device) for device in devices)
        if key not in self._ports:
            check_distinct(key, [device.name for device in self.machine.devices])
            self._ports[key] = group_ports(self.machine, key)
        return self._ports[key]

    def all_reduce(self, size: ArrayLike, devices: Sequence[int]) -> Transfer:
        return collectives.all_reduce(size, self.ports(devices), self.algorithm)

    def all_gather(self, chunks: ArrayLike, devices: Sequence[int]) -> Transfer:
        return collectives.all_gather(chunks, self.ports(devices), self.algorithm)

    def reduce_scatter(self, chunks: ArrayLike, devices: Sequence[int]) -> Transfer:
        return collectives.reduce_scatter(chunks, self.ports(devices), self.algorithm)

    def all_to_all(self, traffic: ArrayLike, devices: Sequence[int]) -> Transfer:
        return collectives.all_to_all(traffic, self.ports(devices))

    def send(self, size: ArrayLike, source: int, destination: int) -> Transfer:
        return collectives.send(size, self.ports((source, destination)))

    def pace(self, transfer: Transfer) -> Transfer:
        return transfer


def group_ports(machine: Machine, devices: Sequence[int]) -> GroupPorts:
    """The ports through which the devices of a group talk to each other.

    Raises:
        MoesimError: no link leads from one of the devices to the others.
    """
    members = [machine.devices[device] for device in devices]
    default = max((member.family.link_energy for member in members), default=0.0)  # of a fabric that gives none
    node = np.array([member.node for member in members], dtype=np.int64)
    company = (node[:, None] == node[None, :]).sum(axis=1) > 1
    several = bool((node != node[0]).any())
    up = [machine.port_bandwidth(d, "scale_up") if c else np.inf for d, c in zip(members, company, strict=True)]
    out = [machine.port_bandwidth(d, "scale_out") if several else 0.0 for d in members]
    inner = [spec for n in np.unique(node[company]) if (spec := machine.scale_up(int(n))) is not None]
    outer = [machine.scale_out] if several and machine.scale_out is not None else []
    return GroupPorts(
        node=node,
        up_bandwidth=np.array(up),
        out_bandwidth=np.array(out),
        up_latency=max((spec.latency for spec in inner), default=0.0),
        out_latency=max((spec.latency for spec in outer), default=0.0),
        overhead=max((spec.overhead for spec in inner + outer), default=0.0),
        up_energy=max((default if spec.energy is None else spec.energy for spec in inner), default=0.0),
        out_energy=max((default if spec.energy is None else spec.energy for spec in outer), default=0.0),
        reduces=bool(inner) and all(spec.reduces for spec in inner),
        names=tuple(member.name for member in members),
    )
