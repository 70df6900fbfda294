"""Numbers as a reader wants them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable


def significant(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits, without exponent, with thousands separators."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{places}f}"


def short_time(seconds: float | None) -> str:
    """'21.3 ms', '1.25 s': three significant digits, a dash where there is no value."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds >= 0.9995 or seconds <= 0:
        return f"{significant(seconds)} s"
    factor, unit = (1e3, "ms") if seconds >= 0.9995e-3 else (1e6, "µs")
    return f"{significant(seconds * factor)} {unit}"


def ends(value: float, low: float, high: float, form: Callable[[float], str]) -> str:
    """'59.1–1,080': an interval in the unit in which `form` shows the value, which is not zero; empty where both ends
    read the same."""
    shown = float(re.sub(r"[^\d.]", "", form(value)))
    if shown == 0:
        return f"{form(low)}–{form(high)}"
    scale = 10.0 ** round(math.log10(abs(shown / value)))
    first, last = significant(low * scale), significant(high * scale)
    return "" if first == last else f"{first}–{last}"


_PREFIXES = (
    (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (0.0, "µ"),
)  # fmt: skip
_BINARY = ((50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki"))


def short_quantity(value: float | None, unit: str) -> str:
    """'1.23 kJ', '31.0 GB': three significant digits with a decimal prefix, a dash where there is no value."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return f"0 {unit}"
    size = float(f"{abs(value):.2e}")
    factor, prefix = next((factor, prefix) for factor, prefix in _PREFIXES if size >= factor)
    return f"{significant(value / (factor or 1e-6))} {prefix}{unit}"


def memory_size(size: float | None) -> str:
    """'24.0 GiB': three significant digits with a binary prefix, as drivers report memory; a dash for no value."""
    if size is None or not math.isfinite(size):
        return "–"
    factor, prefix = next(((2.0**power, name) for power, name in _BINARY if size >= 2.0**power), (1.0, ""))
    return f"{significant(size / factor)} {prefix}B"


def percent(share: float | None, decimals: int = 1) -> str:
    """'7.3 %', '100 %' (of all, not of nearly all): a decimal only where it says something, a dash for no value."""
    if share is None or not math.isfinite(share):
        return "–"
    text = f"{100 * share:.{decimals}f}"
    if share < 1 and float(text) == 100:
        return "> 99.9 %" if decimals else "> 99 %"
    return f"{text.removesuffix('.0')} %"


def count(number: int, noun: str) -> str:
    """'1 step', '4,412 steps'."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
