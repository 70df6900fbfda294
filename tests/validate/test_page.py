"""The page keeps what people wrote around the tables, and replaces the tables."""

from pathlib import Path

import pytest

from moesim.validate.cases import Case
from moesim.validate.judge import Outcome
from moesim.validate.page import END, begin, section, write_page
from moesim.validate.recorded import Table
from moesim.validate.wording import error, share, value

BEGIN = begin("moesim validate --record")


def test_the_tables_are_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "accuracy.md"
    page.write_text(f"# Title\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    write_page(page, ["## new\n"])
    once = page.read_text()
    assert "old" not in once
    assert once.startswith("# Title\n\nBefore.\n\n")
    assert once.endswith("\n\nAfter.\n")
    write_page(page, ["## new\n"])
    assert page.read_text() == once


def test_a_page_without_marks_gets_them_at_its_end(tmp_path: Path) -> None:
    page = tmp_path / "accuracy.md"
    page.write_text("# Title\n")
    write_page(page, ["## new\n"])
    assert page.read_text().index("# Title") < page.read_text().index("## new")


@pytest.mark.parametrize(
    ("relative", "text"),
    [(0.0, "0"), (0.0434, "+4.3 %"), (-0.123, "-12 %"), (3e-9, "+3e-09"), (2.5e-4, "+0.025 %"), (None, "–")],
)
def test_errors_in_words(relative: float | None, text: str) -> None:
    assert error(relative) == text


def test_values_and_tolerances_in_words() -> None:
    assert value(1.52e-4, "second") == "152 µs"
    assert value(4.2e10, "byte/second") == "42.0 GB/s"
    assert value(671026419200.0, "") == "671,026,419,200"
    assert value(0.5, "") == "0.5"
    assert (share(0.06), share(1e-6), share(0.0)) == ("6 %", "1e-06", "exact")


def test_details_of_several_lines_become_a_list() -> None:
    case = Case(name="GEMM", kind="k", source="s", basis="measured", tolerance=0.2)
    plain = Outcome(case.model_copy(update={"name": "MoE"}), "", None, None, 0.1, detail="3 groups")
    listed = Outcome(case, "", None, None, 0.1, detail="2 groups, the worst:\na: 1 %\nb: 2 %")
    text = section("own", "mine", [plain, listed], Table(suite="own", date="", version=""))
    assert "In detail:\n\n- GEMM: 2 groups, the worst:\n  - a: 1 %\n  - b: 2 %\n" in text
    assert "MoE: 3 groups" not in text
