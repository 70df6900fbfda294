"""The descriptors that come with moesim: complete, sourced, and of the published values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import get_args

import pytest

from moesim.hardware.device import make_device
from moesim.hardware.machine import assemble
from moesim.spec.base import Descriptor
from moesim.spec.fabric import FabricKind
from moesim.spec.families import load_families
from moesim.spec.hardware import DeviceSpec, FabricSpec
from moesim.spec.loading import list_descriptors, load_descriptor, load_system

#: Keys that hold no numbers.
TEXT = {
    "name", "description", "kind", "family", "vendor", "link", "tier", "sources", "unverified", "estimated", "notes",
}  # fmt: skip

DEVICES = """
a100-40-sxm a100-80-sxm a100-80-pcie h100-sxm h100-pcie h200-sxm b200-sxm gb200-gpu h800-sxm h20 l40s rtx4090 rtx-a6000
rtx6000-ada a40 l4 a10g b300-sxm gb300-gpu rtx-pro-6000 gh200 mi210 mi250x mi300x mi325x mi355x tpu-v4 tpu-v5e tpu-v5p
tpu-v6e ascend-910b ascend-910c ascend-300i-duo gaudi-2 gaudi-3 sn40l wse-2 wse-3 groq-lpu
duplex-logic-pim duplex-bank-pim attacc-hbm3 neupims-hbm hbm-pim-aquabolt-xl gddr6-aim upmem-2560 inst-csd fenghuang-tab
mozart-chiplet
epyc-7763 epyc-9654 epyc-9755 epyc-7313 xeon-8380 xeon-8480-plus xeon-8592-plus xeon-6980p grace kunpeng-920
samsung-980-pro samsung-pm9a3 intel-p5800x samsung-pm1743 kioxia-cm7-r micron-9550 hbf-8-stacks
"""
FABRICS = """
pcie4-host pcie5-host nvlink3-switch nvlink4-switch nvlink5-switch ib-ndr400 roce400 ici-torus xgmi-mesh hccs ub-node
ub-supernode groq-c2c roce-gaudi nop-tree
"""
SYSTEMS = "dgx-a100 dgx-h100 dgx-h100-cap70 cloudmatrix384 mi300x-8 tpu-v5p-64 h800-rail-2048"


def words(text: str) -> set[str]:
    return set(text.split())


def numbers(value: object, path: str = "") -> Iterator[str]:
    """Dotted paths of all numbers in a descriptor as it was written; memory tiers go by their name, the numbers of a
    list by the list's."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            if key not in TEXT:
                yield from numbers(below, f"{path}.{key}".lstrip("."))
    elif isinstance(value, tuple | list):
        for below in value:
            yield from numbers(below, f"{path}.{below['tier']}" if isinstance(below, Mapping) else path)
    elif isinstance(value, int | float):
        yield path


def covered(path: str, keys: set[str]) -> bool:
    """Whether `path` or anything above it is among `keys`."""
    parts = path.split(".")
    return any(".".join(parts[:depth]) in keys for depth in range(1, len(parts) + 1))


def fields(descriptor: Descriptor) -> set[str]:
    """Every dotted path that a source may speak of, given or not."""
    found: set[str] = set()

    def walk(value: object, path: str) -> None:
        found.add(path)
        if isinstance(value, Mapping):
            for key, below in value.items():
                walk(below, f"{path}.{key}".lstrip("."))
        elif isinstance(value, tuple | list):
            for below in value:
                if isinstance(below, Mapping):
                    walk(below, f"{path}.{below['tier']}")

    walk(descriptor.model_dump(), "")
    return found


@pytest.mark.parametrize("kind", ["devices", "fabrics", "systems"])
def test_name_is_the_file_stem_in_kebab_case(kind: str) -> None:
    for stem in list_descriptors(kind):  # type: ignore[arg-type]
        assert load_descriptor(kind, stem).name == stem  # type: ignore[call-overload]
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", stem)


@pytest.mark.parametrize("kind", ["devices", "fabrics", "systems"])
def test_every_number_has_a_source(kind: str) -> None:
    missing = []
    for name in list_descriptors(kind):  # type: ignore[arg-type]
        descriptor = load_descriptor(kind, name)  # type: ignore[call-overload]
        written = descriptor.model_dump(exclude_unset=True)
        written.pop("copy_engines", None)
        known = {*descriptor.sources, *descriptor.estimated}
        missing += [f"{name}: {path}" for path in numbers(written) if not covered(path, known)]
    assert missing == []


@pytest.mark.parametrize("kind", ["devices", "fabrics", "systems"])
def test_sources_and_marks_speak_of_fields_that_exist(kind: str) -> None:
    unknown = []
    for name in list_descriptors(kind):  # type: ignore[arg-type]
        descriptor = load_descriptor(kind, name)  # type: ignore[call-overload]
        existing = fields(descriptor)
        for path in (*descriptor.sources, *descriptor.unverified, *descriptor.estimated):
            if path not in existing:
                unknown.append(f"{name}: {path}")
    assert unknown == []


def test_every_number_of_a_family_has_a_source() -> None:
    missing = []
    for name, family in load_families().items():
        for path in numbers(family.model_dump()):
            if not covered(path, set(family.sources)):
                missing.append(f"{name}: {path}")
    assert missing == []


def test_the_library_is_complete(devices: dict[str, DeviceSpec], fabrics: dict[str, FabricSpec]) -> None:
    assert words(DEVICES) <= set(devices)
    assert words(FABRICS) <= set(fabrics)
    assert words(SYSTEMS) <= set(list_descriptors("systems"))


def test_there_is_a_fabric_of_every_kind(fabrics: dict[str, FabricSpec]) -> None:
    assert {spec.kind for spec in fabrics.values()} == set(get_args(FabricKind))


def test_what_the_datasheet_leaves_out_is_marked_as_estimated(devices: dict[str, DeviceSpec]) -> None:
    for name, spec in devices.items():
        if spec.power.tdp is not None and spec.power.idle is None:
            assert "power.idle" in spec.estimated, name
        if not spec.energy and any(rate for key, rate in spec.compute if key not in ("units", "clock")):
            assert "energy" in spec.estimated, name


def test_published_values(devices: dict[str, DeviceSpec]) -> None:
    """Typed from the datasheets and papers, in their units."""
    assert devices["h200-sxm"].compute.bf16 == pytest.approx(989e12)
    assert devices["h200-sxm"].memory[0].bandwidth == pytest.approx(4800e9)
    assert devices["h100-sxm"].memory[0].capacity == pytest.approx(81559 * 2**20, rel=0.005)
    assert devices["h100-sxm"].links["nvlink4"] == pytest.approx(450e9)
    assert devices["a100-80-sxm"].memory[0].bandwidth == pytest.approx(2039e9)
    assert devices["b200-sxm"].compute.fp4 == pytest.approx(9000e12)
    assert devices["b300-sxm"].compute.int8 == pytest.approx(153.5e12)
    assert devices["gb300-gpu"].memory[0].capacity == pytest.approx(298e9, rel=0.001)
    assert devices["rtx-pro-6000"].compute.bf16 == pytest.approx(467.8e12)
    assert devices["rtx-pro-6000"].links["pcie"] == pytest.approx(63e9, rel=0.001)
    assert devices["h20"].price == pytest.approx(4.63 / 3600)
    assert devices["mi300x"].links["xgmi"] == pytest.approx(7 * 64e9)
    assert devices["tpu-v5p"].links["ici"] == pytest.approx(4800e9 / 8)
    assert devices["ascend-910c"].compute.bf16 == pytest.approx(752e12)
    assert devices["sn40l"].memory[1].capacity == pytest.approx(64 * 2**30)
    assert devices["wse-3"].memory[0].bandwidth == pytest.approx(21e15)
    assert devices["duplex-logic-pim"].memory[0].internal_bandwidth == pytest.approx(2682e9)
    assert devices["inst-csd"].memory[0].internal_bandwidth == pytest.approx(8 * 1.4e9)
    assert devices["xeon-8480-plus"].memory[0].bandwidth == pytest.approx(8 * 4800e6 * 8)
    assert devices["grace"].links["c2c"] == pytest.approx(450e9)
    assert devices["samsung-pm9a3"].memory[0].write_bandwidth == pytest.approx(4.1e9)
    assert devices["hbf-8-stacks"].memory[0].bandwidth == pytest.approx(12.8e12)


def test_published_fabrics_and_systems(fabrics: dict[str, FabricSpec]) -> None:
    assert fabrics["ib-ndr400"].bandwidth == pytest.approx(400e9 / 8)
    assert fabrics["nvlink4-switch"].energy == pytest.approx(1.3e-12 * 8)
    assert load_descriptor("systems", "dgx-h100").price == pytest.approx(38 / 3600)
    rated = {"dgx-a100": 6500, "dgx-h100": 10200, "dgx-h100-cap70": 7140}
    for name, watts in rated.items():
        system, library = load_system(name)
        parts = sum(library.devices[part].power.tdp * n for part, n in (system.devices | system.host).items())
        assert parts + system.chassis_power == pytest.approx(watts)


def test_every_system_assembles() -> None:
    counts = {}
    for name in list_descriptors("systems"):
        machine = assemble(*load_system(name))
        counts[name] = len(machine.devices)
    assert counts["cloudmatrix384"] == 384
    assert counts["gb200-nvl72"] == 72
    assert counts["dgx-h200"] == 8


def test_no_device_draws_more_than_its_power(devices: dict[str, DeviceSpec]) -> None:
    """Idle power and the energy of arithmetic at the rate that GEMMs reach, or of memory at its rate, stay below the
    TDP (with a tenth of tolerance for rounded defaults)."""
    for name, spec in devices.items():
        device = make_device(spec, index=0, name=name, node=0)
        if device.tdp is None:
            continue
        reached = device.family.efficiency
        for dtype in device.peaks:
            arithmetic = reached.gemm * device.peak(dtype) * device.energy_per_flop(dtype)
            assert device.idle_power + arithmetic <= 1.1 * device.tdp, (name, dtype)
        tier = device.memory
        moving = reached.memory * tier.compute_bandwidth * tier.energy
        assert device.idle_power + moving <= 1.1 * device.tdp, name
