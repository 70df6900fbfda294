"""What joins a prefill pool to a decode pool: the links of the machine that both are on, or the network between two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moesim.fabric.flow import Flows, coflow
from moesim.fabric.machines import link_fabric, only_ports
from moesim.fabric.rounds import one_coflow, round_flows
from moesim.fabric.topology import Topology, from_cables
from moesim.hardware.machine import Machine, Scope, port_rate
from moesim.serving.pools.lanes import Lane
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.hardware import FabricSpec
from moesim.step.graph import PICOSECONDS


@dataclass(frozen=True)
class Path:
    """The lanes between two ranks: `flows` of one token, `seconds` per token that their busiest link takes, `bytes` per
    token of all lanes, `sent` and `joules` of each sending device by its index."""

    flows: Flows
    seconds: float
    bytes: float
    sent: dict[int, float]
    joules: dict[int, float]

    def of(self, tokens: float, delay: float) -> Flows:
        """The flows of so many tokens, which start after a delay in seconds."""
        columns = {name: getattr(self.flows, name) for name in ("pointer", "link", "fraction", "latency", "coflow")}
        start = np.array([round(delay * PICOSECONDS)])
        return Flows(**columns, size=self.flows.size * tokens, start=start, after=((),))


class PoolNetwork:
    """Links between the devices of two pools.

    Args:
        route: from a device to another as the flows of a byte, and joules per byte.
        offset: what is added to the index of a decode device.
    """

    def __init__(self, topology: Topology, route: Callable[[int, int], tuple[Flows, float]], offset: int) -> None:
        self.topology, self._route, self._offset = topology, route, offset

    @property
    def overhead(self) -> float:
        """Seconds of a call."""
        return self.topology.overhead

    def path(self, lanes: Sequence[Lane]) -> Path:
        parts: list[Flows] = []
        sent: dict[int, float] = {}
        joules: dict[int, float] = {}
        for lane in lanes:
            target = lane.target + self._offset
            if lane.source == target:
                continue  # the entries are there already
            flows, energy = self._route(lane.source, target)
            parts.append(replace(flows, size=flows.size * lane.bytes_per_token))
            sent[lane.source] = sent.get(lane.source, 0.0) + lane.bytes_per_token
            joules[lane.source] = joules.get(lane.source, 0.0) + lane.bytes_per_token * energy
        flows = one_coflow(parts)
        busiest = float((flows.loads(self.topology.links) / self.topology.bandwidth).max(initial=0.0))
        return Path(flows, busiest, sum(sent.values()), sent, joules)


def pool_network(spec: ExperimentSpec, prefill: Machine, decode: Machine) -> PoolNetwork:
    """Raises MoesimError where no path leads from one pool to the other."""
    assert spec.pools is not None
    if prefill is decode:
        return _ports_of(prefill) if only_ports(prefill) else _links_of(prefill)
    fabric = _joining(spec, prefill, decode)
    places = (("prefill", prefill), ("decode", decode))
    rates = [_rate(machine, index, fabric) for _, machine in places for index in range(len(machine.devices))]
    names = [f"{pool}/{device.name}" for pool, machine in places for device in machine.devices]
    switch = len(rates)
    topology = from_cables(
        fabric.name, switch, [*names, fabric.name], [(device, switch) for device in range(switch)],
        bandwidth=rates, level="transfer", overhead=fabric.overhead,
    )  # fmt: skip

    def route(source: int, target: int) -> tuple[Flows, float]:
        return coflow([[2 * source, 2 * target + 1]], [1.0], fabric.latency), fabric.joules_per_byte

    return PoolNetwork(topology, route, len(prefill.devices))


def _links_of(machine: Machine) -> PoolNetwork:
    """A machine on whose links transfers find their way."""
    fabric = link_fabric(machine)

    def route(source: int, target: int) -> tuple[Flows, float]:
        transfer = fabric.send(np.array(1.0), source, target)
        group = fabric.ports((source, target))
        flows = one_coflow([round_flows(phase, group) for phase in transfer.at(()).phases])
        return flows, float(transfer.joules.sum())

    return PoolNetwork(fabric.topology, route, 0)


def _ports_of(machine: Machine) -> PoolNetwork:
    """A machine of which ports alone limit transfers: those towards a device's node, or towards the other nodes."""
    devices, count = machine.devices, len(machine.devices)
    fabrics: dict[Scope, FabricSpec | None]
    fabrics = {"scale_up": machine.scale_up(0), "scale_out": machine.scale_out if machine.nodes > 1 else None}
    names = [each.name for each in devices] + [f"node{node}" for node in range(machine.nodes)] + ["network"]
    cables: list[tuple[int, int]] = []
    rates: list[float] = []
    for scope, fabric in fabrics.items():
        for device in devices:
            cables.append((device.index, count + (device.node if scope == "scale_up" else machine.nodes)))
            rates.append(machine.port_bandwidth(device, scope) if fabric is not None else 1.0)
    topology = from_cables(machine.spec.name, count, names, cables, bandwidth=rates, level="transfer")

    def route(source: int, target: int) -> tuple[Flows, float]:
        near = devices[source].node == devices[target].node
        fabric, first = fabrics["scale_up" if near else "scale_out"], 0 if near else count
        assert fabric is not None
        links = [2 * (first + source), 2 * (first + target) + 1]
        return coflow([links], [1.0], fabric.latency + fabric.overhead), fabric.joules_per_byte

    return PoolNetwork(topology, route, 0)


def _joining(spec: ExperimentSpec, prefill: Machine, decode: Machine) -> FabricSpec:
    """The network that `transfer` names, or that both machines have between their nodes."""
    assert spec.pools is not None
    name = spec.pools.transfer.fabric
    if name is not None:
        return spec.library.fabrics[name]
    first, second = prefill.spec.scale_out, decode.spec.scale_out
    if first is not None and first == second:
        return spec.library.fabrics[first]
    has = " and ".join(f"{each.name} on {each.scale_out or 'none'}" for each in (prefill.spec, decode.spec))
    raise MoesimError(
        f"no path leads from the prefill pool to the decode pool: they share no network ({has})",
        key="pools.transfer",
        fix="name one that joins their nodes, like transfer: {fabric: ib-ndr400}",
    )


def _rate(machine: Machine, index: int, fabric: FabricSpec) -> float:
    """Bytes/s of a device's port on the network."""
    device = machine.devices[index].spec
    rate = port_rate(machine.spec, device, fabric, "scale_out")
    if rate is None:
        raise MoesimError(
            f"no path leads from the prefill pool to the decode pool: {device.name} has no port on {fabric.name}",
            key="pools.transfer",
            fix=f"give its machine a nic, like nic: 50 GB/s, or the device a link {fabric.link!r}",
        )
    return rate * fabric.efficiency
