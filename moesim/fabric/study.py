"""One collective over one group of devices, size by size: how long, how fast, what limits it, and how far from the
least time that any algorithm needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moesim.fabric.calibrated import calibrated
from moesim.fabric.carried import Fidelity, carry
from moesim.fabric.library import machine_protocol
from moesim.fabric.limits import Limit
from moesim.fabric.network import TopologyFabric
from moesim.fabric.protocol import CollectiveProtocol
from moesim.fabric.topologies import machine_routing, machine_topology
from moesim.fabric.topology import FloatArray, Topology
from moesim.fabric.transfer import PICOSECONDS, Transfer
from moesim.hardware.machine import Machine, assemble
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_system

Collective = Literal["all-reduce", "all-gather", "reduce-scatter", "broadcast", "all-to-all", "send"]

#: Flows that a fidelity finer than the bound follows one by one.
MOST_FLOWS = 100_000
#: Loads that differ by less than this (relative) are equally busy.
ALIKE = 1e-9


@dataclass(frozen=True)
class Answer:
    """One size. size: bytes per device, as measurement tools of collectives count them (of gathers and scatters, and of
    what a device has for all others in an all-to-all, the whole buffer). seconds, bound: the time, and the least time.
    algorithm_bandwidth: size over time; bus_bandwidth: that times the share that has to cross a port. busiest: a link
    with the most bytes for its bandwidth, and how many others are as busy; utilisation: share of its capacity in use.
    Of a measured library's times neither its bytes on links are known, nor a bound: its kernels may use other paths.
    """

    size: float
    seconds: float
    algorithm: str
    algorithm_bandwidth: float
    bus_bandwidth: float
    busiest: str = ""
    alike: int = 0
    utilisation: float = math.nan
    bound: float = math.nan

    @property
    def distance(self) -> float:
        """The time over the least time."""
        return self.seconds / self.bound


def bus_factor(collective: Collective, devices: int) -> float:
    """Bytes that have to cross each port over the size (NVIDIA nccl-tests, doc/PERFORMANCE.md)."""
    if collective in ("broadcast", "send"):
        return 1.0
    return (2 if collective == "all-reduce" else 1) * (devices - 1) / devices


def popularity(devices: int, skew: float) -> FloatArray:
    """[devices] shares of the bytes that go to each: falling as a power of the rank, the first `skew` times the mean.

    Raises:
        MoesimError: no shares do that.
    """
    if not 1 <= skew < devices:
        raise MoesimError(
            f"a skew of {skew:g}", fix=f"one of {devices} devices gets from 1 to less than {devices} times the mean"
        )
    low, high = 0.0, 64.0
    ranks = np.log(np.arange(1, devices + 1))
    for _ in range(60):
        middle = (low + high) / 2
        share = np.exp(-middle * ranks)
        low, high = (middle, high) if devices / share.sum() < skew else (low, middle)
    share = np.exp(-high * ranks)
    found: FloatArray = share / share.sum()
    return found


@dataclass
class Study:
    """What is asked: `collective` over `devices` of `fabric`.

    algorithm: by name, or auto. shares: [devices] of what each device sends in an all-to-all, to whom; even where None.
    protocol: a measured library, whose times take the place of the bound where it speaks for the collective.
    """

    fabric: TopologyFabric
    collective: Collective
    devices: Sequence[int]
    algorithm: str = "auto"
    fidelity: Fidelity = "bound"
    chunk: float = np.inf
    shares: FloatArray | None = None
    protocol: CollectiveProtocol | None = None

    def answers(self, sizes: Sequence[float]) -> list[Answer]:
        """One answer per size, in bytes.

        Raises:
            MoesimError: the group, the algorithm or a size makes no sense, or a fidelity would take too long.
        """
        lanes = len(self.devices)
        if self.collective == "send" and lanes != 2:
            raise MoesimError(f"a send joins two devices, not {lanes}", fix="name two, such as --devices 0,1")
        if self.fidelity != "bound" and self.collective == "all-to-all" and lanes * (lanes - 1) > MOST_FLOWS:
            raise MoesimError(
                f"an all-to-all of {lanes} devices has {lanes * (lanes - 1):,} flows", fix="take fewer, or bound"
            )
        moved = [self._transfer(size) for size in sizes]
        limit = Limit(self.fabric.ports(self.devices))
        return [self._answer(size, transfer, limit) for size, transfer in zip(sizes, moved, strict=True)]

    def _transfer(self, size: float) -> Transfer:
        fabric, devices, algorithm = self.fabric, self.devices, self.algorithm
        chunks = np.full(len(devices), size / len(devices))
        match self.collective:
            case "all-reduce":
                return fabric.all_reduce(size, devices, algorithm)
            case "all-gather":
                return fabric.all_gather(chunks, devices, algorithm)
            case "reduce-scatter":
                return fabric.reduce_scatter(chunks, devices, algorithm)
            case "broadcast":
                return fabric.broadcast(size, devices, 0, algorithm)
            case "send":
                return fabric.send(size, *devices)
            case "all-to-all":
                return fabric.all_to_all(self._traffic(size), devices, algorithm)

    def _traffic(self, size: float) -> FloatArray:
        lanes = len(self.devices)
        shares = np.full(lanes, 1 / lanes) if self.shares is None else self.shares
        return np.tile(size * shares, (lanes, 1))

    def _answer(self, size: float, transfer: Transfer, limit: Limit) -> Answer:
        factor = bus_factor(self.collective, len(self.devices))
        if self.protocol is not None and self.fidelity == "bound":
            paced = calibrated(transfer, self.protocol, None if self.collective == "all-to-all" else size)
            if paced is not transfer:
                seconds = int(paced.picoseconds) / PICOSECONDS
                return Answer(size, seconds, paced.algorithm, size / seconds, factor * size / seconds)
        carried = carry(transfer, self.fidelity, self.chunk)
        seconds = carried.picoseconds / PICOSECONDS
        link = busiest_link(self.fabric.topology, carried.load, seconds)
        least = limit.seconds(transfer.operation, self._least(size))
        return Answer(size, seconds, transfer.algorithm, size / seconds, factor * size / seconds, *link, bound=least)

    def _least(self, size: float) -> FloatArray:
        """What `Limit.seconds` takes as the size."""
        if self.collective == "all-to-all":
            return self._traffic(size)
        parts = len(self.devices) if self.collective in ("all-gather", "reduce-scatter") else 1
        return np.asarray(size / parts)


def system_fabric(system: str, overrides: Sequence[str] = ()) -> tuple[Machine, TopologyFabric]:
    """The machine of a system (a name of the library, or a YAML file), and its fabric.

    Raises:
        MoesimError: there is none, it is not valid, or it cannot be put together.
    """
    machine = assemble(*load_system(system, overrides))
    topology = machine_topology(machine)
    return machine, TopologyFabric(topology, machine_routing(machine, topology))


def library_protocol(machine: Machine, library: str) -> CollectiveProtocol:
    """What was measured of a library on the machine's devices.

    Raises:
        MoesimError: nothing was.
    """
    protocol = machine_protocol(machine, (library,))
    if protocol is None:
        raise MoesimError(
            f"no measurements of {library!r} between devices of {machine.spec.name}",
            fix="leave the library out: closed forms then apply",
        )
    return protocol


def busiest_link(topology: Topology, load: FloatArray, seconds: float) -> tuple[str, int, float]:
    """The link with the most bytes for its bandwidth, how many others are as busy, and the share of its capacity."""
    busy = load / topology.bandwidth
    most = float(busy.max(initial=0.0))
    alike = np.flatnonzero(busy >= most * (1 - ALIKE))
    return topology.link_name(int(alike[0])), len(alike) - 1, most / seconds
