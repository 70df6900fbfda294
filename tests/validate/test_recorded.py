"""What is committed: recorded answers of all cases that need data, and the page made from them."""

from pathlib import Path

import pytest

from moesim.validate.command import renew_page
from moesim.validate.page import page_path
from moesim.validate.recorded import Shelf
from moesim.validate.suites import folder, load_suite, suite_names


@pytest.mark.parametrize("name", suite_names())
def test_every_case_that_needs_data_is_recorded(name: str) -> None:
    table = Shelf(folder() / "recorded").read(name)
    cases = [ready.case for ready in load_suite(name)[1]]
    assert {case.name for case in cases if case.data} <= set(table.values)
    assert {file for case in cases for file in case.data} == set(table.data)
    assert set(table.values) <= {case.name for case in cases}, "record again: some cases are gone"


def test_the_page_is_made_from_what_was_recorded(tmp_path: Path) -> None:
    committed = page_path().read_text(encoding="utf-8")
    copy = tmp_path / "accuracy.md"
    copy.write_text(committed, encoding="utf-8")
    renew_page(Shelf(folder() / "recorded"), copy)
    assert copy.read_text(encoding="utf-8") == committed, "run moesim validate --record --data DIR"
