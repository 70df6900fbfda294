"""Fitted kernels as descriptors: one YAML file per device and software stack, the same bytes for the same fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moesim.calibrate.fitting import Parameter
from moesim.calibrate.kernels.fits import FittedKernel
from moesim.calibrate.kernels.groups import KernelGroup

#: Where measurements come from, by what stands before the colon of a table's `source`.
ORIGINS = {
    "aic": "AIConfigurator database (NVIDIA, Apache-2.0)",
    "vidur": "Vidur (Microsoft, MIT)",
    "llmservingsim": "LLMServingSim (KAIST, MIT)",
    "llmservingsim-v0": "LLMServingSim (KAIST, MIT)",
    "infersim": "InferSim (Alibaba, Apache-2.0)",
    "splitwise-sim": "splitwise-sim (Microsoft, MIT)",
    "aiter": "AITER (AMD, MIT)",
    "llmcompass": "LLMCompass (Princeton, BSD-3-Clause)",
    "moesim": "moesim calibrate run",
}

#: Upper bound of a search up to which a term is a time: no overhead takes longer, shares and counts go beyond.
LONGEST = 0.1


@dataclass(frozen=True)
class FittedStack:
    """Everything fitted for one device and software stack. family: the device's. origins: keys of `ORIGINS`, or what
    else the tables name."""

    device: str
    family: str
    stack: str
    origins: Sequence[str]
    kernels: Sequence[tuple[KernelGroup, FittedKernel]]


def text(fitted: FittedStack) -> str:
    """The file's content."""
    origins = ", ".join(dict.fromkeys(ORIGINS.get(each, each) for each in fitted.origins))
    source = f"fitted to half of the shapes measured by {origins}; errors are those on the other half"
    lines = [
        "# Terms of kernels, written by `moesim calibrate fit`. Forms: moesim/kernels/forms. residuals: measured over",
        "# predicted time at the 10th, 25th, 50th, 75th and 90th percentile, of points that the fit did not see.",
        f"name: {fitted.stack}",
        f"description: Kernels of {fitted.stack} on {fitted.device}",
        f"devices: [{fitted.device}]",
        f"family: {fitted.family}",
        f"stack: {fitted.stack}",
        "sources:",
        f'  kernels: "{source}"',
        "kernels:",
    ]
    lines += [_entry(group, fit) for group, fit in sorted(fitted.kernels, key=lambda pair: pair[0].name)]
    return "\n".join(lines) + "\n"


def _entry(group: KernelGroup, fit: FittedKernel) -> str:
    """A list item of four lines: what it is, its terms, the measured range, how good it is."""
    head = {"kernel": group.kernel, "format": group.format}
    if group.implementation:
        head["implementation"] = f'"{group.implementation}"'
    searched = {each.name: each for each in group.parameters}
    terms = {name: quantity(searched.get(name), value) for name, value in fit.values.items()}
    sizes = {name: f"[{_number(column.min())}, {_number(column.max())}]" for name, column in group.sizes.items()}
    residuals = {name: f"[{', '.join(map(_number, values))}]" for name, values in fit.residuals.items()}
    record = {
        "fitted": str(fit.fitted),
        "rejected": str(fit.rejected),
        "scored": str(fit.scored),
        "median": f"{fit.errors[0]:.1f}",
        "p90": f"{fit.errors[1]:.1f}",
        "rank": f"{fit.rank:.4f}",
        "covered": f"{fit.covered:.2f}",
        "residuals": f"{{{_pairs(residuals)}}}",
    }
    parts = [
        _pairs(head),
        f"terms: {{{_pairs(terms)}}}",
        f"range: {{{_pairs(sizes)}}}",
        f"record: {{{_pairs(record)}}}",
    ]
    return "  - {" + ",\n     ".join(parts) + "}"


def quantity(parameter: Parameter | None, value: float) -> str:
    """A term with its unit; shares, exponents and counts have none, nor has a constant of the form (no parameter)."""
    return f"{_number(value * 1e6)} us" if parameter is not None and parameter.high <= LONGEST else _number(value)


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def _number(value: float) -> str:
    """Four significant digits, whole numbers whole; never 1e-05, which YAML reads as text."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    short = f"{value:.4g}"
    return f"{float(short):.12f}".rstrip("0") if "e-" in short else f"{value:.0f}" if "e" in short else short
