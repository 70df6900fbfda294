"""One device of a machine: its descriptor with every gap filled from the defaults of its family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from moesim.spec.base import Dtype
from moesim.spec.errors import MoesimError
from moesim.spec.families import FamilyDefaults, Tier, family_defaults
from moesim.spec.hardware import Compute, Coprocessor, DeviceSpec

DTYPES: tuple[Dtype, ...] = get_args(Dtype)

#: What arithmetic runs in where the device has no rate for a dtype: the dtype itself, then the next wider ones. bf16
#: and fp16 stand in for each other; fp32 runs as tf32 where only that is given.
FALLBACKS: dict[Dtype, tuple[Dtype, ...]] = {
    "int4": ("int4", "int8", "bf16", "fp16", "tf32", "fp32"),
    "fp4": ("fp4", "fp8", "bf16", "fp16", "tf32", "fp32"),
    "int8": ("int8", "bf16", "fp16", "tf32", "fp32"),
    "fp8": ("fp8", "bf16", "fp16", "tf32", "fp32"),
    "fp16": ("fp16", "bf16", "tf32", "fp32"),
    "bf16": ("bf16", "fp16", "tf32", "fp32"),
    "tf32": ("tf32", "fp32"),
    "fp32": ("fp32", "tf32"),
}


@dataclass(frozen=True)
class Engine:
    """What works on its own beside the others: arithmetic, or one mover of data."""

    name: str
    kind: Literal["compute", "copy"]


@dataclass(frozen=True)
class MemoryTier:
    """A tier with all numbers known: bytes, bytes per second, seconds, joules per byte."""

    tier: Tier
    capacity: float
    bandwidth: float
    write_bandwidth: float
    latency: float
    energy: float
    internal_bandwidth: float | None = None
    #: Devices that share it; the other numbers are the part of one.
    shared_by: int = 1

    @property
    def compute_bandwidth(self) -> float:
        """What the device's own arithmetic sees: inside the memory where it sits there, else the tier's bandwidth."""
        return self.bandwidth if self.internal_bandwidth is None else self.internal_bandwidth


@dataclass(frozen=True, eq=False)
class Device:
    """A device in its place. Devices are equal only to themselves, so that they can be keys.

    index: position in the machine's list of its role (accelerators, hosts or storage). name: unique in the machine.
    tiers: as the descriptor orders them, from the nearest outwards. peaks: FLOP per second for every dtype the device
    can compute with, `runs_as` the dtype it uses for that, energy: dynamic joules per FLOP. idle_power: watts drawn
    without work. tdp: watts, None where unknown.
    """

    index: int
    name: str
    node: int
    spec: DeviceSpec
    family: FamilyDefaults
    engines: tuple[Engine, ...]
    tiers: tuple[MemoryTier, ...]
    peaks: Mapping[Dtype, float]
    runs_as: Mapping[Dtype, Dtype]
    energy: Mapping[Dtype, float]
    idle_power: float
    tdp: float | None
    #: Others that compute on this device's memory, each a device of its own in all but place and links.
    coprocessors: tuple[Device, ...] = ()
    #: Of a coprocessor: whether it draws on the bandwidth of the device's own arithmetic.
    shares_memory: bool = False

    @property
    def processors(self) -> tuple[Device, ...]:
        """The device's own arithmetic, then its coprocessors, in the order of the descriptor."""
        return (self, *self.coprocessors)

    @property
    def memory(self) -> MemoryTier:
        """The tier that holds weights and KV cache: the nearest one beside on-chip SRAM, or SRAM where that is all."""
        return next((tier for tier in self.tiers if tier.tier != "sram"), self.tiers[0])

    def tier(self, name: str) -> MemoryTier:
        """The tier called `name`.

        Raises:
            MoesimError: the device has none.
        """
        for tier in self.tiers:
            if tier.tier == name:
                return tier
        raise MoesimError(
            f"{self.spec.name} has no memory tier {name!r}", fix=f"it has {', '.join(tier.tier for tier in self.tiers)}"
        )

    def peak(self, dtype: Dtype) -> float:
        """Dense FLOP per second in `dtype`, or in the dtype that stands in for it (see FALLBACKS).

        Raises:
            MoesimError: the device has no rate that could serve.
        """
        if dtype not in self.peaks:
            other = f"choose a dtype that it has ({', '.join(self.peaks)}), or " if self.peaks else ""
            raise MoesimError(
                f"{self.spec.name} cannot compute in {dtype}",
                key=("library", "devices", self.spec.name),
                fix=f"{other}give compute.{dtype} in its descriptor",
            )
        return self.peaks[dtype]

    def energy_per_flop(self, dtype: Dtype) -> float:
        """Dynamic joules per FLOP in `dtype`, or in the dtype that stands in for it. Raises MoesimError as `peak`."""
        self.peak(dtype)
        return self.energy[dtype]


def make_device(spec: DeviceSpec, *, index: int, name: str, node: int) -> Device:
    """`spec` in its place, its gaps filled from its family.

    Raises:
        MoesimError: the family is unknown, or knows no energy for a dtype or memory tier of the device.
    """
    family = family_defaults(spec.family, device=spec.name)
    runs_as = _runs_as(spec.compute)
    rates = {dtype: getattr(spec.compute, dtype) for dtype in DTYPES}
    tdp = spec.power.tdp
    idle = spec.power.idle if spec.power.idle is not None else family.idle_fraction * (tdp or 0.0)
    compute = (Engine("compute", "compute"),) if runs_as else ()
    return Device(
        index=index,
        name=name,
        node=node,
        spec=spec,
        family=family,
        engines=(*compute, *(Engine(f"copy{number}", "copy") for number in range(spec.copy_engines))),
        tiers=_tiers(spec, family),
        peaks={dtype: rates[used] for dtype, used in runs_as.items()},
        runs_as=runs_as,
        energy={dtype: _energy(spec, family, used) for dtype, used in runs_as.items()},
        idle_power=idle,
        tdp=tdp,
        coprocessors=tuple(_coprocessor(spec, name, each, index, node) for name, each in spec.coprocessors.items()),
    )


def _coprocessor(host: DeviceSpec, name: str, given: Coprocessor, index: int, node: int) -> Device:
    """The coprocessor called `name`, on the memory that holds the weights of `host`. Idle power is the host's."""
    main = next((tier for tier in host.memory if tier.tier != "sram"), host.memory[0])
    seen = {"bandwidth": given.bandwidth, "write_bandwidth": None, "internal_bandwidth": None}
    energy = main.energy if given.memory_energy is None else given.memory_energy
    spec = host.model_copy(
        update={
            "name": f"{host.name}/{name}",
            "family": host.family if given.family is None else given.family,
            "compute": given.compute,
            "memory": (main.model_copy(update=seen | {"energy": energy}),),
            "coprocessors": {},
            "energy": given.energy,
            "links": {},
        }
    )
    device = make_device(spec, index=index, name=name, node=node)
    return replace(device, idle_power=0.0, shares_memory=given.shared)


def _runs_as(compute: Compute) -> dict[Dtype, Dtype]:
    """For every dtype that the device can serve, the one it computes in."""
    found: dict[Dtype, Dtype] = {}
    for dtype in DTYPES:
        used = next((wider for wider in FALLBACKS[dtype] if getattr(compute, wider) is not None), None)
        if used is not None:
            found[dtype] = used
    return found


def _energy(spec: DeviceSpec, family: FamilyDefaults, dtype: Dtype) -> float:
    if dtype in spec.energy:
        return spec.energy[dtype]
    if dtype in family.energy:
        return family.energy[dtype]
    raise MoesimError(
        f"neither {spec.name} nor its family {family.name} knows the energy of a FLOP in {dtype}",
        key=("library", "devices", spec.name),
        fix=f"give energy.{dtype} in the descriptor, like 0.6 pJ/FLOP",
    )


def _tiers(spec: DeviceSpec, family: FamilyDefaults) -> tuple[MemoryTier, ...]:
    tiers = []
    for given in spec.memory:
        energy = given.energy if given.energy is not None else family.memory_energy.get(given.tier)
        if energy is None:
            raise MoesimError(
                f"neither {spec.name} nor its family {family.name} knows the energy of {given.tier}",
                key=("library", "devices", spec.name),
                fix="give the tier an energy, like 3.6 pJ/bit",
            )
        write = given.bandwidth if given.write_bandwidth is None else given.write_bandwidth
        inside, parts = given.internal_bandwidth, given.shared_by
        tiers.append(
            MemoryTier(
                given.tier, given.capacity / parts, given.bandwidth / parts, write / parts, given.latency, energy,
                None if inside is None else inside / parts, parts,
            )
        )  # fmt: skip
    return tuple(tiers)
