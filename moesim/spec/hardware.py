"""Devices, fabrics and systems as their datasheets put them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from moesim.spec.base import Descriptor, Schema
from moesim.spec.units import (
    Bytes,
    BytesPerSecond,
    DollarsPerSecond,
    FlopPerSecond,
    Hertz,
    JoulesPerByte,
    JoulesPerFlop,
    Seconds,
    Watts,
    parse,
)

DeviceKind = Literal["gpu", "npu", "tpu", "pim", "cpu", "dataflow", "wafer", "chiplet", "csd", "memory"]

#: PCI Express, bytes per second per lane and direction after line coding (PCI-SIG base specifications 3.0 to 6.0).
PCIE_LANE = {3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}


def _port(value: object) -> object:
    """`gen5 x16` is a PCIe port; anything else is a bandwidth per direction."""
    if isinstance(value, str) and value.startswith("gen"):
        try:
            generation, lanes = value.removeprefix("gen").split(" x")
            return PCIE_LANE[int(generation)] * int(lanes)
        except (ValueError, KeyError):
            raise ValueError(f"{value!r} is no PCIe port, write it like 'gen5 x16'") from None
    if isinstance(value, str):
        rate = parse(value, "byte/second")
        if rate > 0:
            return rate
    raise ValueError(f"{value!r} is no bandwidth per direction, write it like '450 GB/s' or 'gen5 x16'")


PortBandwidth = Annotated[float, BeforeValidator(_port)]


class Compute(Schema):
    """Dense peaks per dtype (no structured sparsity), and what they are made of."""

    fp32: FlopPerSecond | None = None
    tf32: FlopPerSecond | None = None
    bf16: FlopPerSecond | None = None
    fp16: FlopPerSecond | None = None
    fp8: FlopPerSecond | None = None
    int8: FlopPerSecond | None = None
    fp4: FlopPerSecond | None = None
    int4: FlopPerSecond | None = None
    units: int | None = Field(default=None, gt=0, description="SMs, CUs, cores, tiles")
    clock: Hertz | None = None


class MemoryTier(Schema):
    tier: Literal["sram", "hbm", "gddr", "lpddr", "ddr", "flash", "optane"]
    capacity: Bytes
    bandwidth: BytesPerSecond
    write_bandwidth: BytesPerSecond | None = None
    latency: Seconds = 0.0
    energy: JoulesPerByte | None = None
    #: Bandwidth that engines beside the memory see (processing in memory, in storage).
    internal_bandwidth: BytesPerSecond | None = None


class Power(Schema):
    tdp: Watts | None = None
    idle: Watts | None = None


class DeviceSpec(Descriptor):
    """One processor, memory device or drive. `memory` is ordered from the nearest tier outwards."""

    kind: DeviceKind
    family: str
    vendor: str = ""
    compute: Compute = Compute()
    memory: tuple[MemoryTier, ...] = ()
    links: dict[str, PortBandwidth] = {}
    #: How many copy engines move data beside the compute streams.
    copy_engines: int = Field(default=2, ge=0)
    power: Power = Power()
    energy: dict[str, JoulesPerFlop] = {}
    price: DollarsPerSecond | None = None
    #: Numbers that no simulation reads yet but that belong to the datasheet (I/O operations per second, area, ...).
    notes: dict[str, str] = {}

    @model_validator(mode="after")
    def _something_to_hold(self) -> DeviceSpec:
        if not self.memory:
            raise ValueError("a device needs at least one memory tier")
        return self


class FabricSpec(Descriptor):
    """What joins the devices of a node, or the nodes of a system. `link` names the port that devices plug in."""

    kind: Literal["switch", "host-bridge"]
    link: str
    #: Caps the port's bandwidth per direction, where the fabric is slower than the device's port.
    bandwidth: BytesPerSecond | None = None
    #: Share of the wire rate that large transfers reach.
    efficiency: float = Field(default=1.0, gt=0, le=1)
    #: One message from memory to memory, without queueing.
    latency: Seconds
    #: Start of a collective: kernel launch and protocol set-up, once per call.
    overhead: Seconds = 0.0
    energy: JoulesPerByte | None = None


class NodeSpec(Schema):
    """What one chassis holds. Names refer to descriptors of the library."""

    devices: dict[str, Annotated[int, Field(gt=0)]] = Field(min_length=1)
    fabric: str | None = None
    host: dict[str, Annotated[int, Field(gt=0)]] = {}
    storage: dict[str, Annotated[int, Field(gt=0)]] = {}
    #: Bandwidth of the scale-out port per device and direction.
    nic: BytesPerSecond | None = None


class SystemSpec(NodeSpec, Descriptor):
    """A machine: identical nodes, each as in NodeSpec, joined by `scale_out` where there are several."""

    name: str = "machine"
    nodes: int = Field(default=1, gt=0)
    scale_out: str | None = None
    #: Fans, boards and whatever else draws power, per node.
    chassis_power: Watts = 0.0
    price: DollarsPerSecond | None = Field(default=None, description="of a whole node; otherwise the devices' prices")
