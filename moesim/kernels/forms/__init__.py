"""Physical rooflines with a handful of fitted terms, one form per kernel class, registered by name.

A form is a frozen dataclass whose fields are its terms (seconds, shares, counts; SI). It prices columns of a shape on a
device's rates. Named in calibrations (hardware/calibrations/kernels) by `kernel`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
F = TypeVar("F", bound="type[Form]")


class Rates(NamedTuple):
    """What a datasheet says of a device: FLOP per second in the call's dtype, bytes per second of the memory that holds
    weights and KV cache, SMs (CUs, cores)."""

    compute: float
    memory: float
    units: float


class Times(NamedTuple):
    """Seconds of calls: in all, and what arithmetic and memory alone would take. seconds >= max(compute, memory)."""

    seconds: FloatArray
    compute: FloatArray
    memory: FloatArray


class Form(Protocol):
    """One kernel class's time as a function of a shape, monotone in every size, never above the device's peaks."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def times(self, shape: Any, rates: Rates) -> Times: ...


FORMS: dict[str, type[Form]] = {}


def register(name: str) -> Any:
    """Class decorator: the form of the kernels of this name."""

    def add(form: F) -> F:
        FORMS[name] = form
        return form

    return add


def term_names(form: type[Form]) -> tuple[str, ...]:
    return tuple(each.name for each in fields(form))
