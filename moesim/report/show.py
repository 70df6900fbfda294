"""What `moesim show` says about one descriptor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.report.describe import Row, rows, table
from moesim.spec.errors import MoesimError
from moesim.spec.kernels import calibrated_stacks
from moesim.spec.kinds import kinds_of_file
from moesim.spec.library import KINDS, SINGULAR, Kind, did_you_mean, is_path, list_descriptors
from moesim.spec.loading import Loaded, load_experiment, load_system, read_descriptor
from moesim.spec.marked import display

if TYPE_CHECKING:
    from rich.console import RenderableType

    from moesim.hardware.machine import Machine
    from moesim.spec.hardware import DeviceSpec
    from moesim.spec.model import ModelSpec


def kinds_of(reference: str, kind: Kind | None) -> list[Kind]:
    """The kinds that have a descriptor of this name; of a file the kind that its keys and folder tell.

    Raises:
        MoesimError: there is none.
    """
    if kind is not None:
        return [kind]
    if is_path(reference):
        path = Path(reference).expanduser()
        if not path.is_file():
            raise MoesimError(f"there is no file {reference}")
        told = kinds_of_file(path)
        if len(told) != 1:
            raise MoesimError(f"what {reference} describes is not clear", fix=f"give --kind ({', '.join(KINDS)})")
        return told
    found: list[Kind] = [each for each in KINDS if reference in list_descriptors(each)]
    if not found:
        everything = [name for each in KINDS for name in list_descriptors(each)]
        fix = did_you_mean(reference, everything) or "`moesim list` prints those that exist"
        if Path(reference).is_dir():
            fix = "the folder of that name holds no results"
        raise MoesimError(f"there is no descriptor {reference!r}", fix=fix)
    return found


def show(kind: Kind, reference: str, overrides: Sequence[str] = (), *, brief: bool = False) -> list[RenderableType]:
    """Tables and trees about one descriptor, for a rich console.

    Args:
        brief: for eyes, not for grep: a source that several numbers in a row share is printed once.

    Raises:
        MoesimError: it does not exist, is not valid, or is a machine that cannot be put together.
    """
    from rich.text import Text

    loaded = _load(kind, reference, overrides)
    document, source, spec = _document(kind, loaded), loaded.source, loaded.spec
    title = f"{document.get('name', reference)} ({SINGULAR[kind]})"
    about = str(document.get("description", ""))
    parts: list[RenderableType] = [
        Text(title, style="bold") + Text(f"  {display(source)}" if source else "", style="dim")
    ]
    parts += [Text(about)] if about else []
    parts += [table("", rows(document), brief=brief)]
    if kind == "devices":
        with loaded.placing(("library", "devices", spec.name)):
            defaults = family_rows(spec)
        measured = ", ".join(calibrated_stacks(spec.name)) or "none; runs take a relative's or the family's defaults"
        parts += [
            Text(f"measured kernels: {measured}"),
            Text(""),
            table(f"defaults of family {spec.family}, where nothing else is known", defaults, brief=brief),
        ]
    if kind == "models":
        parts += [Text(""), table("parameters", parameter_rows(spec), "against the published")]
    if kind in ("systems", "experiments"):
        from moesim.report.machine import machine_tree

        parts += [Text(""), machine_tree(_machine(kind, reference, overrides))]
    return [*parts, Text("")]


def draw(kinds: Sequence[Kind], reference: str, overrides: Sequence[str], target: Path) -> Path:
    """Draws the machine of a system or experiment and returns the file.

    Raises:
        MoesimError: it is neither, or the file cannot be written.
    """
    from moesim.report.machine import draw_machine

    with_machine = [kind for kind in kinds if kind in ("systems", "experiments")]
    if not with_machine:
        raise MoesimError(f"{reference} has no graph to draw", fix="--plot draws systems and experiments")
    return draw_machine(_machine(with_machine[0], reference, overrides), target)


def _load(kind: Kind, reference: str, overrides: Sequence[str]) -> Loaded[Any]:
    if kind != "experiments":
        return read_descriptor(kind, reference, overrides)
    return load_experiment(reference, overrides, check_traces=False)


def _document(kind: Kind, loaded: Loaded[Any]) -> dict[str, Any]:
    """What a descriptor's table shows; of an experiment the names of its model and engine instead of themselves."""
    if kind != "experiments":
        return loaded.document
    inlined = {key: getattr(loaded.spec, key).name for key in ("model", "engine")}
    return {key: value for key, value in loaded.document.items() if key != "library"} | inlined


def _machine(kind: Kind, reference: str, overrides: Sequence[str]) -> Machine:
    from moesim.hardware.machine import assemble

    if kind == "systems":
        with read_descriptor(kind, reference, overrides).placing(("machine",)):
            return assemble(*load_system(reference, overrides))
    experiment = load_experiment(reference, overrides, check_traces=False)
    with experiment.placing():
        return assemble(experiment.spec.machine, experiment.spec.library)


def parameter_rows(model: ModelSpec) -> list[Row]:
    """Parameters as counted and as published, in 1e9."""
    from moesim.model.parameters import parameters

    count, published = parameters(model), model.published
    lines = []
    for name, counted, said in (("total", count.total, published.total), ("active", count.active, published.active)):
        compared = f"{said / 1e9:.4g}e9, deviation {100 * (counted / said - 1):+.2f} %" if said else "not published"
        lines.append(Row(name, f"{counted / 1e9:.4g}e9", compared))
    return [*lines, Row("why", "", published.deviation)] if published.deviation else lines


def family_rows(device: DeviceSpec) -> list[Row]:
    """What the device's family stands in for: efficiencies and overheads of kernels, and the energies not given."""
    from moesim.spec.families import family_defaults

    family = family_defaults(device.family, device=device.name)
    lines = [(f"efficiency.{name}", f"{value:.2f}") for name, value in family.efficiency]
    lines += [(f"overhead.{name}", f"{value * 1e6:.3g} us") for name, value in family.overhead]
    lines += [
        (f"energy.{dtype}", f"{value * 1e12:.3g} pJ/FLOP")
        for dtype, value in family.energy.items()
        if dtype not in device.energy and getattr(device.compute, dtype) is not None
    ]
    silent = [tier.tier for tier in device.memory if tier.energy is None]
    lines += [
        (f"memory_energy.{tier}", f"{family.memory_energy[tier] / 8 * 1e12:.3g} pJ/bit")
        for tier in silent
        if tier in family.memory_energy
    ]
    lines.append(("link_energy", f"{family.link_energy / 8 * 1e12:.3g} pJ/bit"))
    if device.power.idle is None and device.power.tdp is not None:
        lines.append(("idle_fraction", f"{family.idle_fraction:.3g} of {device.power.tdp:g} W"))
    return [Row(name, value, _family_source(family.sources, name), "estimated") for name, value in lines]


def _family_source(sources: dict[str, str], name: str) -> str:
    return sources.get(name) or sources.get(name.split(".")[0], "")
