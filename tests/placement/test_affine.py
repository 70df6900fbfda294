"""ExFlow's placement: optimal where it can be checked, never worse than a random one, balanced always."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.placement import Situation, affine_owner, make_placement, place
from moesim.placement.affine import exact_owner, staying
from moesim.spec.errors import MoesimError


def weights(layers: int, experts: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(experts**2, 0.3), layers - 1).reshape(-1, experts, experts)


@pytest.mark.parametrize("seed", range(3))
def test_the_program_finds_the_best_of_all(seed: int) -> None:
    """All placements of 4 experts on 2 ranks in 3 layers, by enumeration."""
    transitions = weights(3, 4, seed)
    halves = sorted(set(permutations([0, 0, 1, 1])))
    best = max(staying(transitions, np.array(owner)) for owner in product(halves, repeat=3))
    assert staying(transitions, exact_owner(transitions, 2)) == pytest.approx(best)


@given(st.integers(2, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_every_rank_holds_as_many_and_as_much_stays_as_by_chance(layers: int, ranks: int, each: int, seed: int) -> None:
    transitions = weights(layers, ranks * each, seed)
    owner = affine_owner(transitions, ranks, starts=2)
    assert all((np.bincount(of_layer, minlength=ranks) == each).all() for of_layer in owner)
    assert staying(transitions, owner) >= 1 / ranks - 1e-9


def test_with_one_expert_per_rank_the_heuristic_is_exact() -> None:
    """Experts followed by one expert each are put where it is: everything stays."""
    random = np.random.default_rng(1)
    transitions = np.stack([np.eye(8)[random.permutation(8)] / 8 for _ in range(5)])
    assert staying(transitions, affine_owner(transitions, 8)) == pytest.approx(1)
    assert staying(transitions, affine_owner(transitions, 4)) == pytest.approx(1)


def test_without_affinity_it_says_what_is_missing() -> None:
    situation = Situation(2, 4, 2, 0, np.ones((2, 4)), np.zeros(2, dtype=int))
    with pytest.raises(MoesimError, match=r"which expert follows which; give routing\.affinity, or a trace"):
        place(make_placement("exflow"), situation)
