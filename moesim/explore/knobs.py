"""The numbers that a run depends on and that could be others: of devices, fabrics, the machine, the engine, the load;
and what measured kernels and libraries take.

A knob is turned by a factor, everything else staying as it is. The terms of a device's measured kernels are shares of
its datasheet's rates, so that they follow these rates like the kernels of a device that nobody measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from moesim.serving.build import Deployment
from moesim.serving.scales import COLLECTIVE, Scales
from moesim.spec.experiment import ExperimentSpec
from moesim.uncertainty.sources import error_sources

#: Where a number is: keys of mappings, fields, positions in lists.
Path = tuple[str | int, ...]

#: Fields of which less is better; of all others, more.
LESS = frozenset((
    "latency", "hop_latency", "die_latency", "overhead", "energy", "idle", "tdp", "price", "chassis_power",
    "oversubscription", "step_overhead", "sequence_overhead", "request_overhead", "exposed_overhead",
    "launch_overhead", "frontend_latency", "pitch", "defects",
))  # fmt: skip
#: Fields that are no quantities of the hardware or the engine: forms, seeds and counts of parts that make another
#: machine, for which there is `moesim whatif` and `moesim sweep`.
_SHAPES = frozenset((
    "seed", "ports", "shape", "dimensions", "holes", "arity", "roots", "leaf", "spines", "pod", "planes", "hosts",
    "routers", "global_links", "switches", "dies", "rows", "nodes", "graph_sizes", "scales", "copy_engines",
    "shared_by", "micro_batches",
))  # fmt: skip
#: The largest value of shares.
_AT_MOST = {"efficiency": 1.0, "memory_utilization": 1.0, "share": 1.0, "defects": 0.99}


@dataclass(frozen=True)
class Knob:
    """A number that can be turned.

    name: dotted, as `--set` takes it, or of what was measured: `kernels.DEVICE.KERNEL`. label: the same for people.
    group: what kind of resource it belongs to. less: whether less of it is better. apply: the experiment and its
    scales with the number times a factor, and the factor that it became (whole numbers are rounded, shares end at 1).
    """

    name: str
    label: str
    group: str
    less: bool
    apply: Callable[[ExperimentSpec, Scales, float], tuple[ExperimentSpec, Scales, float]]


def knobs(spec: ExperimentSpec, deployments: Sequence[Deployment]) -> list[Knob]:
    """Every knob of an experiment that has been run, in the order of its parts. A number that is 0 cannot be turned.
    Those of kernels and libraries are known where it has been deployed."""
    return [*_devices(spec), *_fabrics(spec), *_machine(spec), *_engine(spec), *_measured(spec, deployments)]


def _devices(spec: ExperimentSpec) -> Iterator[Knob]:
    for name, device in spec.library.devices.items():
        root = ("library", "devices", name)
        for path in _numbers(device, said=True):
            label, group = f"{name} {_called(device, path)}", _device_group(path)
            yield _knob(spec, (*root, *path), label, group)


def _fabrics(spec: ExperimentSpec) -> Iterator[Knob]:
    for name, fabric in spec.library.fabrics.items():
        for path in _numbers(fabric, said=True):
            slow = any(word in str(path[-1]) for word in ("latency", "overhead"))
            group = "network latency" if slow else "energy" if path[-1] == "energy" else "network bandwidth"
            yield _knob(spec, ("library", "fabrics", name, *path), f"{name} {_words(path)}", group)


def _owned(spec: ExperimentSpec, key: str) -> Iterator[tuple[Path, Any]]:
    """Where the experiment's machine or engine is: its own, that of each pool that has one."""
    pools = [] if spec.pools is None else [("prefill", spec.pools.prefill), ("decode", spec.pools.decode)]
    own = [(("pools", name, key), getattr(pool, key)) for name, pool in pools if getattr(pool, key) is not None]
    if len(own) < 2:
        yield (key,), getattr(spec, key)
    yield from own


def _machine(spec: ExperimentSpec) -> Iterator[Knob]:
    for root, machine in _owned(spec, "machine"):
        for path in _numbers(machine):
            if path[0] in ("nic", "chassis_power", "price"):
                group = "network bandwidth" if path[0] == "nic" else str(path[0]).replace("_", " ")
                yield _knob(spec, (*root, *path), f"{machine.name} {_words(path)}", group)


def _engine(spec: ExperimentSpec) -> Iterator[Knob]:
    for root, engine in _owned(spec, "engine"):
        whose = f"{root[1]} engine" if len(root) > 1 else "engine"
        for path in _numbers(engine):
            overhead = str(path[-1]) in LESS
            group = "host" if overhead else "memory capacity" if "memory" in str(path[0]) else "batching"
            yield _knob(spec, (*root, *path), f"{whose} {_words(path)}", group)
    for key in ("rate", "concurrency", "scale"):
        if getattr(spec.requests, key, None) is not None:
            yield _knob(spec, ("requests", key), f"load: {key}", "load")


def _measured(spec: ExperimentSpec, deployments: Sequence[Deployment]) -> Iterator[Knob]:
    """Times of kernels and collectives as a whole, and what of them does not depend on sizes; what several pools have
    in common once."""
    devices: dict[str, None] = {}
    for device, kernel in dict.fromkeys(pair for each in deployments for pair in each.kernels.priced()):
        devices.setdefault(device)
        yield _scale(f"kernels.{device}.{kernel}", f"{device} {kernel.replace('_', ' ')} time", "kernels",
                     "kernels", (device, kernel))  # fmt: skip
    for device in devices:
        yield _scale(f"launches.{device}", f"{device} kernel launches", "launches", "launches", device)
    sources = error_sources(spec, deployments) if deployments else []
    drawn = dict.fromkeys(source.name for source in sources if source.what == "collectives")
    for name in drawn:
        label = f"{name.replace('_', '-')} time"
        yield _scale(f"collectives.{name}", label, "collectives", "collectives", name)
    if drawn:
        yield _scale("launches.collectives", "launches of collectives", "network latency", "launches", COLLECTIVE)


def _scale(name: str, label: str, group: str, field: str, key: Any) -> Knob:
    def apply(spec: ExperimentSpec, scales: Scales, factor: float) -> tuple[ExperimentSpec, Scales, float]:
        known: Mapping[Any, float] = getattr(scales, field)
        changed: Any = {field: {**known, key: known.get(key, 1.0) * factor}}
        return spec, replace(scales, **changed), factor

    return Knob(name, label, group, True, apply)


def _knob(spec: ExperimentSpec, path: Path, label: str, group: str) -> Knob:
    name = ".".join(f'"{step}"' if "." in str(step) else str(step) for step in path)
    field = str(path[-1])

    def apply(spec: ExperimentSpec, scales: Scales, factor: float) -> tuple[ExperimentSpec, Scales, float]:
        before = value_at(spec, path)
        after = min(before * factor, _AT_MOST.get(field, math.inf))
        if isinstance(before, int):
            after = max(1, round(after)) if round(after) != before else max(1, before + (1 if factor > 1 else -1))
        return with_value(spec, path, after), scales, after / before

    less = field in LESS or "energy" in path or group == "load"
    return Knob(name, label, group, less, apply)


def value_at(spec: Any, path: Path) -> Any:
    for step in path:
        spec = getattr(spec, str(step)) if isinstance(spec, BaseModel) else spec[step]
    return spec


def with_value(spec: Any, path: Path, value: Any) -> Any:
    """A copy of a nested specification with another value at `path`."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(spec, BaseModel):
        return spec.model_copy(update={str(step): with_value(getattr(spec, str(step)), rest, value)})
    if isinstance(spec, dict):
        return {**spec, step: with_value(spec[step], rest, value)}
    at = int(step)
    return (*spec[:at], with_value(spec[at], rest, value), *spec[at + 1 :])


def _numbers(spec: Any, above: Path = (), *, said: bool = False) -> Iterator[Path]:
    """Paths of all numbers that are not 0; where only those are wanted that somebody `said`, without defaults."""
    if isinstance(spec, bool):
        return
    if isinstance(spec, (int, float)):
        if spec:
            yield above
        return
    if isinstance(spec, BaseModel):
        fields = [name for name in type(spec).model_fields if not said or name in spec.model_fields_set]
        inner: Any = [(name, getattr(spec, name)) for name in fields if name not in _SHAPES]
    elif isinstance(spec, dict):
        inner = spec.items()
    else:
        inner = enumerate(spec) if isinstance(spec, tuple) else ()
    for step, value in inner:
        yield from _numbers(value, (*above, step), said=said)


def _called(device: Any, path: Path) -> str:
    """'bf16 rate', 'hbm bandwidth', 'nvlink4 link'."""
    if path[0] == "memory":
        return f"{device.memory[path[1]].tier} {_words(path[2:])}"
    ends = {"compute": "" if path[-1] in ("units", "clock") else " rate", "links": " link", "energy": " energy"}
    if path[0] in ends:
        return f"{path[-1]}{ends[str(path[0])]}"
    return _words(path)


def _device_group(path: Path) -> str:
    kinds = {"compute": "compute", "links": "network bandwidth", "price": "price"}
    if path[0] == "memory":
        return {"capacity": "memory capacity", "energy": "energy"}.get(str(path[-1]), "memory bandwidth")
    return kinds.get(str(path[0]), "energy")


def _words(path: Path) -> str:
    return " ".join(str(step) for step in path).replace("_", " ")
