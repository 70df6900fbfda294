from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from moesim.spec.errors import MoesimError, Where
from moesim.spec.marked import mark, parse_yaml, read_yaml

from .conftest import Write

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@given(st.dictionaries(st.text(max_size=5), documents, max_size=4))
def test_what_yaml_writes_comes_back(document: dict[str, object]) -> None:
    tree = parse_yaml(yaml.safe_dump(document), "x", Path(), numbered=True)
    assert tree is not None
    assert tree.plain() == document
    assert mark(document).plain() == document


def test_every_key_and_value_keeps_its_line(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tree = read_yaml(write("a.yaml", "# comment\nname: x\nouter:\n  inner: [1,\n    2]\n  folded: >\n    text\n"))
    outer = tree.items["outer"]
    assert tree.items["name"].where == Where("a.yaml", 2)
    assert (outer.key, outer.where, outer.place) == (Where("a.yaml", 3), Where("a.yaml", 4), Where("a.yaml", 3))
    assert [item.where for item in outer.items["inner"].value] == [Where("a.yaml", 4), Where("a.yaml", 5)]  # type: ignore[union-attr]
    assert outer.items["folded"].place == Where("a.yaml", 6)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' appears twice (first in line 1)"),
        ("a:\n  b: 1\n  b: 2\n", 3, "the key 'b' appears twice (first in line 2)"),
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
        ("a: !!python/object:os.system x\n", 1, "the tag 'python/object:os.system' has no meaning"),
        ("a: !!int x\n", 1, "'x' does not fit its tag"),
        ("a: 1\n---\nb: 2\n", 2, "not valid YAML"),
        ("[a, b]: 1\n", 1, "a key must be text"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", 3, "<< is not supported"),
        ("- a\n- b\n", 1, "expected a mapping"),
        ("", None, "the file is empty"),
        ("# nothing but a comment\n", None, "the file is empty"),
        ("a: *b\n", 1, "not valid YAML"),
    ],
)
def test_what_is_wrong_and_in_which_line(write: Write, text: str, line: int | None, what: str) -> None:
    path = write("bad.yaml", "")
    path.write_text(text)
    with pytest.raises(MoesimError) as caught:
        read_yaml(path)
    assert caught.value.where == Where(str(path), line)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"a: \xff\xfe\x00\x01")
    with pytest.raises(MoesimError, match="no text in UTF-8"):
        read_yaml(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MoesimError, match=r"cannot read .*none\.yaml: No such file"):
        read_yaml(tmp_path / "none.yaml")


def test_keys_are_taken_as_text_and_dates_stay_text() -> None:
    tree = parse_yaml("{on: 1, 2024: 2, 1.5: 3, day: 2024-05-01}", "x", Path(), numbered=True)
    assert tree is not None
    assert tree.plain() == {"on": 1, "2024": 2, "1.5": 3, "day": "2024-05-01"}


def test_aliases_repeat_what_they_name() -> None:
    tree = parse_yaml("a: &x [1, 2]\nb: *x\n", "x", Path(), numbered=True)
    assert tree is not None
    assert tree.plain() == {"a": [1, 2], "b": [1, 2]}


def test_an_alias_of_itself_is_refused() -> None:
    with pytest.raises(MoesimError, match="nested too deeply"):
        parse_yaml("a: &x [*x]", "x", Path(), numbered=True)
