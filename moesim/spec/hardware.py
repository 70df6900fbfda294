"""Devices, fabrics and systems as their datasheets put them."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from moesim.spec.base import Descriptor, Dtype, Schema
from moesim.spec.fabric import FabricSpec as FabricSpec
from moesim.spec.units import (
    Bytes,
    BytesPerSecond,
    DollarsPerSecond,
    FlopPerSecond,
    Hertz,
    JoulesPerByte,
    JoulesPerFlop,
    PositiveWatts,
    Seconds,
    Watts,
    converter,
    parse,
)

DeviceKind = Literal["gpu", "npu", "tpu", "pim", "cpu", "dataflow", "wafer", "chiplet", "csd", "memory"]

#: PCI Express, bytes per second per lane and direction after line coding (PCI-SIG base specifications 3.0 to 6.0).
PCIE_LANE = {3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}


#: What no port (bytes per second) and no machine exceeds, so that a slip of the pen does not run for hours.
SLOWEST_PORT, FASTEST_PORT, MOST_PARTS = 1.0, 1e18, 100_000

Count = Annotated[int, Field(gt=0, le=MOST_PARTS)]


def _port(value: object) -> object:
    """`gen5 x16` is a PCIe port; anything else is a bandwidth per direction."""
    if isinstance(value, str) and value.startswith("gen"):
        form = re.fullmatch(r"gen(\d) x([1-9]\d{0,2})", value)  # a CPU's lanes together may be hundreds
        if form is None or int(form[1]) not in PCIE_LANE:
            raise ValueError(f"{value!r} is no PCIe port; write it like 'gen5 x16'")
        return PCIE_LANE[int(form[1])] * int(form[2])
    if isinstance(value, str):
        rate = parse(value, "byte/second")
        if SLOWEST_PORT <= rate <= FASTEST_PORT:
            return rate
    raise ValueError(f"{value!r} is no bandwidth per direction; write it like '450 GB/s' or 'gen5 x16'")


PortBandwidth = Annotated[float, BeforeValidator(_port)]


def _nic(value: object) -> object:
    """One bandwidth for all devices, or one by device name."""
    convert = converter(BytesPerSecond)
    if not isinstance(value, dict):
        return convert(value)
    rates = {}
    for name, each in value.items():
        try:
            rates[name] = convert(each)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return rates


Nic = Annotated[float | dict[str, float], BeforeValidator(_nic)]


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
    units: int | None = Field(default=None, gt=0, le=10_000_000, description="SMs, CUs, cores, tiles")
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
    #: Consecutive devices of a node that share the tier: capacity and bandwidths are those of all of them together.
    shared_by: int = Field(default=1, gt=0, le=MOST_PARTS)


class Power(Schema):
    tdp: PositiveWatts | None = None
    idle: Watts | None = None

    @model_validator(mode="after")
    def _idle_below_tdp(self) -> Power:
        if self.tdp is not None and self.idle is not None and self.idle > self.tdp:
            raise ValueError(f"idle {self.idle:g} W exceeds the tdp of {self.tdp:g} W; lower it")
        return self


class Coprocessor(Schema):
    """Arithmetic beside a device's own that reads the same memory: in the stacks of that memory (processing in
    memory), or a share of the device's units that runs a stream of its own.

    `bandwidth` is what it sees of the memory that holds weights and KV cache; where it is `shared`, both draw on one
    bandwidth, else each has its own. What is not given is as the device's.
    """

    family: str | None = None
    compute: Compute
    bandwidth: BytesPerSecond
    shared: bool = False
    memory_energy: JoulesPerByte | None = None
    energy: dict[Dtype, JoulesPerFlop] = {}


class DeviceSpec(Descriptor):
    """One processor, memory device or drive. `memory` is ordered from the nearest tier outwards."""

    kind: DeviceKind
    family: str
    vendor: str = ""
    compute: Compute = Compute()
    memory: tuple[MemoryTier, ...] = ()
    #: By name: other processors on the same memory. An experiment's `processors` say who computes what.
    coprocessors: dict[str, Coprocessor] = Field(default={}, max_length=2)
    links: dict[str, PortBandwidth] = {}
    #: How many copy engines move data beside the compute streams.
    copy_engines: int = Field(default=2, ge=0, le=1000)
    power: Power = Power()
    energy: dict[Dtype, JoulesPerFlop] = {}
    price: DollarsPerSecond | None = None
    #: Numbers that no simulation reads yet but that belong to the datasheet (I/O operations per second, area, ...).
    notes: dict[str, str] = {}

    @model_validator(mode="after")
    def _something_to_hold(self) -> DeviceSpec:
        if not self.memory:
            raise ValueError("a device needs at least one memory tier; add memory: [{tier: hbm, ...}]")
        twice = [tier.tier for tier in self.memory if sum(tier.tier == other.tier for other in self.memory) > 1]
        if twice:
            raise ValueError(f"the memory tier {twice[0]} appears twice; add up their capacities and bandwidths")
        return self


class NodeSpec(Schema):
    """What one chassis holds. Names refer to descriptors of the library."""

    devices: dict[str, Count] = Field(min_length=1)
    fabric: str | None = None
    host: dict[str, Count] = {}
    storage: dict[str, Count] = {}
    #: Bandwidth of the scale-out port per device and direction: one for all, or by device name.
    nic: Nic | None = None

    @model_validator(mode="after")
    def _nics_of_devices(self) -> NodeSpec:
        strange = [name for name in self.nic if name not in self.devices] if isinstance(self.nic, dict) else []
        if strange:
            has = ", ".join(self.devices)
            raise ValueError(f"nic: {strange[0]} is no device of the node; it has {has}")
        return self

    def nic_of(self, device: str) -> float | None:
        """Bandwidth of the NIC of a device by name; None where it has none."""
        return self.nic.get(device) if isinstance(self.nic, dict) else self.nic


class SystemSpec(NodeSpec, Descriptor):
    """A machine: identical nodes, each as in NodeSpec, joined by `scale_out` where there are several."""

    name: str = "machine"
    nodes: Count = 1
    scale_out: str | None = None
    #: Fans, boards and whatever else draws power, per node.
    chassis_power: Watts = 0.0
    price: DollarsPerSecond | None = Field(default=None, description="of a whole node; otherwise the devices' prices")

    @model_validator(mode="after")
    def _of_this_world(self) -> SystemSpec:
        parts = self.nodes * sum(sum(group.values()) for group in (self.devices, self.host, self.storage))
        if parts > MOST_PARTS:
            raise ValueError(f"nodes and devices make {parts} parts; a machine has at most {MOST_PARTS}")
        return self
