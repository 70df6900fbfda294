from __future__ import annotations

from moesim.calibrate.benchmarks.cases import Case
from moesim.calibrate.benchmarks.schedule import work_off


class Machine:
    """Measures a case in the seconds that its size says, on a clock of its own."""

    def __init__(self) -> None:
        self.time, self.order = 0.0, []

    def measure(self, case: Case) -> None:
        self.time += float(case.sizes[0])
        self.order.append((case.table, case.sizes[0]))

    def now(self) -> float:
        return self.time


def cases(table: str, *seconds: int) -> list[Case]:
    return [Case(table, table, (each,)) for each in seconds]


def test_tables_share_the_time_and_not_the_cases() -> None:
    machine = Machine()
    work_off({"a": cases("a", 4, 4), "b": cases("b", 1, 1, 1, 1, 1)}, machine.measure, None, now=machine.now)
    assert machine.order == [("a", 4), *[("b", 1)] * 4, ("a", 4), ("b", 1)]


def test_the_budget_ends_it_and_a_table_that_is_through_gives_way() -> None:
    machine = Machine()
    told = {}
    work_off(
        {"a": cases("a", 1), "b": cases("b", 3, 3, 3)}, machine.measure, 6.5,
        lambda table, done, total: told.__setitem__(table, (done, total)), now=machine.now,
    )  # fmt: skip
    assert machine.order == [("a", 1), ("b", 3), ("b", 3)]
    assert told == {"a": (1, 1), "b": (2, 3)}


def test_nothing_to_do_is_done() -> None:
    machine = Machine()
    work_off({"a": []}, machine.measure, 5.0, now=machine.now)
    assert machine.order == []
