"""Counts of many tokens at once: reals of the right moments, rounded without bias to integers of the right sum."""

from __future__ import annotations

import numpy as np

from moesim.routing.base import FloatArray, IntArray

#: Below this mean (of tokens an expert gets, or does not get) the normal approximation is not used.
SMALLEST_MEAN = 5.0

#: Mean variance that unbiased rounding adds to a number whose fraction is uniform: the integral of f (1 - f).
_ROUNDING_VARIANCE = 1.0 / 6.0


class LargeCounts:
    """Sums of independent choices of k among `experts` experts, for sums so large that counts are nearly normal.

    Args:
        inclusion: shape [experts], the probability q that a choice contains the expert.
    """

    def __init__(self, inclusion: FloatArray) -> None:
        self._q = inclusion
        self._total = inclusion.sum()
        variance = inclusion * (1.0 - inclusion)
        self._skew = (1.0 - 2.0 * inclusion) / np.sqrt(np.maximum(variance, 1e-300))
        self._free = _variance_before_projection(variance)
        self.extreme = float(min(inclusion.min(), 1.0 - inclusion.max()))

    @property
    def usable(self) -> bool:
        """False where one expert carries so much of the variance that a fixed sum cannot be had this way."""
        return self._free is not None

    def enough(self, draws: IntArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Where the number of draws is large enough for every expert's count to be nearly normal."""
        return np.asarray(draws * self.extreme >= SMALLEST_MEAN) & self.usable

    def draw(self, layers: int, moments: FloatArray, rng: np.random.Generator) -> IntArray:
        """Counts, shape [layers, sources, experts], each row summing to the source's weight times k.

        Independent normal noise with a correction for skewness (first term of Cornish and Fisher 1938), projected on
        the plane of constant sum. Projection leaves the variance s (1 - s / sum s) of a variance s, which `s` is
        solved for, and the covariances -s_e s_f / sum s of rejective sampling (Hajek 1964).

        Args:
            moments: shape [3, sources], the sums of w, w**2 and w**3 over the weights w of the source's draws (a draw
                of weight w adds w to the counts of its k experts).
        """
        assert self._free is not None
        first, second, third = moments[:, :, None]  # each [sources, 1]
        noise = rng.standard_normal((layers, *moments.shape[1:], len(self._q)))
        skew = self._skew * (third / second**1.5)
        variance = np.maximum(self._free * second - _ROUNDING_VARIANCE, 0.0) / (1.0 + skew**2 / 18.0)
        bend = noise * noise
        bend -= 1.0
        bend *= skew / 6.0
        noise += bend
        noise *= np.sqrt(variance)
        excess = noise.sum(axis=2, keepdims=True)
        noise -= excess * (self._free / self._free.sum())
        noise += first * self._q
        _clip(noise, first, self._total)
        return round_to_sum(noise, first * self._total, rng)


def _variance_before_projection(variance: FloatArray) -> FloatArray | None:
    """Solve s (1 - s / sum s) = variance for s by fixed-point iteration; None where there is no solution."""
    if variance.min() <= 0.0:  # an expert that every token chooses
        return None
    before = variance.copy()
    for _ in range(500):
        share = before / before.sum()
        if share.max() > 0.9:
            return None
        after = variance / (1.0 - share)
        if np.allclose(after, before, rtol=1e-12, atol=0.0):
            return np.asarray(after, dtype=np.float64)
        before = after
    return None


def _clip(counts: FloatArray, ceiling: FloatArray, top_k: float) -> None:
    """Bring the few counts outside [0, ceiling] back, in place, and spread the difference over the row."""
    lost = (counts < 0.0).any(axis=2) | (counts > ceiling).any(axis=2)
    if not lost.any():
        return
    rows = counts[lost]
    limit = np.broadcast_to(ceiling, (*counts.shape[:2], 1))[lost]
    for _ in range(8):
        np.clip(rows, 0.0, limit, out=rows)
        missing = limit * top_k - rows.sum(axis=1, keepdims=True)
        # Give in proportion to the room above, take in proportion to what is there: neither leaves the bounds.
        room = np.where(missing > 0.0, limit - rows, rows)
        rows += missing * room / np.maximum(room.sum(axis=1, keepdims=True), 1e-300)
    counts[lost] = rows


def round_to_sum(values: FloatArray, totals: FloatArray, rng: np.random.Generator) -> IntArray:
    """Round the last axis to integers that sum to `totals`, each by less than 1 and without bias.

    Systematic sampling: the running sum plus one uniform number per row, floored, then differenced.

    Args:
        values: shape [..., n], non-negative.
        totals: shape broadcastable to [..., 1], the integer sums of the rows.
    """
    running = np.cumsum(values, axis=-1)
    running[..., -1:] = totals
    # Integers that were summed in floating point must stay integers.
    whole = np.rint(running)
    np.copyto(running, whole, where=np.abs(running - whole) < 1e-9)
    running += rng.random((*values.shape[:-1], 1))
    np.floor(running, out=running)
    return np.asarray(np.diff(running, axis=-1, prepend=0.0), dtype=np.int64)
