"""Fitted coefficients as descriptors: one YAML file per device, the same bytes for the same fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moesim.calibrate.fits import Fitted
from moesim.calibrate.measured import CollectiveGroup, ExpertGroup, Target

#: Units in which coefficients are written; those without one are plain numbers.
_MICROSECONDS = ("launch", "round", "ramp", "staging", "expert", "hop", "fill", "copy_time", "token_time")
_RATES = ("message", "copy_rate", "token_rate")

_SOURCE = (
    "fitted by moesim.calibrate.collectives to half of the shapes that the AIConfigurator database (NVIDIA, Apache-2.0)"
    " measured on this device; errors are those on the other half"
)


@dataclass(frozen=True)
class Calibration:
    """Everything fitted for one device. family, port: of its descriptor."""

    target: Target
    family: str
    port: float
    collectives: Sequence[tuple[CollectiveGroup, Fitted]]
    experts: Sequence[tuple[ExpertGroup, Fitted]]


def text(calibration: Calibration) -> str:
    """The file's content."""
    target = calibration.target
    lines = [
        "# Coefficients of communication libraries, written by `python -m moesim.calibrate.collectives`.",
        "# Forms: moesim/fabric/protocol.py and moesim/fabric/expert_protocol.py. residuals: measured over predicted",
        "# time at the 10th, 25th, 50th, 75th and 90th percentile, of points that the fit did not see.",
        f"name: {target.name}",
        f"description: Communication libraries on {', '.join(target.devices)}",
        f"devices: [{', '.join(target.devices)}]",
        f"family: {calibration.family}",
        f"link: {target.link}",
        f"port: {_number(calibration.port / 1e9)} GB/s",
        *([f"nic: {_number(target.nic / 1e9)} GB/s"] if target.nic else []),
        f"units: {target.units}",
        "sources:",
    ]
    if calibration.collectives:
        lines += [f'  collectives: "{_SOURCE}"']
    if calibration.experts:
        lines += [f'  experts: "{_SOURCE}"']
    if calibration.collectives:
        lines += ["collectives:", *(_entry(_collective(group), fitted) for group, fitted in calibration.collectives)]
    if calibration.experts:
        lines += ["experts:", *(_entry(_expert(group), fitted) for group, fitted in calibration.experts)]
    return "\n".join(lines) + "\n"


def _collective(group: CollectiveGroup) -> dict[str, str]:
    ranks = sorted({int(each) for each in group.ranks})
    return {
        "library": group.library,
        "operation": group.operation,
        "element": str(group.element),
        "ranks": f"[{', '.join(map(str, ranks))}]",
    }


def _expert(group: ExpertGroup) -> dict[str, str]:
    nodes = sorted({int(each) for each in group.nodes})
    return {
        "library": group.library,
        "mode": group.mode,
        "direction": group.direction,
        "nodes": f"[{', '.join(map(str, nodes))}]",
    }


def _entry(head: dict[str, str], fitted: Fitted) -> str:
    """A list item of three lines: what it is, its coefficients, how good they are."""
    residuals = ", ".join(
        f"{regime}: [{', '.join(map(_number, values))}]" for regime, values in fitted.residuals.items()
    )  # fmt: skip
    record = {
        "fitted": str(fitted.fitted),
        "rejected": str(fitted.rejected),
        "scored": str(fitted.scored),
        "median": f"{fitted.errors[0]:.1f}",
        "p90": f"{fitted.errors[1]:.1f}",
        "covered": f"{fitted.covered:.2f}",
        "residuals": f"{{{residuals}}}",
    }
    values = {name: quantity(name, value) for name, value in fitted.values.items()}
    return f"  - {{{_pairs(head)},\n     {_pairs(values)},\n     record: {{{_pairs(record)}}}}}"


def quantity(name: str, value: float) -> str:
    """A coefficient with its unit."""
    if name in _MICROSECONDS:
        return f"{_number(value * 1e6)} us"
    return f"{_number(value / 1e9)} GB/s" if name in _RATES else _number(value)


def _pairs(values: dict[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def _number(value: float) -> str:
    return f"{value:.4g}" if value < 1e4 else f"{value:.0f}"
