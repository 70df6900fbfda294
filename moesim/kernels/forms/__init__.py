"""Physical rooflines with a handful of fitted terms, one form per kernel class, registered by name.

A form is a frozen dataclass whose fields are its terms (seconds, shares, counts; SI). It prices columns of a shape on a
device's rates. Named in calibrations (hardware/calibrations/kernels) by `kernel`.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from moesim.spec.errors import MoesimError
from moesim.spec.library import did_you_mean

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


def larger(one: Any, other: Any) -> Any:
    """The larger of two, element by element. Numbers, which the hot path prices one by one, take a tenth of the time of
    arrays of one; so do `smaller` and `ceiling`."""
    if type(one) is float and type(other) is float:
        return one if one > other else other
    return np.maximum(one, other)


def smaller(one: Any, other: Any) -> Any:
    if type(one) is float and type(other) is float:
        return one if one < other else other
    return np.minimum(one, other)


def ceiling(value: Any) -> Any:
    return float(math.ceil(value)) if isinstance(value, float) else np.ceil(value)


def together(parts: Sequence[Times]) -> Times:
    """Kernels that run one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Times(*(np.add.reduce(np.broadcast_arrays(*column)) for column in zip(*parts, strict=True)))


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


def find_form(kernel: str) -> type[Form]:
    """The form of the kernels of this name; each module of this package registers some.

    Raises:
        MoesimError: there is none.
    """
    if kernel not in FORMS:
        for module in pkgutil.iter_modules(__path__):
            importlib.import_module(f"{__name__}.{module.name}")
    if kernel not in FORMS:
        fix = did_you_mean(kernel, FORMS) or f"choose one of {', '.join(FORMS)}"
        raise MoesimError(f"no form prices kernels called {kernel!r}", fix=fix)
    return FORMS[kernel]


def term_names(form: type[Form]) -> tuple[str, ...]:
    return tuple(each.name for each in fields(form))


def make_form(kernel: str, terms: Mapping[str, float]) -> Form:
    """The form of a kernel with these terms.

    Raises:
        MoesimError: there is no such form, or its terms are others.
    """
    form = find_form(kernel)
    names = term_names(form)
    strange, missing = [each for each in terms if each not in names], [each for each in names if each not in terms]
    if strange or missing:
        what = f"has no term {strange[0]!r}" if strange else f"lacks the term {missing[0]!r}"
        raise MoesimError(f"a fit of {kernel} {what}", fix=f"its terms are {', '.join(names)}")
    made: Form = form(**terms)
    return made
