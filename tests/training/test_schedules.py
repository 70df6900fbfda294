"""Orders of passes against published closed forms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.spec.errors import MoesimError
from moesim.training.order import check_complete, in_flight, sequence
from moesim.training.schedules import SCHEDULES, Listed, Order, Task


def makespan(order: Order, chunks: int, forward: float, backward: float) -> float:
    timed = sequence(order, chunks, lambda _, task: backward if task.backward else forward)
    return max(each.end for each in timed)


@given(
    name=st.sampled_from(["gpipe", "1f1b", "interleaved-1f1b", "breadth-first"]),
    stages=st.integers(2, 6),
    groups=st.integers(1, 4),
    chunks=st.integers(1, 4),
    ratio=st.floats(1, 3),
)
def test_bubbles_are_the_formulas(name: str, stages: int, groups: int, chunks: int, ratio: float) -> None:
    """Narayanan et al., arXiv 2104.04473, section 2.2: the ideal time is m (F + B), the bubble (p - 1) (F + B) / v."""
    if name in ("gpipe", "1f1b"):
        chunks = 1
    if name == "interleaved-1f1b":
        chunks = max(chunks, 2)
    micro_batches = stages * groups
    schedule = SCHEDULES.make(name)
    order = schedule.order(stages, micro_batches, chunks)
    check_complete(order, micro_batches, chunks)
    forward, backward = 1.0 / chunks, ratio / chunks
    ideal = micro_batches * (1 + ratio)
    took = makespan(order, chunks, forward, backward)
    assert took == pytest.approx(ideal + (stages - 1) * (1 + ratio) / chunks, rel=1e-12)
    assert schedule.bubble(stages, micro_batches, chunks) == pytest.approx(1 - ideal / took, rel=1e-9)
    assert took / ideal - 1 == pytest.approx((stages - 1) / (chunks * micro_batches), rel=1e-9)


def test_live_activations() -> None:
    """GPipe keeps m, 1F1B p - s. Interleaved on 4 stages with 8 micro-batches and 2 chunks: 11, 9, 7, 5 halves, and a
    bubble of 15.8 %, as published of looped placement."""
    assert [in_flight(tasks) for tasks in SCHEDULES.make("gpipe").order(4, 8, 1)] == [8, 8, 8, 8]
    assert [in_flight(tasks) for tasks in SCHEDULES.make("1f1b").order(4, 8, 1)] == [4, 3, 2, 1]
    looped = SCHEDULES.make("interleaved-1f1b")
    assert [in_flight(tasks) for tasks in looped.order(4, 8, 2)] == [11, 9, 7, 5]
    assert round(looped.bubble(4, 8, 2), 3) == 0.158


@pytest.mark.parametrize(
    ("name", "numbers", "says"),
    [
        ("interleaved-1f1b", (4, 6, 2), "do not divide 6; use a multiple of 4"),
        ("interleaved-1f1b", (4, 8, 1), "not 4 and 1"),
        ("1f1b", (4, 8, 2), "one chunk of layers per stage, not 2"),
        ("breadth-first", (4, 2, 2), "at least as many micro-batches as stages"),
        ("zero-bubble", (4, 8, 1), "there is no pipeline-schedule 'zero-bubble'"),
    ],
)
def test_impossible_numbers(name: str, numbers: tuple[int, int, int], says: str) -> None:
    with pytest.raises(MoesimError, match=says):
        SCHEDULES.make(name).order(*numbers)


def test_listed_order() -> None:
    order = Listed(["F0 F1 B0 B1", "F0 B0 F1 B1"]).order(2, 2, 1)
    assert order[1] == [Task(0), Task(0, 0, True), Task(1), Task(1, 0, True)]
    assert makespan(order, 1, 1.0, 2.0) == 9.0
    assert math.isnan(Listed([]).bubble(2, 2, 1))


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["F0 F1 B0 B1", "B0 F0 F1 B1"], "stage 1 waits before B0 for F0 of stage 1.*on stage 1 put F0 before B0"),
        (["F0 B0 F1 B1", "F1 B1 F0 B0"], "stage 0 waits before B0 for B0 of stage 1, which stands before F1"),
        (["B0 F0 F1 B1", "F0 B0 F1 B1"], "on stage 0 put F0 before B0"),
        (["F0 F1 B0 B1", "F0 F1 B0"], "not complete: B1 is missing"),
        (["F0 F1 B0 B1 B1", "F0 F1 B0 B1"], "B1 appears twice"),
        (["F0 F1 F7 B0 B1", "F0 F1 B0 B1"], "F7 does not exist"),
        (["F0 F1 B0 B1"], "order lists 1 stages, the pipeline has 2"),
        (["F0 up", "F0"], "'up' of stage 0 is no pass"),
    ],
)
def test_wrong_orders_are_one_line(texts: list[str], says: str) -> None:
    with pytest.raises(MoesimError, match=says):
        run(Listed(texts))


def run(schedule: Listed) -> None:
    order = schedule.order(2, 2, 1)
    check_complete(order, 2, 1)
    sequence(order, 1, lambda *_: 1.0)
