"""A machine's fabric under a measured library: its calls within a node take what they were measured to take.

Use: `CalibratedFabric(fabric, machine_protocol(machine, ("vllm-graph-0.19", "nccl")))` stands wherever `fabric` did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from moesim.fabric.calibrated import calibrated, collective_protocol, expert_protocol
from moesim.fabric.expert_protocol import ExpertLoad, ExpertProtocol, Mode
from moesim.fabric.protocol import TWO_BYTES, CollectiveProtocol
from moesim.fabric.switch import Fabric
from moesim.fabric.transfer import FloatArray, GroupPorts, Transfer
from moesim.hardware.machine import port_rate
from moesim.spec.dispatch import DispatchSpec

if TYPE_CHECKING:
    from moesim.fabric.links import GroupLinks
    from moesim.hardware.machine import Machine


def machine_protocol(machine: Machine, libraries: Sequence[str] = ("nccl",)) -> CollectiveProtocol | None:
    """What is known of collectives between the devices of a node of `machine`; its `origin` says from where.

    None where a node holds one device or several kinds, or nothing was measured over such a link.

    Args:
        libraries: as `collective_protocol` has them.
    """
    link = _link(machine)
    if link is None:
        return None
    device, family, name, port = link
    return collective_protocol(device, family=family, link=name, port=port, libraries=libraries)


def machine_expert_protocol(machine: Machine, library: str = "deepep") -> ExpertProtocol | None:
    """What is known of kernels that dispatch to experts on `machine`; None as for `machine_protocol`, and where the
    device's descriptor does not say how many SMs it has."""
    link, spec = _link(machine), machine.devices[0].spec
    if link is None or spec.compute.units is None:
        return None
    device, family, name, port = link
    out = machine.scale_out
    nic = None if out is None else port_rate(machine.spec, spec, out, "scale_out")
    units = spec.compute.units
    return expert_protocol(
        device, family=family, link=name, port=port, units=units, nic=nic or np.inf, library=library
    )  # fmt: skip


def _link(machine: Machine) -> tuple[str, str, str, float] | None:
    """(device, family, link, bytes/s of the port) of a node's devices, where they are all alike."""
    spec, fabric = machine.devices[0].spec, machine.scale_up(0)
    if fabric is None or len(machine.spec.devices) != 1 or len(machine.devices_of(0)) == 1:
        return None
    rate = port_rate(machine.spec, spec, fabric, "scale_up")
    return None if rate is None else (spec.name, spec.family, fabric.link, rate)


@dataclass(frozen=True)
class ExpertKernels:
    """Measured kernels of one mode that dispatch to experts and combine; `protocol.origin` says where from."""

    protocol: ExpertProtocol
    mode: Mode

    @property
    def library(self) -> str:
        return self.protocol.library

    def both_ways(self, load: ExpertLoad, sizes: tuple[float, float], *, experts: int, nodes: int) -> FloatArray:
        """[2, ...] seconds of a dispatch and a combine whose copies have `sizes` bytes."""
        known = self.protocol
        there = known.seconds("dispatch", load, sizes[0], experts=experts, mode=self.mode, nodes=nodes)
        return np.stack([there, known.seconds("combine", load, sizes[1], experts=experts, mode=self.mode, nodes=nodes)])


#: The mode in which measured kernels send copies in each form, within a node and over several.
_MODES: dict[tuple[str, bool], Mode] = {
    ("per-expert", False): "low_latency",
    ("per-expert", True): "low_latency",
    ("per-device", False): "normal",
    ("per-node", False): "normal",
    ("per-node", True): "normal",
}


def expert_kernels(
    machine: Machine, dispatch: DispatchSpec, several_nodes: bool
) -> tuple[ExpertKernels | None, str]:  # fmt: skip
    """The measured kernels that a dispatch asks for, of groups within a node or over several; None where there are
    none. And a sentence for the summary."""
    how = f"dispatch: {dispatch.form}"
    if dispatch.library is None:
        return None, f"{how}, by closed form"
    protocol = machine_expert_protocol(machine, dispatch.library)
    mode = _MODES.get((dispatch.form, several_nodes))
    if protocol is None:
        return None, f"{how}, by closed form, as {_why_not(machine, (dispatch.library,))}"
    known = protocol.scattered if several_nodes else protocol.terms
    if mode is None or (mode, "dispatch") not in known or (mode, "combine") not in known:
        where = "over several nodes" if several_nodes else "within a node"
        return None, f"{how}, by closed form, as {protocol.library} was not measured in this form {where}"
    origin = protocol.scattered_origin if several_nodes else protocol.origin
    return ExpertKernels(protocol, mode), f"{how}, {mode.replace('_', '-')} mode of {origin}"


def library_fabric(
    machine: Machine, fabric: Fabric, libraries: Sequence[str], within_a_node: bool
) -> tuple[Fabric, str]:
    """`fabric` under the first of the libraries that was measured between the machine's devices, and a sentence for
    the summary: which one and where, or why closed forms apply.

    Args:
        within_a_node: whether any group that communicates lies within a node.
    """
    if libraries and not within_a_node:
        return fabric, "collectives: closed forms, as all groups span several nodes"
    protocol = machine_protocol(machine, libraries) if libraries else None
    if protocol is None:
        return fabric, f"collectives: closed forms, as {_why_not(machine, libraries)}"
    elsewhere = "; closed forms between nodes" if machine.nodes > 1 else ""
    return CalibratedFabric(fabric, protocol), f"collectives: {protocol.origin}{elsewhere}"


def _why_not(machine: Machine, libraries: Sequence[str]) -> str:
    """Why no measured library speaks for a machine, to follow "as"."""
    if not libraries:
        return "the engine names no library"
    if len(machine.spec.devices) != 1:
        return "a node holds devices of several kinds"
    link = _link(machine)
    if link is None:
        return "a node holds one device"
    return f"{' and '.join(libraries)} {'were' if len(libraries) > 1 else 'was'} not measured over {link[2]}"


class CalibratedFabric:
    """`fabric`, paced by a measured library within a node; see moesim.fabric.calibrated. `origin`: for the summary."""

    def __init__(self, fabric: Fabric, protocol: CollectiveProtocol, element: int = TWO_BYTES) -> None:
        self.fabric, self.protocol, self.element = fabric, protocol, element
        self.origin = protocol.origin

    def ports(self, devices: Sequence[int]) -> GroupPorts | GroupLinks:
        return self.fabric.ports(devices)

    def all_reduce(self, size: ArrayLike, devices: Sequence[int]) -> Transfer:
        return self.pace(self.fabric.all_reduce(size, devices), size)

    def all_gather(self, chunks: ArrayLike, devices: Sequence[int]) -> Transfer:
        return self.pace(self.fabric.all_gather(chunks, devices), _whole(chunks))

    def reduce_scatter(self, chunks: ArrayLike, devices: Sequence[int]) -> Transfer:
        return self.pace(self.fabric.reduce_scatter(chunks, devices), _whole(chunks))

    def all_to_all(self, traffic: ArrayLike, devices: Sequence[int]) -> Transfer:
        return self.pace(self.fabric.all_to_all(traffic, devices))

    def send(self, size: ArrayLike, source: int, destination: int) -> Transfer:
        return self.pace(self.fabric.send(size, source, destination), size)

    def pace(self, transfer: Transfer, size: ArrayLike | None = None) -> Transfer:
        """`transfer` as long as the library takes for it; for transfers that were not made by this fabric."""
        return calibrated(transfer, self.protocol, size, self.element)


def _whole(chunks: ArrayLike) -> FloatArray:
    """The buffer of all chunks, each as large as the largest: libraries gather and scatter even ones."""
    parts = np.asarray(chunks, dtype=np.float64)
    whole: FloatArray = parts.max(axis=-1) * parts.shape[-1]
    return whole
