"""Caches of experts against what is known of caches: Belady's bound, the stack property, hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.memory.experts import CACHES, SCHEDULINGS, Times
from moesim.memory.experts.caches import Use
from moesim.memory.experts.residency import belady, replay
from moesim.memory.experts.scheduling import makespan
from moesim.spec.errors import MoesimError
from moesim.spec.offload import CacheSpec

ONLINE = ("lru", "lfu", "static", "mrs")


@st.composite
def requests(draw):
    """[steps, experts] tokens of one token per step, with its scores."""
    experts, top_k = draw(st.sampled_from([(4, 1), (8, 2), (16, 4)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    taste = rng.standard_normal(experts) * draw(st.sampled_from([0.0, 1.0, 3.0]))
    logits = taste + rng.gumbel(size=(draw(st.integers(1, 60)), experts))
    used = np.argsort(-logits, axis=1)[:, :top_k]
    tokens = np.zeros(logits.shape, dtype=np.int64)
    np.put_along_axis(tokens, used, 1, axis=1)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return tokens, scores, top_k


def hits(policy, tokens, scores, top_k, slots):
    return int(replay(CACHES.make(policy, CacheSpec(), top_k), tokens, slots, scores).sum())


@settings(deadline=None, max_examples=60)
@given(requests(), st.integers(0, 16))
def test_no_policy_beats_the_one_that_knows_the_future(case, slots):
    tokens, scores, top_k = case
    best = int(belady(tokens, slots).sum())
    for policy in ONLINE:
        assert hits(policy, tokens, scores, top_k, slots) <= best


@settings(deadline=None, max_examples=60)
@given(requests())
def test_a_larger_cache_never_misses_more(case):
    """LRU keeps subsets of what a larger LRU keeps (Mattson et al., 1970), and so do static maps and Belady."""
    tokens, scores, top_k = case
    for policy in ("lru", "static"):
        found = [hits(policy, tokens, scores, top_k, slots) for slots in range(tokens.shape[1] + 1)]
        assert found == sorted(found)
    found = [int(belady(tokens, slots).sum()) for slots in range(tokens.shape[1] + 1)]
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] == tokens.sum()


def test_lru_drops_what_was_used_longest_ago():
    """0 1 2 0 in two slots that begin with 0 and 1: two hits, then 2 drops 0, then 0 is missed."""
    tokens = np.eye(3, dtype=np.int64)[[0, 1, 2, 0]]
    assert replay(CACHES.make("lru", CacheSpec(), 1), tokens, 2).tolist() == [1, 1, 0, 0]
    assert belady(tokens, 2).tolist() == [1, 1, 0, 1]


def test_minus_recent_score_is_the_published_average():
    """S = a TopP(s) + (1 - a) S: with a = 0.5 and P = 2 of four experts."""
    policy = CACHES.make("mrs", CacheSpec(policy="mrs"), 1)
    use = Use(np.array([1, 0, 0, 0]), np.array([[0.4, 0.3, 0.2, 0.1]]), 0, np.ones(4))
    once = policy.observe(np.zeros(4), use)
    assert once == pytest.approx([0.2, 0.15, 0.0, 0.0])
    assert policy.observe(once, use) == pytest.approx([0.3, 0.225, 0.0, 0.0])


def test_minus_recent_score_needs_scores():
    with pytest.raises(MoesimError, match=r"routing\.source: documents"):
        CACHES.make("mrs", CacheSpec(policy="mrs"), 1).observe(np.zeros(2), Use(np.ones(2), None, 0, np.ones(2)))


def test_greedy_follows_the_published_rule():
    """Four experts with a token each, two of them on the device (1 s there, 3 s on the host, 2 s a copy).

    Device 0 (done at 1), 1 (2), host 3 (3) instead of 2 by device (copied at 2, done at 3)? 3 <= 3: the device.
    """
    tokens, there = np.ones(4, dtype=np.int64), np.array([True, True, False, False])
    times = Times(np.full(4, 1.0), np.full(4, 3.0), 2.0)
    split = SCHEDULINGS.make("greedy").split(tokens, there, times)
    assert split.device == (0, 1, 2)
    assert split.host == (3,)
    assert makespan(split, there, times) == (3.0, 2.0)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
    st.integers(0, 2**32),
    st.floats(0.1, 5),
    st.sampled_from(["device", "host", "greedy"]),
)
def test_every_active_expert_is_computed_once(tokens, seed, copy, name):
    counts = np.array(tokens)
    there = np.random.default_rng(seed).random(len(counts)) < 0.5
    split = SCHEDULINGS.make(name).split(counts, there, Times(counts * 0.3, counts * 1.0, copy))
    assert sorted((*split.device, *split.host)) == np.flatnonzero(counts).tolist()
    if name == "device":
        assert not split.host
    if name == "host":
        assert all(there[e] for e in split.device)
