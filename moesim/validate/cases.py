"""Cases of validation: what is known from outside, and the small functions that compute our answer to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import AfterValidator, BeforeValidator, Field, create_model

from moesim.spec.base import Schema
from moesim.spec.errors import MoesimError
from moesim.spec.units import parse

#: What an answer is compared with: published or measured elsewhere, a closed form, or another program's result.
Basis = Literal["measured", "published", "closed form", "reference program"]

#: `equal`: the error may not exceed the tolerance. `at least`, `at most`: a bound, to be kept but for the tolerance.
#: `above`, `below`: the same, but what is exactly at the bound does not keep it.
Comparison = Literal["equal", "at least", "at most", "above", "below"]

#: `predicted` counts. `fitted` set a parameter; `given` follows from the inputs alone (a rate that the paper gives, a
#: closed form of what was chosen); neither counts.
Status = Literal["predicted", "fitted", "given"]


def _share(value: object) -> object:
    """'6 %' or 0.06."""
    text = value.strip() if isinstance(value, str) else ""
    if text.endswith("%"):
        try:
            return float(text.removesuffix("%")) / 100
        except ValueError:
            raise ValueError(f"{value!r} is no share, write it like '6 %' or 0.06") from None
    return value


Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


Quantity = Annotated[str | float, Field(union_mode="left_to_right")]


class Case(Schema):
    """One question with a known answer.

    kind: the function that computes our answer, from `inputs`. data: the files below the data folder that it reads;
    they are not part of the project, and without them the recorded answer is shown. value: the known answer, with its
    unit, or [lowest, highest] of a range; left out where the kind finds it in the data or computes a closed form. unit:
    of the answer, where the kind has several ("second" of a metric). tolerance: the largest relative error, to the
    nearest end of a range, or none where the error is only reported. status: whether it counts as a prediction.
    """

    name: str
    kind: str
    source: str
    basis: Basis
    inputs: dict[str, Any] = {}
    data: tuple[str, ...] = ()
    value: Annotated[Quantity | tuple[Quantity, Quantity] | None, Field(union_mode="left_to_right")] = None
    unit: str | None = None
    compare: Comparison = "equal"
    tolerance: Annotated[Share | None, BeforeValidator(_share)]
    status: Status = "predicted"
    note: str = ""


class Claim(Case):
    """A case of a published system: it must say what it is worth."""

    status: Status


CaseT = TypeVar("CaseT", bound=Case)


def _distinct(cases: tuple[CaseT, ...]) -> tuple[CaseT, ...]:
    if not cases:
        raise ValueError("is empty, give at least one")
    names = [each.name for each in cases]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise ValueError(f"two are called {twice!r}")
    return cases


#: At least one, each with a name of its own.
Cases = Annotated[tuple[Case, ...], AfterValidator(_distinct)]
Claimed = Annotated[tuple[Claim, ...], AfterValidator(_distinct)]


class Suite(Schema):
    """Cases of one subject."""

    name: str
    description: str = ""
    cases: Cases


@dataclass(frozen=True)
class Setting:
    """What a kind may read besides its inputs: the folder of measured data, where it is at hand, and the folder that
    the paths of its inputs start from."""

    data: Path | None = None
    folder: Path = Path()

    def file(self, name: str) -> Path:
        """A file of measured data.

        Raises:
            MoesimError: the folder does not hold it.
        """
        if self.data is None:
            raise MoesimError(f"{name} is needed", fix="name the folder of measured data with --data or MOESIM_DATA")
        path = self.data / name
        if not path.is_file():
            raise MoesimError(f"there is no {name} in {self.data}", fix="--data names another folder, or complete it")
        return path


@dataclass(frozen=True)
class Found:
    """Our answer.

    simulated: in the kind's unit; None where only the error over many rows means something. reference: what it is
    compared with, where the case does not say it. error: the relative error where it is a statistic over `rows`
    comparisons; otherwise it follows from the two. detail: a few words about what happened.
    """

    simulated: float | None = None
    reference: float | None = None
    error: float | None = None
    rows: int = 1
    detail: str = ""


@dataclass(frozen=True)
class Kind:
    """A registered function: its name, the SI unit of its answers (empty for numbers), the schema of its inputs."""

    name: str
    unit: str
    compute: Callable[..., Found]
    inputs: type[Schema]


#: A known answer in SI: a value, or the ends of a range.
Known = float | tuple[float, float]


def known(value: str | float | tuple[str | float, str | float], unit: str) -> Known:
    """A case's value in SI.

    Raises:
        ValueError: it is no quantity of the unit, or a range that ends before it begins.
    """
    if not isinstance(value, tuple):
        return parse(str(value), unit) if unit else float(value)
    low, high = (parse(str(end), unit) if unit else float(end) for end in value)
    if low > high:
        raise ValueError(f"the range ends below its begin, write [{value[1]}, {value[0]}]")
    return low, high


#: Every kind that has been imported; `suites.kinds()` imports those of moesim.validate.kinds.
KINDS: dict[str, Kind] = {}

FunctionT = TypeVar("FunctionT", bound=Callable[..., Found])


def case(name: str, unit: str = "") -> Callable[[FunctionT], FunctionT]:
    """Decorator: `name` is the kind whose answers the function computes.

    The function takes a `Setting` and, by keyword, the inputs of a case; their annotations are what a case may say.

    Args:
        unit: of the answers, as `moesim.spec.units` writes it: "second", "byte/second", empty for plain numbers.
    """

    def keep(function: FunctionT) -> FunctionT:
        KINDS[name] = Kind(name, unit, function, _inputs(name, function))
        return function

    return keep


def _inputs(name: str, function: Callable[..., Found]) -> type[Schema]:
    """A closed schema of the keyword arguments."""
    hints = get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    fields: Mapping[str, Any] = {
        each.name: (hints[each.name], ... if each.default is inspect.Parameter.empty else each.default)
        for each in parameters
    }
    return create_model(f"inputs of {name}", __base__=Schema, **fields)
