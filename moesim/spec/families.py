"""What a datasheet does not say: the defaults of a device's family, kept in hardware/calibrations/families.yaml."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from moesim.spec.base import Descriptor, Dtype, Schema
from moesim.spec.complaints import validate
from moesim.spec.errors import MoesimError
from moesim.spec.library import builtin_root, did_you_mean
from moesim.spec.marked import Marked, mark, read_yaml
from moesim.spec.units import JoulesPerByte, JoulesPerFlop, Seconds

Share = Annotated[float, Field(ge=0.001, le=1)]
Tier = Literal["sram", "hbm", "gddr", "lpddr", "ddr", "flash", "optane"]

#: Below a folder of MOESIM_PATH, which has the library's layout or the folders of descriptors directly below it.
_FILE = Path("hardware") / "calibrations" / "families.yaml"
_PLACES = (_FILE, _FILE.relative_to("hardware"))


class Efficiency(Schema):
    """Shares of the datasheet's peaks that kernels reach: of arithmetic by kernel class, of the bandwidth by all."""

    gemm: Share
    attention: Share
    experts: Share
    memory: Share


class Overhead(Schema):
    """Time of one call beyond its roofline (start, ramp, drain), launched from a captured graph."""

    gemm: Seconds
    attention: Seconds
    experts: Seconds
    elementwise: Seconds
    router: Seconds
    sampling: Seconds


class FamilyDefaults(Descriptor):
    """Defaults for all devices of one architecture; what a device's own descriptor says goes before them.

    `energy` is dynamic, per FLOP and dtype; `memory_energy` per byte moved between a tier and the arithmetic, the way
    across the chip included; `link_energy` per byte sent through a port whose fabric names none. `idle_fraction` is the
    share of the TDP drawn without work.
    """

    efficiency: Efficiency
    overhead: Overhead
    energy: dict[Dtype, JoulesPerFlop]
    memory_energy: dict[Tier, JoulesPerByte]
    link_energy: JoulesPerByte
    idle_fraction: Annotated[float, Field(ge=0, lt=1)]


def load_families() -> dict[str, FamilyDefaults]:
    """The defaults of every family by name. A family of the user's own folders (MOESIM_PATH) goes before ours.

    Raises:
        MoesimError: a file of families does not fit the schema.
    """
    return _load(os.environ.get("MOESIM_PATH", ""))


@lru_cache(maxsize=8)
def _load(search_path: str) -> dict[str, FamilyDefaults]:
    own = [Path(entry).expanduser() / file for entry in search_path.split(os.pathsep) if entry for file in _PLACES]
    families: dict[str, FamilyDefaults] = {}
    for path in (builtin_root() / _FILE, *(path for path in reversed(own) if path.is_file())):
        for name, tree in read_yaml(path).items.items():
            families[name] = validate(FamilyDefaults, _named(tree, name))
    return families


def _named(tree: Marked, name: str) -> Marked:
    return tree.with_items({"name": mark(name, where=tree.place)})


def family_defaults(family: str, *, device: str) -> FamilyDefaults:
    """The defaults of `family`.

    Raises:
        MoesimError: there is no such family; says which device asked.
    """
    families = load_families()
    if family not in families:
        fix = did_you_mean(family, families) or f"the families are {', '.join(families)}"
        key = ("library", "devices", device, "family")
        raise MoesimError(f"there is no family {family!r}, of device {device}", key=key, fix=fix)
    return families[family]
