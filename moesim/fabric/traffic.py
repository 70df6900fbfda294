"""Bytes over every link of a machine, added up over a run, and what the links could have carried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from moesim.fabric.auto import ChosenTransfer
from moesim.fabric.calibrated import PacedPhase
from moesim.fabric.in_switch import TreePhase
from moesim.fabric.links import GroupLinks, TrafficPhase, UniformPhase
from moesim.fabric.topology import Topology
from moesim.fabric.transfer import PICOSECONDS, FloatArray, Group, IntArray, Phase, PortKind, PortPhase, Transfer

if TYPE_CHECKING:
    from moesim.hardware.machine import Machine

_KINDS: tuple[PortKind, ...] = ("scale_up", "scale_out")


@dataclass(frozen=True, eq=False)
class MachineLinks:
    """What carries bytes. name: of each link [M]; level: part of the machine it belongs to; bandwidth: [M] bytes/s that
    large transfers reach. topology: whose links they are, or None where they are ports: out of and into each device,
    towards its node, then towards other nodes, [2 kinds, 2 directions, devices] in this order."""

    name: tuple[str, ...]
    level: tuple[str, ...]
    bandwidth: FloatArray
    topology: Topology | None = None


@lru_cache(maxsize=4)
def topology_links(topology: Topology) -> MachineLinks:
    names = tuple(topology.link_name(link) for link in range(topology.links))
    return MachineLinks(names, topology.level, topology.bandwidth, topology)


def port_links(machine: Machine) -> MachineLinks:
    """The devices' own ports, where nothing else limits. A port that a device lacks has no bandwidth."""
    names: list[str] = []
    rates: list[float] = []
    for kind in _KINDS:
        there = [_port(machine, device.index, kind) for device in machine.devices]
        pairs = [(device.name, to) for device, (to, _) in zip(machine.devices, there, strict=True)]
        names += [f"{device} -> {to}" for device, to in pairs] + [f"{to} -> {device}" for device, to in pairs]
        rates += [rate for _, rate in there] * 2
    level = [kind for kind in _KINDS for _ in range(2 * len(machine.devices))]
    return MachineLinks(tuple(names), tuple(level), np.array(rates))


def _port(machine: Machine, device: int, kind: PortKind) -> tuple[str, float]:
    """What a device's port leads to, and its bytes/s; 0 where it has none."""
    member = machine.devices[device]
    fabric = machine.scale_up(member.node) if kind == "scale_up" else machine.scale_out
    joins = len(machine.devices_of(member.node)) > 1 if kind == "scale_up" else machine.nodes > 1
    if fabric is None or not joins:
        return "nothing", 0.0
    return fabric.name, machine.port_bandwidth(member, kind)


class Traffic:
    """Bytes over each link, `load` [M], of transfers that were made so many times."""

    def __init__(self, links: MachineLinks) -> None:
        self.links = links
        self.load: FloatArray = np.zeros(len(links.bandwidth))

    def add(self, transfer: Transfer, times: FloatArray, devices: Sequence[int]) -> None:
        """Args: times: [*shape of the transfer]. devices: of its lanes.

        A measured call counts no more bytes than its links can move in the time that it takes: its kernels may use the
        links better than the descriptor says, or let switches add up.
        """
        if isinstance(transfer, ChosenTransfer):
            for index, candidate in enumerate(transfer.candidates):
                self.add(candidate, times * (transfer.choice == index), devices)
        members = np.asarray(devices)
        for phase in transfer.phases:
            if isinstance(phase, PacedPhase):
                shortened = times * np.minimum(_speed_up(phase, transfer.ports), 1.0)
                for move in phase.moves:
                    self._add(move, shortened, transfer.shape, members)
            else:
                self._add(phase, times, transfer.shape, members)

    def _add(self, phase: Phase, times: FloatArray, shape: tuple[int, ...], devices: IntArray) -> None:
        if isinstance(phase, PortPhase):
            ports = self.load.reshape(len(_KINDS), 2, -1)
            for direction, moved in enumerate((phase.sent, phase.received)):
                total = _weighted(moved, times, shape)
                ports[_KINDS.index(phase.port), direction, devices] += phase.rounds * total
        elif isinstance(phase, UniformPhase):
            size = float((np.broadcast_to(phase.size, shape) * times).sum())
            self.load[phase.links] += phase.rounds * size * phase.pattern.load
        else:
            assert isinstance(phase, TrafficPhase | TreePhase)
            np.add.at(self.load, phase.links, phase.rounds * _weighted(phase.load, times, shape))

    @property
    def seconds(self) -> float:
        """That the busiest link needs for its bytes."""
        used = self.load > 0
        return float((self.load[used] / self.links.bandwidth[used]).max(initial=0.0))

    @property
    def level(self) -> str:
        """The part of the machine that the busiest link belongs to; empty where no byte travelled."""
        used = np.flatnonzero(self.load > 0)
        busiest = used[np.argmax(self.load[used] / self.links.bandwidth[used])] if len(used) else -1
        return self.links.level[busiest] if len(used) else ""


def _weighted(moved: FloatArray, times: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """[K] sum over all sizes of `moved` [..., K] times how often each was."""
    spread = np.broadcast_to(moved, (*shape, moved.shape[-1])).reshape(-1, moved.shape[-1])
    total: FloatArray = np.asarray(times, dtype=np.float64).reshape(-1) @ spread
    return total


def _speed_up(phase: PacedPhase, group: Group) -> FloatArray:
    """[...] the time that was measured over what the busiest link needs for the closed form's bytes."""
    needed = np.asarray(sum(move.rounds * _busiest(move, group) for move in phase.moves))
    endless = np.full(np.shape(phase.seconds), np.inf)
    ratio: FloatArray = np.divide(phase.seconds, needed, out=endless, where=needed > 0)
    return ratio


def _busiest(phase: Phase, group: Group) -> FloatArray:
    """[...] seconds that a round's bytes take on the busiest port or link."""
    took: FloatArray = (phase.round_picoseconds(group) - phase.pause(group)) / PICOSECONDS
    return took


def links_of(group: Group, machine: Machine) -> MachineLinks:
    """The links of the fabric that a group of a run communicates over."""
    return topology_links(group.topology) if isinstance(group, GroupLinks) else port_links(machine)
