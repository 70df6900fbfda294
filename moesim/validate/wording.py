"""Outcomes in words: values with their units, errors, verdicts. Shared by the console and the page."""

from __future__ import annotations

import math

from moesim.report.text import percent, short_quantity, short_time
from moesim.validate.judge import Outcome, Tally
from moesim.validate.recorded import ROUNDING

#: Short forms of the units in which kinds answer.
_SYMBOL = {"byte": "B", "byte/second": "B/s", "joule": "J", "watt": "W", "FLOP": "FLOP", "1/second": "/s"}

HEADINGS = ("case", "known", "simulated", "error", "tolerance", "status", "verdict")


def row(outcome: Outcome) -> tuple[str, ...]:
    """The cells of HEADINGS."""
    case = outcome.case
    bound = {"equal": "", "at least": "≥ ", "at most": "≤ ", "above": "> ", "below": "< "}[case.compare]
    return (
        case.name,
        bound + known(outcome),
        value(outcome.simulated, outcome.unit),
        error(outcome.error),
        "–" if case.tolerance is None else share(case.tolerance),
        case.status + (", recorded" if outcome.recorded else ""),
        verdict(outcome),
    )


def known(outcome: Outcome) -> str:
    """The known answer; of a statistic how many values it is over."""
    if outcome.reference is None and outcome.rows > 1:
        return f"{outcome.rows:,} values"
    if isinstance(outcome.case.value, tuple):
        return " to ".join(map(str, outcome.case.value))
    return value(outcome.reference, outcome.unit)


def value(number: float | None, unit: str) -> str:
    """A value with its unit, a dash where there is none; plain numbers to six digits."""
    if number is None or not math.isfinite(number):
        return "–"
    if unit == "second":
        return short_time(number)
    if unit:
        return short_quantity(number, _SYMBOL.get(unit, unit))
    if number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}"
    return f"{number:.6g}"


def error(relative: float | None) -> str:
    """'+4.3 %'; errors below a thousandth of a percent as powers of ten."""
    if relative is None or math.isnan(relative):
        return "–"
    if abs(relative) < ROUNDING:
        return "0"
    if abs(relative) < 1e-5:
        return f"{relative:+.0e}"
    return f"{100 * relative:+.2g} %" if abs(relative) < 0.1 else f"{100 * relative:+.0f} %"


def share(tolerance: float) -> str:
    """'6 %', '1e-06', 'exact'."""
    if tolerance == 0:
        return "exact"
    return f"{tolerance:.0e}" if tolerance < 1e-4 else f"{100 * tolerance:.3g} %"


def verdict(outcome: Outcome) -> str:
    """Met or missed, for predictions; what else it is otherwise."""
    if outcome.error is None:
        return "no answer"
    if outcome.meets is None:
        return "reported"
    if outcome.case.status != "predicted":
        return "not counted"
    return "met" if outcome.meets else "MISSED"


def summary(name: str, counted: Tally) -> str:
    """One line about a suite."""
    parts = [f"{counted.met} of {counted.predictions} predictions meet their tolerance"] if counted.predictions else []
    if not math.isnan(counted.median):
        parts.append(f"absolute error median {_size(counted.median)}, worst {_size(counted.worst)}")
    parts += [
        f"{number} {what}"
        for number, what in (
            (counted.fitted, "fitted and not counted"),
            (counted.given, "given by the inputs and not counted"),
            (counted.reported, "reported only"),
            (counted.missing, "without an answer"),
        )
        if number
    ]
    return f"{name}: " + " · ".join(parts)


def _size(absolute: float) -> str:
    return f"{absolute:.0e}" if 0 < absolute < 1e-4 else percent(absolute, 1)
