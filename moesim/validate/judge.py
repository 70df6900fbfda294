"""From cases to verdicts: our answer, its error, and whether the tolerance is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moesim.spec.errors import MoesimError
from moesim.validate.cases import Case, Setting
from moesim.validate.recorded import ROUNDING, Entry
from moesim.validate.suites import Ready


@dataclass(frozen=True)
class Outcome:
    """What became of a case. Values in the kind's SI unit, `error` relative.

    meets: whether the tolerance is met; None where there is none, or no answer. recorded: the date of a recorded
    answer, empty where it was computed now.
    """

    case: Case
    unit: str
    simulated: float | None
    reference: float | None
    error: float | None
    rows: int = 1
    detail: str = ""
    recorded: str = ""

    @property
    def meets(self) -> bool | None:
        if self.case.tolerance is None or self.error is None:
            return None
        if math.isnan(self.error):
            return False
        if self.case.compare == "equal":
            return abs(self.error) <= self.case.tolerance
        error = -self.error if self.case.compare in ("at least", "above") else self.error
        if self.case.compare in ("above", "below"):
            return error < self.case.tolerance - ROUNDING
        return error <= self.case.tolerance

    @property
    def counts(self) -> bool:
        """Whether it is a prediction that was put to the test."""
        return self.case.status == "predicted" and self.meets is not None


def judge(
    cases: Sequence[Ready],
    setting: Setting,
    recorded: Mapping[str, Entry],
    date: str = "",
    progress: Callable[[str], None] | None = None,
) -> list[Outcome]:
    """The outcome of each case: computed, or where its data is not at hand as it was recorded at `date`.

    Args:
        recorded: by the name of the case. progress: called with a case's name before it is computed.

    Raises:
        MoesimError: a case cannot be computed; names it.
    """
    outcomes = []
    for ready in cases:
        if ready.case.data and setting.data is None:
            outcomes.append(recall(ready, recorded.get(ready.case.name), date))
            continue
        if progress is not None:
            progress(ready.case.name)
        outcomes.append(_compute(ready, setting))
    return outcomes


def _compute(ready: Ready, setting: Setting) -> Outcome:
    for name in ready.case.data:
        setting.file(name)
    try:
        found = ready.kind.compute(setting, **ready.inputs)
    except MoesimError as failure:
        raise MoesimError(f"case {ready.case.name!r}: {failure}") from None
    reference = ready.reference(found.reference, found.simulated)
    error = found.error
    if error is None:
        if found.simulated is None or reference is None:
            raise MoesimError(
                f"case {ready.case.name!r} has no value to compare with", fix="give its value, with the unit"
            )
        error = relative(found.simulated, reference)
    return Outcome(
        ready.case, ready.unit, found.simulated, reference, error, found.rows, found.detail or ready.case.note
    )  # fmt: skip


def recall(ready: Ready, entry: Entry | None, date: str) -> Outcome:
    """The outcome as it was recorded at `date`; without an answer where it was not."""
    if entry is None:
        missing = "needs data, and is not recorded"
        return Outcome(ready.case, ready.unit, None, ready.reference(None, None), None, detail=missing)
    reference = ready.reference(entry.reference, entry.simulated)
    return Outcome(
        ready.case, ready.unit, entry.simulated, reference, entry.error, entry.rows, entry.detail, date
    )  # fmt: skip


def relative(simulated: float, reference: float) -> float:
    """The relative error; where the reference is zero, the deviation itself."""
    return simulated / reference - 1 if reference else simulated


@dataclass(frozen=True)
class Tally:
    """A suite in numbers; errors are absolute ones of the predictions that count."""

    predictions: int
    met: int
    fitted: int
    given: int
    reported: int
    missing: int
    median: float
    worst: float


def tally(outcomes: Sequence[Outcome]) -> Tally:
    """Only predictions are counted as met or missed."""
    counted = [each for each in outcomes if each.counts]
    errors = sorted(abs(each.error) for each in counted if each.error is not None and each.case.compare == "equal")
    middle = (errors[(len(errors) - 1) // 2] + errors[len(errors) // 2]) / 2 if errors else math.nan
    return Tally(
        predictions=len(counted),
        met=sum(bool(each.meets) for each in counted),
        fitted=sum(each.case.status == "fitted" for each in outcomes),
        given=sum(each.case.status == "given" for each in outcomes),
        reported=sum(each.case.status == "predicted" and each.case.tolerance is None for each in outcomes),
        missing=sum(each.error is None for each in outcomes),
        median=middle,
        worst=errors[-1] if errors else math.nan,
    )
