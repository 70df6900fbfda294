"""Suites from files: what is refused, and where."""

from pathlib import Path

import pytest

from moesim.spec.errors import MoesimError
from moesim.validate import load_suite, suite_names

GOOD = """\
name: own
cases:
  - name: DeepSeek-V3's KV cache
    kind: kv_bytes_per_token
    source: a page
    basis: published
    inputs: {model: deepseek-v3}
    value: 70.272 kB
    tolerance: 1 %
"""


def write(folder: Path, old: str = "", new: str = "") -> str:
    path = folder / "own.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new) if old else GOOD)
    return str(path)


def test_a_suite_of_ones_own(tmp_path: Path) -> None:
    suite, (ready,) = load_suite(write(tmp_path))
    assert (suite.name, ready.value, ready.case.tolerance) == ("own", 70272.0, 0.01)
    assert ready.inputs == {"model": "deepseek-v3", "dtype": "bf16"}


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("kind: kv_bytes_per_token", "kind: kv_byte_per_token", 4, "did you mean 'kv_bytes_per_token'?"),
        ("{model: deepseek-v3}", "{modl: deepseek-v3}", 7, "unknown key 'modl'; did you mean 'model'?"),
        ("{model: deepseek-v3}", "{model: deepseek-v3, dtype: bf61}", 7, "did you mean 'bf16'?"),
        ("70.272 kB", "70.272 ms", 8, "'70.272 ms' is not a quantity in byte"),
        ("1 %", "one %", 9, "'one %' is no share, write it like '6 %' or 0.06"),
        ("1 %", "-1 %", 9, "must be at least 0"),
        ("    tolerance: 1 %\n", "", 3, "the key 'tolerance' is missing"),
        ("basis: published", "basis: hearsay", 6, "'hearsay' is not one of measured, published"),
    ],
)
def test_a_mistake_is_cited_with_its_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    with pytest.raises(MoesimError) as caught:
        load_suite(write(tmp_path, old, new))
    assert message in str(caught.value)
    assert caught.value.where is not None
    assert caught.value.where.line == line


def test_two_cases_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(GOOD + GOOD.partition("cases:\n")[2])
    with pytest.raises(MoesimError, match="cases: two are called \"DeepSeek-V3's KV cache\""):
        load_suite(str(path))


def test_no_such_suite() -> None:
    with pytest.raises(MoesimError, match="there is no suite 'exat'; did you mean 'exact'"):
        load_suite("exat")


@pytest.mark.parametrize("name", suite_names())
def test_suites_of_the_library_are_valid_and_say_where_their_answers_are_from(name: str) -> None:
    suite, cases = load_suite(name)
    assert suite.name == name
    assert suite.description
    assert all(ready.case.source for ready in cases)
