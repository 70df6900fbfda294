"""Routing with affinity between layers, a concentration, and replicas: what is known of their counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.placement import Slots
from moesim.routing import AffinityRouting, ConcentratedRouting, CountRouting, make_routing
from moesim.routing.base import TokenSpans
from moesim.routing.metrics import stay_local, transitions
from moesim.routing.popularity import zipf_weights
from moesim.routing.replicated import Replicas, replicated
from moesim.spec.errors import MoesimError
from moesim.spec.routing import RoutingSpec

SEED = np.random.SeedSequence(5)


def spans(tokens: list[int]) -> TokenSpans:
    source = np.arange(len(tokens))
    return TokenSpans(source, source, np.zeros(len(tokens), dtype=int), np.array(tokens))


def test_every_layer_keeps_its_popularity() -> None:
    chain = AffinityRouting(4, 8, 2, strength=3.0, rank=3, zipf=0.6, seed=SEED)
    shares = np.sort(zipf_weights(8, 0.6))
    for joint in chain.transitions:
        assert np.sort(joint.sum(axis=0)) == pytest.approx(shares, rel=1e-6)
        assert np.sort(joint.sum(axis=1)) == pytest.approx(shares, rel=1e-3)


def test_drawn_tokens_follow_the_transitions() -> None:
    chain = AffinityRouting(3, 6, 1, strength=2.0, rank=2, seed=SEED)
    ids = chain.paths(40_000, np.random.default_rng(0)).transpose(2, 1, 0)
    found = transitions(ids, 6)
    assert np.abs(found - chain.transitions).max() < 0.01
    owner = np.tile(np.arange(6) // 2, (3, 1))
    same = owner[:-1, :, None] == owner[1:, None, :]
    assert stay_local(ids, owner) == pytest.approx(float((found * same).sum() / 2))


def test_a_token_has_distinct_experts_and_no_strength_means_no_affinity() -> None:
    chain = AffinityRouting(2, 5, 3, strength=0.0, rank=1, seed=SEED)
    assert chain.transitions == pytest.approx(np.full((1, 5, 5), 1 / 25))
    ids = np.sort(chain.paths(500, np.random.default_rng(0)), axis=0)
    assert (np.diff(ids.astype(int), axis=0) > 0).all()
    counts = chain.counts(spans([7, 3]), 2, np.random.default_rng(0))
    assert (counts.sum(axis=2) == [21, 9]).all()


def test_a_concentration_is_a_share_of_all_pairs() -> None:
    routing = ConcentratedRouting(2, 128, 4, hot=1, share=0.95)
    counts = routing.counts(spans([10_000, 10_000]), 2, np.random.default_rng(0))
    assert (counts.sum(axis=2) == 40_000).all()
    assert (counts[:, :, 0] == 38_000).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source": "affinity"}, "source: affinity and affinity: {...} belong together"),
        ({"concentration": {"share": 0.5}, "zipf": 1.0}, "zipf has no effect with source: concentrated"),
        ({"affinity": {"strength": 1}, "correlation": 0.1}, "correlation has no effect with source: affinity"),
    ],
)
def test_what_does_not_go_together_is_said(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{...}", r"\{\.\.\.\}")):
        RoutingSpec.model_validate(given)


def test_more_hot_experts_than_there_are() -> None:
    spec = RoutingSpec.model_validate({"concentration": {"experts": 9, "share": 0.5}})
    with pytest.raises(MoesimError, match="on 9 experts, the model has 8; choose at most 8"):
        make_routing(spec, None, 1, 8, 2, SEED)


@st.composite
def slots(draw: st.DrawFn) -> tuple[Slots, int]:
    experts = draw(st.integers(1, 6))
    layers = draw(st.integers(1, 3))
    more = draw(st.integers(0, 6))
    rows = [draw(st.lists(st.integers(0, experts - 1), min_size=more, max_size=more)) for _ in range(layers)]
    order = draw(st.permutations(range(experts + more)))
    expert = np.array([[*range(experts), *row] for row in rows])[:, list(order)]
    return Slots(expert, np.zeros_like(expert)), experts


@given(slots(), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_replicas_share_the_tokens_of_their_expert_evenly(problem: tuple[Slots, int], seed: int) -> None:
    held, experts = problem
    counts = np.random.default_rng(seed).integers(0, 50, (len(held.expert), 3, experts))
    replicas = Replicas(held, experts)
    dealt = replicas.deal(counts)
    assert (replicas.together(dealt) == counts).all()
    for layer, expert in np.ndindex(len(counts), experts):
        of_expert = dealt[layer][:, held.expert[layer] == expert]
        assert (of_expert.max(axis=1) - of_expert.min(axis=1) <= 1).all()


@given(slots(), st.integers(0, 2**31), st.floats(0, 0.9))
@settings(max_examples=60, deadline=None)
def test_drawn_choices_are_conserved_over_replicas(
    problem: tuple[Slots, int], seed: int, correlation: float
) -> None:  # fmt: skip
    held, experts = problem
    routing = CountRouting(len(held.expert), experts, 1, zipf=0.5, correlation=correlation, seed=SEED)
    tokens = np.array([3, 40, 0]), np.array([0, 100, 17])
    whole = routing.choose(*tokens, np.random.default_rng(seed))
    parted = Replicas(held, experts).drawn(whole)
    assert (Replicas(held, experts).together(parted.counts) == whole.counts).all()
    assert (parted.counts.sum(axis=1) == parted.totals).all()


def test_without_replicas_a_routing_stays_what_it_is() -> None:
    routing = CountRouting(2, 4, 1, seed=SEED)
    assert replicated(routing, Slots(np.tile(np.arange(4), (2, 1)), np.zeros((2, 4), dtype=int))) is routing
    parted = replicated(routing, Slots(np.array([[0, 1, 2, 3, 0]] * 2), np.zeros((2, 5), dtype=int)))
    assert parted.popularity.tolist() == [[0.125, 0.25, 0.25, 0.25, 0.125]] * 2  # type: ignore[attr-defined]
