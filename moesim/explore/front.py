"""What several objectives leave: the points that no other beats, and how much of the space they cover."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere worse and somewhere better; less is better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def front(values: FloatArray) -> NDArray[np.bool_]:
    """[n] whether no other of the points [n, objectives] dominates each; less is better, NaN is dominated."""
    known: NDArray[np.bool_] = np.logical_not(np.isnan(values).any(axis=1))
    kept = known.copy()
    for i in np.flatnonzero(known):
        better = (values[known] <= values[i]).all(axis=1) & (values[known] < values[i]).any(axis=1)
        kept[i] = not better.any()
    return kept


def hypervolume(values: FloatArray, reference: FloatArray) -> float:
    """Volume between the points [n, objectives] and a reference that is worse than all of them; less is better.

    Slices along the last objective, each with the volume of the others (While, Hingston, Barone and Huband, IEEE
    Transactions on Evolutionary Computation 10, 2006).
    """
    inside = values[(values < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    if values.shape[1] == 1:
        return float(reference[0] - inside.min())
    inside = inside[front(inside)]
    order = inside[np.argsort(inside[:, -1], kind="stable")]
    edges = np.append(order[:, -1], reference[-1])
    return float(
        sum(
            (edges[k + 1] - edges[k]) * hypervolume(order[: k + 1, :-1], reference[:-1])
            for k in range(len(order))
            if edges[k + 1] > edges[k]
        )
    )


def covered(values: FloatArray) -> FloatArray:
    """[n] share of the box between the best and the worst of all points [n, objectives] that the points up to each one
    dominate: the hypervolume over time. Rows with NaN add nothing; less is better."""
    known: NDArray[np.bool_] = np.logical_not(np.isnan(values).any(axis=1))
    if not known.any():
        return np.zeros(len(values))
    best, worst = values[known].min(axis=0), values[known].max(axis=0)
    size = np.where(worst > best, worst - best, 1.0)
    scaled = (values - best) / size
    # A little beyond the worst, so that a point at the edge counts.
    reference = np.full(values.shape[1], 1.01)
    found, at = np.zeros(len(values)), 0.0
    for k in range(len(values)):
        if known[k]:
            before = scaled[: k + 1][known[: k + 1]]
            at = hypervolume(before, reference) / 1.01 ** values.shape[1]
        found[k] = at
    return found
