"""Statistics of a routing: skew, balance, locality in time, affinity between layers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from moesim.routing.base import FloatArray, IntArray


def gini(loads: NDArray[np.generic]) -> FloatArray:
    """Gini coefficient of the last axis: 0 where all loads are equal, 1 - 1/n where one expert has everything."""
    ordered = np.sort(np.asarray(loads, dtype=np.float64), axis=-1)
    n = ordered.shape[-1]
    weight = 2.0 * np.arange(1, n + 1) - n - 1.0
    return np.asarray((ordered * weight).sum(axis=-1) / (n * ordered.sum(axis=-1)), dtype=np.float64)


def max_over_mean(loads: NDArray[np.generic]) -> FloatArray:
    """Largest load over the mean load, of the last axis."""
    values = np.asarray(loads, dtype=np.float64)
    return np.asarray(values.max(axis=-1) / values.mean(axis=-1), dtype=np.float64)


def segment_counts(ids: IntArray, experts: int, segment: int) -> IntArray:
    """Tokens per (segment, expert) of a sequence.

    Args:
        ids: shape [tokens, top_k], the experts of consecutive tokens; an incomplete last segment is left out.
        experts: number of experts.
        segment: tokens per segment.

    Returns:
        Shape [tokens // segment, experts].
    """
    segments = len(ids) // segment
    rows = np.arange(segments * segment) // segment
    index = rows[:, None] * experts + ids[: segments * segment]
    return np.asarray(np.bincount(index.ravel(), minlength=segments * experts).reshape(segments, experts))


def srp(counts: IntArray, segment: int) -> FloatArray:
    """Segment routing best performance of each expert (arXiv 2505.16056).

    A segment router keeps an expert for a whole segment where at least alpha of its tokens chose it. SRP is the best F1
    score over alpha, counting token-expert pairs: TP the pairs it serves, FP the tokens it keeps an expert for in vain,
    FN the pairs it misses.

    Args:
        counts: shape [segments, experts], tokens of a segment that chose the expert.
        segment: tokens per segment.

    Returns:
        Shape [experts]; 0 for an expert that no token chose.
    """
    level = np.arange(segment + 1)
    histogram = (counts[:, :, None] == level).sum(axis=0)  # [experts, level]
    return _best_f1(histogram.astype(np.float64), segment)


def srp_expected(probability: FloatArray, segment: int) -> float:
    """SRP of an expert whose tokens per segment follow `probability`, shape [segment + 1]."""
    return float(_best_f1(np.asarray(probability, dtype=np.float64)[None], segment)[0])


def _best_f1(histogram: FloatArray, segment: int) -> FloatArray:
    level = np.arange(segment + 1)
    kept = histogram[:, ::-1].cumsum(axis=1)[:, ::-1]  # segments with at least alpha
    served = (histogram * level)[:, ::-1].cumsum(axis=1)[:, ::-1]
    chosen = served[:, :1]
    # 2 TP / (2 TP + FP + FN), where TP + FP = kept * m and TP + FN = chosen.
    with np.errstate(invalid="ignore"):
        score = 2.0 * served / (kept * segment + chosen)
    return np.asarray(np.nan_to_num(score).max(axis=1))


def group_srp(counts: IntArray, segment: int) -> tuple[float, float]:
    """SRP of a group of experts with one threshold each, optimised jointly, and its activation ratio rho.

    The optimum of the ratio 2 TP / (kept * m + chosen) is found by Dinkelbach's iteration (1967): for the present
    score, keep an expert in a segment where that gains more than it costs, f > score * m / 2.

    Returns:
        The F1 score, and the experts kept per token over the experts chosen per token.
    """
    chosen = float(counts.sum())
    score = 0.0
    while True:
        kept = counts > score * segment / 2.0
        size = np.count_nonzero(kept) * segment
        better = 2.0 * float(counts[kept].sum()) / (size + chosen)
        if better <= score + 1e-12:
            return better, size / chosen
        score = better


def beta_binomial(segment: int, mean: float, correlation: float) -> FloatArray:
    """P(an expert is chosen f times in a segment), f = 0 .. segment, with intra-class correlation r.

    Beta-binomial with a = p (1 - r) / r and b = (1 - p) (1 - r) / r; binomial for r = 0.
    """
    level = range(segment + 1)
    if correlation == 0.0:
        return np.array([math.comb(segment, f) * mean**f * (1 - mean) ** (segment - f) for f in level])
    scale = (1.0 - correlation) / correlation
    a, b = mean * scale, (1.0 - mean) * scale

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    log_choose = [math.log(math.comb(segment, f)) for f in level]
    return np.exp(
        [c + log_beta(f + a, segment - f + b) - log_beta(a, b) for f, c in zip(level, log_choose, strict=True)]
    )


def intra_class_correlation(counts: IntArray, segment: int) -> float:
    """Correlation r of two tokens of a segment in choosing an expert, pooled over experts.

    From Var count = m q (1 - q) (1 + (m - 1) r), both sides summed over the experts.

    Args:
        counts: shape [segments, experts], of complete segments.
        segment: tokens per segment, m.
    """
    q = counts.mean(axis=0) / segment
    independent = segment * float((q * (1.0 - q)).sum())
    return (float(counts.var(axis=0).sum()) / independent - 1.0) / (segment - 1)


def adjacent_repetition(ids: IntArray) -> float:
    """Share of tokens whose first choice is that of the token before; `ids` [tokens, top_k], first choice first."""
    return float((ids[1:, 0] == ids[:-1, 0]).mean())


def stay_local(ids: IntArray, owner: IntArray) -> float:
    """Share of steps from a layer to the next in which a token's first choice stays on its rank.

    Args:
        ids: shape [tokens, layers, top_k], first choice first.
        owner: shape [layers, experts], the rank of every expert.
    """
    layer = np.arange(ids.shape[1])
    ranks = owner[layer, ids[:, :, 0]]
    return float((ranks[:, 1:] == ranks[:, :-1]).mean())


def transitions(ids: IntArray, experts: int) -> FloatArray:
    """Share of tokens whose first choices in consecutive layers are e and f, [layers - 1, experts, experts].

    Args:
        ids: shape [tokens, layers, top_k], first choice first.
    """
    first = ids[:, :, 0].astype(np.int64)
    pairs = first[:, :-1] * experts + first[:, 1:]
    found = [np.bincount(pair, minlength=experts * experts) for pair in pairs.T]
    return np.array(found, dtype=np.float64).reshape(-1, experts, experts) / len(ids)
