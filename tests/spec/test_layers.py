from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.spec.errors import MoesimError
from moesim.spec.layers import apply_overrides, merge
from moesim.spec.marked import Marked, mark

trees = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


def changed(document: dict[str, Any], *overrides: str) -> Any:
    return apply_overrides(mark(document), overrides, lambda location, current, value: None).plain()


@given(mappings)
def test_merging_with_nothing_or_oneself_changes_nothing(document: dict[str, Any]) -> None:
    tree, nothing = mark(document), mark({})
    assert merge(tree, nothing).plain() == merge(nothing, tree).plain() == merge(tree, tree).plain() == document


@given(mappings, mappings, mappings)
def test_merging_is_associative_where_no_key_changes_between_mapping_and_value(
    one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]
) -> None:
    a, b, c = (mark(document) for document in (one, two, three))
    left, right = merge(merge(a, b), c).plain(), merge(a, merge(b, c)).plain()
    if not _clash(a, b) and not _clash(b, c) and not _clash(a, c):
        assert left == right


def _clash(one: Marked, two: Marked) -> bool:
    shared = one.items.keys() & two.items.keys()
    kinds = [(isinstance(n.items[key].value, dict)) for key in shared for n in (one, two)]
    return any(a != b for a, b in zip(kinds[::2], kinds[1::2], strict=True)) or any(
        _clash(one.items[key], two.items[key]) for key in shared
    )


def test_mappings_merge_lists_are_replaced_and_null_removes() -> None:
    upper = {"a": {"x": 1, "gone": None}, "list": [9]}
    lower = {"a": {"x": 0, "y": 2, "gone": 3}, "list": [1, 2], "kept": True}
    assert merge(mark(upper), mark(lower)).plain() == {"a": {"x": 1, "y": 2}, "list": [9], "kept": True}


def test_the_parts_of_a_machine_are_replaced_whole() -> None:
    upper = {"machine": {"devices": {"b": 2}}}
    lower = {"machine": {"devices": {"a": 1}, "fabric": "f"}}
    assert merge(mark(upper), mark(lower)).plain() == {"machine": {"devices": {"b": 2}, "fabric": "f"}}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a.b=2", {"a": {"b": 2, "c": [1, 2]}}),
        ("a.c.1=5", {"a": {"b": 1, "c": [1, 5]}}),
        ("a={x: 1}", {"a": {"x": 1}}),
        ("a.new.deep=3", {"a": {"b": 1, "c": [1, 2], "new": {"deep": 3}}}),
        ('a."x.y"=3', {"a": {"b": 1, "c": [1, 2], "x.y": 3}}),
        ("a.b=null", {"a": {"c": [1, 2]}}),
        ("a.b=10/s", {"a": {"b": "10/s", "c": [1, 2]}}),
        ("a.b=x=y", {"a": {"b": "x=y", "c": [1, 2]}}),
        ("a.b='1 s'", {"a": {"b": "1 s", "c": [1, 2]}}),
        ("self=1", {"a": {"b": 1, "c": [1, 2]}, "self": 1}),
    ],
)
def test_an_override_replaces_what_its_path_names(override: str, expected: dict[str, Any]) -> None:
    assert changed({"a": {"b": 1, "c": [1, 2]}}, override) == expected


def test_later_overrides_go_over_earlier_ones() -> None:
    assert changed({}, "a={x: 1, y: 1}", "a.x=2", "b=1", "b=2") == {"a": {"x": 2, "y": 1}, "b": 2}


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("a.b", "there is no = in it"),
        ("=1", "'' is no path of keys"),
        ("a..b=1", "'a..b' is no path of keys"),
        (".a=1", "'.a' is no path of keys"),
        ("a.=1", "'a.' is no path of keys"),
        ('a."b=1', "is no path of keys"),
        ("a.b=", "it gives no value"),
        ("a.b=[1", "not valid YAML"),
        ("a.b={x: 1, x: 2}", "the key 'x' appears twice"),
        ("a.b.c=1", "a.b is no mapping, it has no key 'c'"),
        ("a.c.2=1", "'2' is no index of it; indices are 0 to 1"),
        ("a.c.first=1", "'first' is no index of it"),
        ("a.c.-1=1", "'-1' is no index of it"),
    ],
)
def test_a_malformed_override_is_cited(override: str, what: str) -> None:
    with pytest.raises(MoesimError) as caught:
        changed({"a": {"b": 1, "c": [1, 2]}}, override)
    assert what in str(caught.value)
    assert str(caught.value).startswith(f"--set {override}: ")


def _requests(*overrides: str) -> Any:
    return changed({"requests": {"mix": "chat", "rate": "1/s", "count": 3, "too_long": "drop"}}, *overrides)["requests"]


def test_a_trace_takes_the_place_of_a_mix_unless_its_parts_are_given_too() -> None:
    assert _requests("requests.trace=t.csv") == {"trace": "t.csv", "too_long": "drop"}
    assert _requests("requests.trace=t.csv", "requests.count=9") == {"trace": "t.csv", "count": 9, "too_long": "drop"}
    assert _requests("requests.rate=9/s", "requests.trace=t.csv")["rate"] == "9/s"
    assert _requests("requests={trace: t.csv}") == {"trace": "t.csv"}


def test_a_mix_takes_the_place_of_a_trace_and_a_duration_that_of_a_count() -> None:
    back = changed({"requests": {"trace": "t.csv"}}, "requests.mix=chat", "requests.rate=1/s", "requests.count=2")
    assert back["requests"] == {"mix": "chat", "rate": "1/s", "count": 2}
    assert _requests("requests.duration='60 s'") == {
        "mix": "chat",
        "rate": "1/s",
        "duration": "60 s",
        "too_long": "drop",
    }


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("routing.source=uniform", {"source": "uniform"}),
        ("routing.source=profile", {"profile": "p", "zipf": 1.0, "source": "profile"}),
        ("routing.profile=q", {"profile": "q", "zipf": 1.0}),
        ("routing.trace=t", {"trace": "t"}),
    ],
)
def test_another_routing_source_drops_what_belongs_to_the_old_one(override: str, expected: dict[str, Any]) -> None:
    assert changed({"routing": {"profile": "p", "zipf": 1.0}}, override)["routing"] == expected


def test_relative_paths_in_overrides_start_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = apply_overrides(mark({}), ["requests.trace=t.csv"], lambda location, current, value: None)
    assert tree.items["requests"].items["trace"].folder == tmp_path
