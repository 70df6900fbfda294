"""Placements cover every expert once; the loads that follow lose no token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.placement import PLACEMENTS, Contiguous, Placement, RoundRobin, local_experts, make_placement, rank_loads
from moesim.spec.errors import MoesimError

NAMES = ("contiguous", "round-robin")


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    experts = draw(st.integers(1, 40))
    ranks = draw(st.integers(1, experts))
    return draw(st.integers(1, 4)), draw(st.integers(1, 4)), experts, ranks


@given(shapes(), st.sampled_from(NAMES))
@settings(max_examples=60, deadline=None)
def test_every_expert_has_one_owner_and_ranks_differ_by_at_most_one(shape: tuple[int, ...], name: str) -> None:
    layers, _, experts, ranks = shape
    owner = make_placement(name).owner(layers, experts, ranks)
    for layer in range(layers):
        held = [local_experts(owner, rank)[layer] for rank in range(ranks)]
        assert sorted(np.concatenate(held)) == list(range(experts))
        sizes = [len(experts_of_rank) for experts_of_rank in held]
        assert max(sizes) - min(sizes) <= 1


@given(shapes(), st.sampled_from((*NAMES, "any")), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_loads_are_the_counts_of_the_experts_a_rank_holds(shape: tuple[int, ...], name: str, seed: int) -> None:
    layers, sources, experts, ranks = shape
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 1000, (layers, sources, experts))
    if name == "any":
        owner = rng.integers(0, ranks, (layers, experts))
    else:
        owner = make_placement(name).owner(layers, experts, ranks)
    loads = rank_loads(counts, owner, ranks)
    assert loads.shape == (layers, sources, ranks)
    assert (loads.sum(axis=2) == counts.sum(axis=2)).all()
    for layer in range(layers):
        for rank in range(ranks):
            held = local_experts(owner, rank)[layer]
            assert (loads[layer, :, rank] == counts[layer][:, held].sum(axis=1)).all()


def test_contiguous_gives_the_first_ranks_one_more() -> None:
    assert Contiguous().owner(1, 7, 3).tolist() == [[0, 0, 0, 1, 1, 2, 2]]


def test_round_robin_deals_experts_out() -> None:
    assert RoundRobin().owner(2, 5, 2).tolist() == [[0, 1, 0, 1, 0]] * 2


@pytest.mark.parametrize("name", NAMES)
def test_more_ranks_than_experts_is_an_error(name: str) -> None:
    with pytest.raises(MoesimError, match=r"ep 9 exceeds the 8 experts; choose ep of at most 8"):
        make_placement(name).owner(1, 8, 9)


@pytest.mark.parametrize("rank", [-1, 4])
def test_an_expert_without_a_rank_is_named(rank: int) -> None:
    owner = Contiguous().owner(3, 8, 4)
    owner[2, 5] = rank
    with pytest.raises(MoesimError, match=f"expert 5 of MoE layer 2 on rank {rank} of 4"):
        rank_loads(np.ones((3, 1, 8), dtype=np.int64), owner, 4)


def test_a_placement_that_misses_experts_is_an_error() -> None:
    with pytest.raises(MoesimError, match="covers 3 x 7 experts, the model has 3 x 8"):
        rank_loads(np.ones((3, 1, 8), dtype=np.int64), Contiguous().owner(3, 7, 4), 4)


def test_an_unknown_name_lists_the_known_ones() -> None:
    known = "clustered, contiguous, eplb, exflow, given, llep, round-robin"
    with pytest.raises(MoesimError, match=f"no placement 'random'; choose one of {known}"):
        make_placement("random")


def test_other_packages_add_placements(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint, EntryPoints

    point = EntryPoint("theirs", "moesim.placement.static:RoundRobin", "moesim.placement")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: EntryPoints([point]).select(group=group))
    assert isinstance(make_placement("theirs"), RoundRobin)


def test_registered_classes_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PLACEMENTS, "_factories", {})

    @PLACEMENTS.register("last")
    class Last:
        def owner(self, layers: int, experts: int, ranks: int) -> np.ndarray:
            return np.full((layers, experts), ranks - 1)

    placement: Placement = make_placement("last")
    assert (placement.owner(1, 4, 2) == 1).all()
