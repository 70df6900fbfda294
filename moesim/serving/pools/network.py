"""What joins a prefill pool to a decode pool: the links of the machine that both are on, or the network between two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from moesim.fabric.flow import Flows
from moesim.fabric.machines import link_fabric
from moesim.fabric.network import TopologyFabric
from moesim.fabric.rounds import one_coflow, round_flows
from moesim.fabric.topology import star
from moesim.hardware.machine import Machine, port_rate
from moesim.serving.pools.lanes import Lane
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.hardware import FabricSpec
from moesim.step.graph import PICOSECONDS, FloatArray


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
        offset: what is added to the index of a decode device.
    """

    def __init__(self, fabric: TopologyFabric, offset: int) -> None:
        self.fabric, self._offset = fabric, offset

    @property
    def overhead(self) -> float:
        """Seconds of a call."""
        return self.fabric.topology.overhead

    @property
    def bandwidth(self) -> FloatArray:
        return self.fabric.topology.bandwidth

    def path(self, lanes: Sequence[Lane]) -> Path:
        topology = self.fabric.topology
        parts: list[Flows] = []
        sent: dict[int, float] = {}
        joules: dict[int, float] = {}
        for lane in lanes:
            target = lane.target + self._offset
            if lane.source == target:
                continue  # the entries are there already
            group = self.fabric.ports((lane.source, target))
            transfer = self.fabric.send(np.array(lane.bytes_per_token), lane.source, target)
            parts += [round_flows(phase, group) for phase in transfer.at(()).phases]
            sent[lane.source] = sent.get(lane.source, 0.0) + lane.bytes_per_token
            joules[lane.source] = joules.get(lane.source, 0.0) + float(transfer.joules.sum())
        flows = one_coflow(parts)
        busiest = float((flows.loads(topology.links) / topology.bandwidth).max(initial=0.0))
        return Path(flows, busiest, sum(sent.values()), sent, joules)


def pool_network(spec: ExperimentSpec, prefill: Machine, decode: Machine) -> PoolNetwork:
    """Raises MoesimError where no path leads from one pool to the other."""
    assert spec.pools is not None
    if prefill is decode:
        return PoolNetwork(link_fabric(prefill), 0)
    fabric = _joining(spec, prefill, decode)
    rates = [_rate(machine, index, fabric) for machine in (prefill, decode) for index in range(len(machine.devices))]
    topology = star(
        len(rates), rates, fabric.latency, energy=fabric.joules_per_byte, name=fabric.name, level="transfer",
        overhead=fabric.overhead,
    )  # fmt: skip
    places = (("prefill", prefill), ("decode", decode))
    names = [f"{pool}/{device.name}" for pool, machine in places for device in machine.devices]
    topology = replace(topology, vertex_name=(*names, fabric.name))
    return PoolNetwork(TopologyFabric(topology), len(prefill.devices))


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
