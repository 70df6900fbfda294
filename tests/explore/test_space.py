"""Points of a study: grids, zipped and conditional axes, samples."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.explore.axes import axis_changes
from moesim.explore.space import points
from moesim.spec.errors import MoesimError
from moesim.spec.study import StudySpec


def study(**keys: Any) -> StudySpec:
    return StudySpec(experiment="quickstart", **keys)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_a_grid_is_the_product_of_its_axes(sizes: list[int]) -> None:
    axes = {f"key{n}": list(range(size)) for n, size in enumerate(sizes)}
    found = points(study(axes=axes))
    assert [tuple(point.values()) for point in found] == list(itertools.product(*axes.values()))


def test_zipped_axes_move_together() -> None:
    found = points(study(axes={"a": [1, 2]}, zip=[{"b": [3, 4], "c": [5, 6]}]))
    assert found == [
        {"a": 1, "b": 3, "c": 5}, {"a": 1, "b": 4, "c": 6}, {"a": 2, "b": 3, "c": 5}, {"a": 2, "b": 4, "c": 6},
    ]  # fmt: skip


def test_a_conditional_axis_exists_where_its_condition_holds() -> None:
    conditional = [{"when": {"a": [1, 2]}, "axes": {"b": [7, 8]}}]
    found = points(study(axes={"a": [1, 2, 3]}, conditional=conditional))
    assert found == [{"a": 1, "b": 7}, {"a": 1, "b": 8}, {"a": 2, "b": 7}, {"a": 2, "b": 8}, {"a": 3}]


def test_the_same_key_may_have_other_values_under_another_condition() -> None:
    conditional = [{"when": {"a": 1}, "axes": {"b": [7]}}, {"when": {"a": 2}, "axes": {"b": [8]}}]
    assert points(study(axes={"a": [1, 2]}, conditional=conditional)) == [{"a": 1, "b": 7}, {"a": 2, "b": 8}]


def test_ranges_step_evenly_or_by_equal_factors() -> None:
    found = points(study(axes={"a": {"low": 1, "high": 16, "count": 5, "scale": "log"}}))
    assert [point["a"] for point in found] == pytest.approx([1, 2, 4, 8, 16])
    found = points(study(axes={"a": {"low": 0, "high": 8, "count": 5, "integer": True, "unit": "GB/s"}}))
    assert [point["a"] for point in found] == ["0 GB/s", "2 GB/s", "4 GB/s", "6 GB/s", "8 GB/s"]


@pytest.mark.parametrize("method", ["random", "sobol", "halton"])
def test_samples_are_as_many_as_asked_within_the_ranges_and_the_same_for_a_seed(method: str) -> None:
    axes = {"a": {"low": 1, "high": 2}, "b": {"low": 1, "high": 100, "scale": "log"}, "c": ["x", "y"]}
    sample = {"method": method, "points": 50, "seed": 3}
    found = points(study(axes=axes, sample=sample))
    assert len(found) == 50
    assert all(1 <= point["a"] <= 2 and 1 <= point["b"] <= 100 and point["c"] in "xy" for point in found)
    assert found == points(study(axes=axes, sample=sample))
    assert found != points(study(axes=axes, sample={**sample, "seed": 4}))


def test_a_sobol_sequence_puts_one_point_into_every_part_of_an_axis() -> None:
    found = points(study(axes={"a": {"low": 0, "high": 32}}, sample={"method": "sobol", "points": 32}))
    assert sorted(math.floor(point["a"]) for point in found) == list(range(32))


def test_samples_of_a_finite_space_are_its_points_once_each() -> None:
    found = points(study(axes={"a": [1, 2], "b": [3, 4]}, sample={"method": "random", "points": 200}))
    assert sorted((point["a"], point["b"]) for point in found) == [(1, 3), (1, 4), (2, 3), (2, 4)]


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"axes": {"a": [1]}, "zip": [{"a": [2]}]}, "two axes vary a"),
        ({"zip": [{"a": [1, 2], "b": [3]}]}, "a has 2, b has 1"),
        ({"axes": {"a": [1]}, "conditional": [{"when": {"b": 1}, "axes": {"c": [1]}}]}, "depends on b"),
        ({"axes": {"a": [1]}, "conditional": [{"when": {"a": 2}, "axes": {"c": [1]}}]}, "which never happens"),
        ({"axes": {"a": {"low": 1, "high": 2}}}, "the range of a has no count"),
        ({"axes": {f"k{n}": list(range(100)) for n in range(4)}}, "100,000,000 points"),
    ],
)
def test_a_contradictory_space_is_an_error(keys: dict[str, Any], what: str) -> None:
    with pytest.raises(MoesimError, match=what):
        points(study(**keys))


def test_the_command_line_says_the_same_as_a_file() -> None:
    changes = axis_changes(
        ["a=1,2", "b={low: 1, high: 4, count: 2}", "c=x,y if a=2", "d=[5, 6]", "e={k: 1},{k: 2}"], ["f=1,2", "g=3,4"],
        "halton:8", 3,
    )  # fmt: skip
    assert changes == {
        "axes": {"a": [1, 2], "b": {"low": 1, "high": 4, "count": 2}, "d": [5, 6], "e": [{"k": 1}, {"k": 2}]},
        "conditional": [{"when": {"a": [2]}, "axes": {"c": ["x", "y"]}}],
        "zip": [{"f": [1, 2], "g": [3, 4]}],
        "sample": {"method": "halton", "points": 8, "seed": 3},
    }


def test_an_axis_within_another_comes_after_it() -> None:
    """Else its values would be replaced, and points labelled with what they do not have."""
    with pytest.raises(MoesimError, match=r"the axis parallelism replaces what the axis parallelism\.ep before it"):
        points(study(axes={"parallelism.ep": [1, 2], "parallelism": [{"dp": 2}]}))
    assert len(points(study(axes={"parallelism": [{"dp": 2}], "parallelism.ep": [1, 2]}))) == 2
