"""Metrics and differences of them as text, in units in which they read well."""

from __future__ import annotations

import math
from typing import NamedTuple

from moesim.report.names import unit
from moesim.report.text import significant

_DECIMAL = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))
#: Metrics that `unit` does not know, by the beginning of their names; the first that fits.
_MORE_UNITS = {
    "memory.kv_mean": "share", "memory": "B", "network.distance": "", "network": "s", "utilisation": "share",
    "bottleneck.shares": "share", "bottleneck.busy": "share", "transfer.bytes": "B", "transfer.time": "s",
    "training.step_time": "s", "training.after_passes": "s", "training.bubble": "share",
    "training.bubble_formula": "share", "machine.power": "W", "experts.copied_bytes": "B", "experts.hit_rate": "share",
    "experts.on_host": "share", "experts.fetched_ahead": "share", "requests.prefix_hit_rate": "share",
}  # fmt: skip


class Scale(NamedTuple):
    """A unit, and how many of it make one of the metric's."""

    factor: float
    unit: str

    def number(self, value: float, *, sign: bool = False) -> str:
        """Three significant digits; '+' in front of what grew, where the sign matters."""
        if not math.isfinite(value):
            return "–"
        size = abs(value) * self.factor
        text = significant(size, 3 if size >= 0.01 else 2) if size >= 1e-6 or not size else f"{size:.1e}"
        if size < 1000 and not self.unit and size == int(size):
            text = f"{size:.0f}"  # a count
        mark = "-" if value < 0 and text != "0" else "+" if sign and value > 0 else ""
        return f"{mark}{text}"

    def text(self, value: float, *, sign: bool = False) -> str:
        """The number with its unit."""
        number = self.number(value, sign=sign)
        return number if number == "–" else f"{number} {self.unit}".rstrip()


#: Of metrics that have one scale, whatever their size.
_FIXED = {
    "machine.area": Scale(1e6, "mm²"), "machine.price": Scale(3600.0, "$/h"), "throughput": Scale(1.0, "/s"),
    "goodput.requests": Scale(1.0, "/s"), "training.tokens_per_second": Scale(1.0, "/s"),
}  # fmt: skip


def scale_of(metric: str, size: float) -> Scale:
    """The unit for values of a metric that are as large as `size`."""
    fixed = next((each for name, each in _FIXED.items() if f"{metric}.".startswith(f"{name}.")), None)
    if fixed is not None:
        return fixed
    found = next((each for name, each in _MORE_UNITS.items() if f"{metric}.".startswith(f"{name}.")), "")
    kind = unit(metric) or found
    if kind == "share":
        return Scale(100.0, "%")
    if kind not in ("s", "J", "W", "B"):
        large = abs(size) >= 1e7
        return Scale(1e-6 if large else 1.0, "M" if large else "$" if kind == "$" else "")
    rounded = float(f"{abs(size):.2e}") if math.isfinite(size) else 0.0
    largest = 1.0 if kind == "s" else 1e12
    known = [(factor, prefix) for factor, prefix in _DECIMAL if factor <= largest]
    factor, prefix = next((each for each in known if rounded >= each[0]), known[-1] if rounded else (1.0, ""))
    return Scale(1.0 / factor, prefix + kind)


def share(value: float, *, sign: bool = True) -> str:
    """'-12.3 %', '+0.4 %'; '×8.3' for what grew that much."""
    if not math.isfinite(value):
        return "–"
    if value >= 10:
        return f"×{significant(1 + value)}"
    size = 100 * abs(value)
    text = f"{size:,.0f}" if size >= 100 else f"{size:.1f}" if size >= 1 else f"{size:.2f}" if size >= 0.005 else "0"
    mark = "" if float(text.replace(",", "")) == 0 else "-" if value < 0 else "+" if sign else ""
    return f"{mark}{text} %"
