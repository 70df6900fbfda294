"""How often each expert is chosen when a token draws k distinct experts from skewed weights."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from moesim.routing.base import FloatArray, IntArray

#: Entries of the look-up table that a 16-bit random number draws from.
TABLE_ENTRIES = 1 << 16

#: Step of the quadrature in log time. The integrand is analytic in a strip of half-width pi/2 around the real axis, so
#: the trapezoidal rule errs by about exp(-pi**2 / step), below double precision here.
_LOG_STEP = 0.2


def zipf_weights(experts: int, exponent: float) -> FloatArray:
    """Shares i**-exponent of the experts in order of popularity (i = 1 .. experts), summing to 1."""
    weights = np.arange(1, experts + 1, dtype=np.float64) ** -exponent
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def table_shares(weights: FloatArray) -> IntArray:
    """Entries of a table of 65,536 that each expert gets, at least one, by largest remainder.

    The shares so rounded are off by at most half an entry (0.2 % of an expert's share for 256 equal experts).
    """
    ideal = weights / weights.sum() * TABLE_ENTRIES
    entries = np.maximum(np.floor(ideal).astype(np.int64), 1)
    missing = TABLE_ENTRIES - int(entries.sum())
    if missing < 0:  # the floor of one entry gave too many to the rare experts: the most popular pay
        entries[0] += missing
    else:
        entries[np.argsort(entries - ideal, kind="stable")[:missing]] += 1
    return np.asarray(entries, dtype=np.int64)


def inclusion_probabilities(weights: FloatArray, top_k: int) -> FloatArray:
    """Probability that an expert is among the k that a token draws one after the other, without replacement.

    Successive sampling (the Plackett-Luce model) is what top-k of log-weights plus Gumbel noise does (Yellott 1977):
    expert e carries an exponential clock of rate w_e, and the k clocks that ring first are chosen. So

        q_e = integral of w_e exp(-w_e t) P(fewer than k other clocks rang before t) dt,

    integrated here over log t by the trapezoidal rule; the number of clocks that rang is Poisson-binomial.

    Args:
        weights: shape [experts], positive, any scale.
        top_k: experts per token, at most the number of experts.

    Returns:
        Shape [experts], summing to top_k.
    """
    experts = len(weights)
    if top_k == experts:
        return np.ones(experts)
    # When the (k+1)-th largest clock has surely rung, nothing is left to choose.
    slowest_that_matters = np.sort(weights)[-(top_k + 1)]
    low, high = np.log(1e-16 / weights.max()), np.log(50.0 / slowest_that_matters)
    time = np.exp(np.arange(low, high, _LOG_STEP))
    silent = np.exp(-np.outer(weights, time))  # [experts, time]
    fewer = _fewer_than_k_others(silent, top_k)
    density = weights[:, None] * silent * fewer * time  # the last factor: dt = t d(log t)
    inclusion = density.sum(axis=1) * _LOG_STEP
    return np.asarray(inclusion * (top_k / inclusion.sum()), dtype=np.float64)


def _fewer_than_k_others(silent: FloatArray, top_k: int) -> FloatArray:
    """P(fewer than k clocks other than e rang), from the silence probabilities [experts, time]; the same shape."""
    experts, points = silent.shape
    after = np.zeros((experts + 1, top_k, points))  # after[e]: number of clocks e, e+1, ... that rang
    after[experts, 0] = 1.0
    for e in range(experts - 1, -1, -1):
        after[e] = _add_clock(after[e + 1], silent[e])
    at_most_after = np.cumsum(after, axis=1)
    before = np.zeros((top_k, points))  # number of clocks 0 .. e-1 that rang
    before[0] = 1.0
    fewer = np.empty_like(silent)
    for e in range(experts):
        fewer[e] = (before * at_most_after[e + 1, ::-1]).sum(axis=0)
        before = _add_clock(before, silent[e])
    return fewer


def _add_clock(rang: FloatArray, silent: FloatArray) -> FloatArray:
    """Distribution of the number that rang (up to k - 1, shape [k, time]) after one more clock joins."""
    joined = rang * silent
    joined[1:] += rang[:-1] * (1.0 - silent)
    return joined


@lru_cache(maxsize=64)
def table_and_inclusion(experts: int, top_k: int, exponent: float) -> tuple[IntArray, FloatArray]:
    """Table entries and inclusion probabilities of Zipf-distributed experts, in order of popularity.

    The probabilities belong to the shares as rounded to the table, so that sampling from it is exact in the mean.
    """
    entries = table_shares(zipf_weights(experts, exponent))
    inclusion = inclusion_probabilities(entries.astype(np.float64), top_k)
    entries.setflags(write=False)
    inclusion.setflags(write=False)
    return entries, inclusion


def popularity_ranks(layers: int, experts: int, seed: np.random.SeedSequence) -> IntArray:
    """The expert of every popularity rank, [layers, experts]: a random permutation of its own in every layer."""
    ranks = np.tile(np.arange(experts), (layers, 1))
    return np.asarray(np.random.default_rng(seed).permuted(ranks, axis=1))
