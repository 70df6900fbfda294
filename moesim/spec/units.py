"""Units are parsed once, here; inside moesim every number is SI (seconds, bytes, FLOP, joules, watts, dollars).

`GB` is 1e9 bytes and `GiB` 2**30. A quantity must carry its unit: a bare number is an error, because "80" is a guess.
What no machine or run can have (a latency of hours, an exabyte of memory) is an error too: a wrong prefix, most likely.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

if TYPE_CHECKING:
    from pint import UnitRegistry

_DEFINITIONS = """
    nano- = 1e-9 = n-; micro- = 1e-6 = u- = µ- = μ-; milli- = 1e-3 = m-; pico- = 1e-12 = p-; femto- = 1e-15 = f-
    kilo- = 1e3 = k-; mega- = 1e6 = M-; giga- = 1e9 = G-; tera- = 1e12 = T-; peta- = 1e15 = P-
    kibi- = 1024 = Ki-; mebi- = 1048576 = Mi-; gibi- = 1073741824 = Gi-; tebi- = 1099511627776 = Ti-
    second = [time] = s; minute = 60 * second = min; hour = 3600 * second = h; day = 86400 * second = d
    byte = [information] = B; bit = byte / 8 = b
    FLOP = [computation]; OP = FLOP
    joule = [energy] = J; watt = joule / second = W
    hertz = 1 / second = Hz
    dollar = [money] = USD
    meter = [length] = m
    request = []; token = []
"""

#: One number, then a unit: pint alone would read "GB" as 1 GB and "80 80 GB" as 6400 GB.
_FORM = re.compile(r"\s*(\$\s*)?[+-]?(\d[\d_]*\.?\d*|\.\d+|nan|inf)([eE][+-]?\d+)?[^\d.]*")


@lru_cache(maxsize=1)
def _registry() -> UnitRegistry[Any]:
    import pint

    registry: UnitRegistry[Any] = pint.UnitRegistry(None, cache_folder=None)
    for line in _DEFINITIONS.replace(";", "\n").splitlines():
        if line.strip():
            registry.define(line.strip())
    return registry


@lru_cache(maxsize=4096)
def parse(text: str, unit: str) -> float:
    """The value of `text` ("3.35 TB/s") in SI `unit` ("byte/second").

    Raises:
        ValueError: the text is no quantity, its unit is unknown, or its dimension is another one.
    """
    import pint

    if not _FORM.fullmatch(text):
        raise ValueError(f"{text!r} is not a quantity, expected a number and a unit like {unit}")
    try:
        quantity: Any = _registry().Quantity(text.replace("$", "dollar"))
        value = float(quantity.to(unit).magnitude)
    except pint.UndefinedUnitError as error:
        names = [error.unit_names] if isinstance(error.unit_names, str) else error.unit_names
        raise ValueError(f"unknown unit {', '.join(names)} in {text!r}") from None
    except pint.DimensionalityError:
        raise ValueError(f"{text!r} is not a quantity in {unit}") from None
    except Exception:
        raise ValueError(f"{text!r} is not a quantity, expected a number and a unit like {unit}") from None
    return value


def _validator(unit: str, example: str, most: str, least: str | None = None) -> BeforeValidator:
    """From text to SI, within the limits given; without `least`, zero is allowed."""
    limit = f"{'zero or more' if least is None else f'at least {least}'} and at most {most}"

    def convert(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"expected a quantity like {example!r}, got {value!r}")
        if not isinstance(value, str):
            if value == 0 and least is None:
                return 0.0
            raise ValueError(f"{value!r} has no unit, write it like {example!r}")
        try:
            number = parse(value, unit)
        except ValueError as error:
            raise ValueError(f"{error}; write it like {example!r}") from None
        lowest = 0.0 if least is None else parse(least, unit)
        if not lowest <= number <= parse(most, unit):
            raise ValueError(f"{value!r} must be {limit}")
        return number

    return BeforeValidator(convert)


def converter(quantity: Any) -> Callable[[object], float]:
    """What turns text into one of the quantities below; it raises ValueError."""
    convert: Callable[[object], float] = quantity.__metadata__[0].func
    return convert


Bytes = Annotated[float, _validator("byte", "80 GB", "1000 PB", "1 B")]
BytesPerSecond = Annotated[float, _validator("byte/second", "3.35 TB/s", "1000 PB/s", "1 B/s")]
FlopPerSecond = Annotated[float, _validator("FLOP/second", "989 TFLOP/s", "1e6 PFLOP/s", "1 FLOP/s")]
#: Latencies and overheads.
Seconds = Annotated[float, _validator("second", "2 us", "60 s")]
#: Simulated time is an integer number of picoseconds, which 64 bits hold for 106 days.
Duration = Annotated[float, _validator("second", "1 s", "90 day", "1 ps")]
#: A time between events, which may be none.
Pause = Annotated[float, _validator("second", "1 s", "90 day")]
Hertz = Annotated[float, _validator("1/second", "1.98 GHz", "1000 GHz", "1 Hz")]
Rate = Annotated[float, _validator("1/second", "10/s", "1e9/s", "1/day")]
#: Of a stretch of time in which nothing may come at all.
IdleRate = Annotated[float, _validator("1/second", "10/s", "1e9/s")]
Watts = Annotated[float, _validator("watt", "700 W", "1000 MW")]
PositiveWatts = Annotated[float, _validator("watt", "700 W", "1000 MW", "1 mW")]
Metres = Annotated[float, _validator("meter", "5 mm", "1 m", "1 nm")]
JoulesPerByte = Annotated[float, _validator("joule/byte", "3.6 pJ/bit", "1 J/B")]
JoulesPerFlop = Annotated[float, _validator("joule/FLOP", "0.6 pJ/FLOP", "1 J/FLOP")]
DollarsPerSecond = Annotated[float, _validator("dollar/second", "4.63 $/h", "1e6 $/h")]
