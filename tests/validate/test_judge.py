"""Errors, tolerances, and what counts."""

import math
from pathlib import Path
from typing import Any

import pytest

from moesim.spec.errors import MoesimError
from moesim.validate.cases import Case, Found, Kind, Setting
from moesim.validate.judge import judge, tally
from moesim.validate.recorded import Entry, Shelf, as_table, fingerprint
from moesim.validate.suites import Ready, kinds


def ready(found: Found, value: float | None = None, **changes: Any) -> Ready:
    about = {"name": "a case", "kind": "given", "source": "this test", "basis": "published", "tolerance": "5 %"}
    kind = Kind("given", "", lambda setting: found, kinds()["parameters"].inputs)
    return Ready(Case(**(about | changes)), kind, {}, value)


@pytest.mark.parametrize(
    ("compare", "simulated", "meets"),
    [
        ("equal", 104.0, True), ("equal", 96.0, True), ("equal", 106.0, False), ("equal", 94.0, False),
        ("at least", 94.0, False), ("at least", 96.0, True), ("at least", 200.0, True),
        ("at most", 106.0, False), ("at most", 104.0, True), ("at most", 1.0, True),
        ("equal", math.nan, False), ("above", math.nan, False), ("below", math.nan, False),
        ("above", 96.0, True), ("above", 94.0, False), ("below", 104.0, True), ("below", 106.0, False),
    ],
)  # fmt: skip
def test_tolerances(compare: str, simulated: float, meets: bool) -> None:
    (outcome,) = judge([ready(Found(simulated), 100.0, compare=compare)], Setting(), {})
    assert outcome.meets is meets
    assert outcome.error == pytest.approx(simulated / 100 - 1, nan_ok=True)


@pytest.mark.parametrize(
    ("compare", "simulated", "meets"),
    [
        ("at least", 1.0, True), ("at most", 1.0, True),
        ("above", 1.0, False), ("above", 1.0 + 1e-15, False), ("above", 1.001, True), ("above", 0.999, False),
        ("below", 1.0, False), ("below", 1.0 - 1e-15, False), ("below", 0.999, True), ("below", 1.001, False),
    ],
)  # fmt: skip
def test_a_constant_neither_rises_nor_falls(compare: str, simulated: float, meets: bool) -> None:
    (outcome,) = judge([ready(Found(simulated), 1.0, compare=compare, tolerance=0)], Setting(), {})
    assert outcome.meets is meets


def test_a_statistic_over_rows_is_an_error_already() -> None:
    (outcome,) = judge([ready(Found(error=0.04, rows=312), tolerance=0.05)], Setting(), {})
    assert (outcome.meets, outcome.rows) == (True, 312)


def test_a_reference_of_zero_is_compared_absolutely() -> None:
    (outcome,) = judge([ready(Found(0.01), 0.0, tolerance=0.02)], Setting(), {})
    assert outcome.error == 0.01


def test_a_case_without_anything_to_compare_with_is_refused() -> None:
    with pytest.raises(MoesimError, match="'a case' has no value to compare with"):
        judge([ready(Found(1.0))], Setting(), {})


def test_an_error_of_the_simulator_names_the_case(tmp_path: Path) -> None:
    with pytest.raises(MoesimError, match=r"there is no numbers\.csv in"):
        judge([ready(Found(1.0), 1.0, data=("numbers.csv",))], Setting(tmp_path), {})


def test_without_data_the_recorded_answer_is_shown() -> None:
    case = ready(Found(1.0), None, data=("numbers.csv",))
    (outcome,) = judge([case], Setting(), {"a case": Entry(simulated=2.0, reference=1.98, error=0.01)}, "2030-01-01")
    assert (outcome.simulated, outcome.recorded, outcome.meets) == (2.0, "2030-01-01", True)
    (outcome,) = judge([case], Setting(), {})
    assert (outcome.error, outcome.meets) == (None, None)


def test_only_predictions_count() -> None:
    cases = [
        ready(Found(1.01), 1.0),
        ready(Found(1.2), 1.0),
        ready(Found(2.0), 1.0, status="fitted"),
        ready(Found(1.0), 1.0, status="given"),
        ready(Found(2.0), 1.0, tolerance=None),
        ready(Found(2.0), 1.0, data=("numbers.csv",)),
    ]
    counted = tally(judge(cases, Setting(), {}))
    assert (counted.predictions, counted.met, counted.fitted, counted.given) == (2, 1, 1, 1)
    assert (counted.reported, counted.missing) == (1, 1)
    assert counted.worst == pytest.approx(0.2)
    assert counted.median == pytest.approx((0.01 + 0.2) / 2)


def test_what_is_recorded_comes_back(tmp_path: Path) -> None:
    data = tmp_path / "numbers.csv"
    data.write_bytes(b"abc")
    case = ready(Found(1.02, 1.0, detail="three rows: all"), data=("numbers.csv",))
    outcomes = judge([case], Setting(tmp_path), {})
    shelf = Shelf(tmp_path / "recorded")
    shelf.write(as_table("own", outcomes, {"numbers.csv": data}, "2030-01-01", "1.0"))
    table = shelf.read("own")
    assert table.data == {"numbers.csv": "ba7816bf8f01cfea"}  # SHA-256 of "abc", FIPS 180-2 appendix B.1
    assert table.data["numbers.csv"] == fingerprint(data)
    (again,) = judge([case], Setting(), table.values, table.date)
    assert (again.simulated, again.reference, again.error, again.detail) == (1.02, 1.0, 0.02, "three rows: all")
    assert again.recorded == "2030-01-01"
    assert shelf.read("another").values == {}


def test_nothing_is_recorded_without_an_answer() -> None:
    with pytest.raises(MoesimError, match="no answer to record"):
        as_table("own", judge([ready(Found(1.0), 1.0, data=("x.csv",))], Setting(), {}), {}, "2030-01-01", "1.0")
