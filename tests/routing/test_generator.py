"""The per-token generator: it meets its profile, and agrees with the count form."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.routing import CountRouting, metrics
from moesim.routing.generator import TokenGenerator, calibrate
from moesim.spec.routing import RoutingProfile

SEED = np.random.SeedSequence(7)


def profile(zipf: float, correlation: float, repetition: float = 0.0, affinity: float = 0.0) -> RoutingProfile:
    return RoutingProfile(name="test", zipf=zipf, correlation=correlation, repetition=repetition, affinity=affinity)


def counts_per_request(ids: np.ndarray, experts: int) -> np.ndarray:
    """[layers, requests, experts] from ids [requests, tokens, layers, top_k]."""
    requests = len(ids)
    cell = np.arange(requests)[:, None, None] * experts
    by_layer = [
        np.bincount((cell + ids[:, :, layer]).ravel(), minlength=requests * experts) for layer in range(ids.shape[2])
    ]
    return np.stack(by_layer).reshape(-1, requests, experts)


def test_tokens_have_distinct_experts_and_traces_repeat() -> None:
    first, second = (TokenGenerator(3, 16, 4, profile(0.5, 0.1), SEED).generate(5, 20) for _ in range(2))
    assert first.ids.shape == (100, 3, 4)
    assert (np.diff(np.sort(first.ids, axis=2), axis=2) > 0).all()
    assert (first.ids == second.ids).all()
    assert first.request.tolist() == np.repeat(np.arange(5), 20).tolist()
    assert first.position.tolist() == np.tile(np.arange(20), 5).tolist()


def test_without_documents_it_is_successive_sampling() -> None:
    found = calibrate(32, 4, profile(0.6, 0.0))
    assert (found.sigma, found.hold) == (0.0, 0.0)
    assert found.stretch == pytest.approx(1.0, abs=0.01)
    trace = TokenGenerator(1, 32, 4, profile(0.6, 0.0), SEED).generate(1, 60_000)
    share = np.bincount(trace.ids.ravel(), minlength=32) / 60_000
    popularity = CountRouting(1, 32, 4, zipf=0.6, seed=SEED).popularity[0]
    assert share == pytest.approx(popularity, rel=0.08)
    assert metrics.gini(share) == pytest.approx(float(metrics.gini(popularity)), abs=0.01)


@pytest.mark.parametrize(
    ("experts", "top_k", "correlation", "published"),
    [(64, 6, 0.093, 37.9), (16, 2, 0.230, 52.0), (8, 2, 0.063, 49.4), (64, 8, 0.217, 50.9)],
)
def test_correlation_and_srp_at_16_tokens(experts: int, top_k: int, correlation: float, published: float) -> None:
    """SRP within 1.5 points of the published value (arXiv 2505.16056) once r is met."""
    trace = TokenGenerator(2, experts, top_k, profile(0.0, correlation), SEED).generate(96_000 // experts, 16)
    counts = metrics.segment_counts(trace.ids[:, 1].astype(int), experts, 16)
    assert metrics.intra_class_correlation(counts, 16) == pytest.approx(correlation, rel=0.06)
    assert 100 * metrics.group_srp(counts, 16)[0] == pytest.approx(published, abs=1.5)


@pytest.mark.parametrize(("segment", "wanted"), [(4, 60), (64, 48)])
def test_long_documents_keep_the_correlation_over_other_segments(segment: int, wanted: float) -> None:
    """OLMoE, r = 0.217: SRP at 4 and 64 tokens within 3 points of the beta-binomial with the same r."""
    generator = TokenGenerator(1, 64, 8, profile(0.0, 0.217), SEED, document=64)
    trace = generator.generate(500, 64)
    counts = metrics.segment_counts(trace.ids[:, 0].astype(int), 64, segment)
    assert 100 * metrics.group_srp(counts, segment)[0] == pytest.approx(wanted, abs=3.0)


def test_repetition_of_the_first_choice() -> None:
    """w + (1 - w) / 8 for equal experts; Mixtral's layer 15 has w = 0.17 (arXiv 2401.04088, table 5)."""
    trace = TokenGenerator(1, 8, 2, profile(0.0, 0.063, repetition=0.17), SEED).generate(40, 1000)
    wanted = 0.17 + 0.83 / 8
    assert metrics.adjacent_repetition(trace.ids[:, 0]) == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("ranks", [4, 8])
def test_first_choices_stay_with_their_partners(ranks: int) -> None:
    """a + (1 - a) / ranks of them, where partners share a rank."""
    generator = TokenGenerator(4, 8, 2, profile(0.0, 0.05, affinity=0.2), SEED)
    trace = generator.generate(400, 64)
    owner = np.argsort(generator.expert_of_rank, axis=1) % ranks
    assert metrics.stay_local(trace.ids, owner) == pytest.approx(0.2 + 0.8 / ranks, abs=0.03)


@pytest.mark.parametrize(
    ("experts", "top_k", "statistics", "requests", "tokens"),
    [
        (8, 2, profile(0.12, 0.063, repetition=0.1, affinity=0.2), 1500, 64),
        (16, 2, profile(0.45, 0.23), 1200, 64),
        (64, 6, profile(0.45, 0.093), 300, 96),
    ],
    ids=["mixtral", "phi", "deepseek-v2-lite"],
)
def test_agrees_with_the_count_form(
    experts: int, top_k: int, statistics: RoutingProfile, requests: int, tokens: int
) -> None:
    """Mean, variance and max/mean of the loads of contiguous ranks within 3 %, one request at a time, over layers.

    Every layer has domains of its own; a single one scatters around the count form.
    """
    layers = 16
    trace = TokenGenerator(layers, experts, top_k, statistics, SEED).generate(requests, tokens)
    traced = counts_per_request(trace.ids.reshape(requests, tokens, layers, top_k).astype(int), experts)
    source = CountRouting(layers, experts, top_k, zipf=statistics.zipf, correlation=statistics.correlation, seed=SEED)
    rows = 4 * requests
    sampled = source.sample(np.zeros(rows, dtype=int), np.full(rows, tokens), np.random.default_rng(1))
    for ranks in (4, 8, 16):
        if ranks > experts:
            continue
        loads = [counts.reshape(layers, -1, ranks, experts // ranks).sum(axis=3) for counts in (traced, sampled)]
        mean, variance, peak = (
            [statistic(load) for load in loads]
            for statistic in (
                lambda load: load.mean(axis=1),
                lambda load: load.var(axis=1).mean(),
                lambda load: metrics.max_over_mean(load).mean(),
            )
        )
        assert np.sqrt(np.mean((mean[0] / mean[1] - 1) ** 2)) < 0.03
        assert variance[0] == pytest.approx(variance[1], rel=0.03)
        assert peak[0] == pytest.approx(peak[1], rel=0.03)


@pytest.mark.parametrize("zipf", [0.001, 0.03])
def test_a_skew_below_the_noise_keeps_a_sane_stretch(zipf: float) -> None:
    assert 1.0 < calibrate(256, 8, profile(zipf, 0.1)).stretch < 1.3
