"""EPLB: the published example, and what must hold for any loads."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.placement import Contiguous, Situation, make_placement, place
from moesim.placement.balanced import busiest
from moesim.placement.replication import balance, replicate
from moesim.spec.errors import MoesimError

#: EPLB, README: 12 experts in 4 groups, 16 slots on 8 GPUs in two nodes.
LOADS = [
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
]
SLOTS = [[5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1], [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1]]


def situation(loads: np.ndarray, ranks: int, redundant: int, nodes: int = 1) -> Situation:
    node = np.arange(ranks) * nodes // ranks
    return Situation(len(loads), loads.shape[1], ranks, redundant, np.asarray(loads, float), node)


def test_the_published_example() -> None:
    for loads, slots in zip(LOADS, SLOTS, strict=True):
        assert balance(np.array(loads, float), 16, 8, groups=4, nodes=2).ravel().tolist() == slots
    placed = place(make_placement("eplb", {"groups": 4}), situation(np.array(LOADS), 8, 4, nodes=2))
    assert placed.expert.tolist() == SLOTS
    assert placed.owner.tolist() == [np.repeat(np.arange(8), 2).tolist()] * 2


@pytest.mark.parametrize("loads", [[7.0, 2.0, 1.0], [5.0, 5.0, 4.0], [9.0, 1.0, 1.0]])
def test_no_other_numbers_of_replicas_leave_the_busiest_one_with_less(loads: list[float]) -> None:
    counts = np.bincount(replicate(np.array(loads), 7))
    others = [np.array(each) for each in product(range(1, 6), repeat=3) if sum(each) == 7]
    assert max(loads / counts) == pytest.approx(min(max(loads / each) for each in others))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[float], int, int]:
    ranks = draw(st.integers(1, 6))
    experts = ranks * draw(st.integers(1, 5))
    loads = draw(st.lists(st.integers(0, 1000), min_size=experts, max_size=experts))
    return loads, ranks, ranks * draw(st.integers(0, 3))


@given(problems())
@settings(max_examples=200, deadline=None)
def test_no_rank_gets_more_than_by_static_placement(problem: tuple[list[float], int, int]) -> None:
    loads, ranks, redundant = problem
    per_expert = np.array([loads], float)
    slots = place(make_placement("eplb"), situation(per_expert, ranks, redundant))
    held = slots.expert[0].reshape(ranks, -1)
    owner = Contiguous().owner(1, len(loads), ranks)[0]
    static = np.bincount(owner, weights=per_expert[0], minlength=ranks).max()
    assert set(held.ravel()) == set(range(len(loads)))
    assert busiest(per_expert[0], held) <= static * (1 + 1e-12)


def test_groups_stay_in_one_node() -> None:
    loads = np.random.default_rng(3).random((1, 32))
    slots = place(make_placement("eplb", {"groups": 8, "balancing": "hierarchical"}), situation(loads, 8, 8, nodes=4))
    group, node = slots.expert[0] // 4, slots.owner[0] // 2
    assert all(len(set(node[group == each])) == 1 for each in range(8))


@pytest.mark.parametrize(
    ("options", "redundant", "message"),
    [
        ({}, 1, "13 replicas do not divide among 8 ranks; redundant 4 would"),
        ({"groups": 5}, 4, "5 groups do not divide the 12 experts"),
        ({"groups": 3, "balancing": "hierarchical"}, 4, "2 nodes do not divide 3 groups of experts"),
        ({"group": 3}, 4, "placement eplb: unknown key 'group'; did you mean 'groups'?"),
    ],
)
def test_what_does_not_fit_is_said(options: dict[str, object], redundant: int, message: str) -> None:
    known = situation(np.array(LOADS), 8, redundant, nodes=1 if options == {"groups": 5} else 2)
    with pytest.raises(MoesimError) as caught:
        place(make_placement("eplb", options), known)
    assert message in str(caught.value)


def test_a_placement_that_misses_an_expert_is_one_line() -> None:
    policy = make_placement("given", {"ranks": [[0, 1], [2, 2]]})
    with pytest.raises(MoesimError, match="leaves out expert 3 of MoE layer 0; place every expert of every MoE layer"):
        place(policy, situation(np.ones((2, 4)), 2, 0))


def test_placements_without_replicas_refuse_redundant_experts() -> None:
    with pytest.raises(MoesimError, match="the placement makes no replicas"):
        place(make_placement("contiguous"), situation(np.ones((2, 4)), 2, 2))
    with pytest.raises(MoesimError, match="placement contiguous takes no 'groups'"):
        make_placement("contiguous", {"groups": 2})
