"""Experts that tokens choose together on one rank: clusters of the co-activation, and clusters to groups of ranks.

Clusters are grown from centres that are far from each other (farthest-point traversal, Gonzalez, Theoretical Computer
Science 38, 1985), with distance the lack of co-activation. Which clusters go to ranks that share something (a memory, a
switch) is a binary program: each cluster in one group, each group full, the heaviest group as light as can be. Mozart
(NeurIPS 2025, arXiv 2603.07006) places experts on chiplets this way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.placement.base import PLACEMENTS, IntArray, Situation, Slots
from moesim.spec.errors import MoesimError

FloatArray = NDArray[np.float64]

#: How far from the best the heaviest group may be, relative, and how many nodes the solver may look at: the program is
#: symmetric in its groups, and proving the last per cent takes longest.
GAP, NODES = 0.01, 2000


@PLACEMENTS.register("clustered")
class Clustered:
    """Places by what tokens choose together."""

    def slots(self, situation: Situation) -> Slots:
        """See `InformedPlacement.slots`."""
        experts, ranks = situation.experts, situation.ranks
        if situation.together is None:
            raise MoesimError(
                "a clustered placement learns from tokens whose experts are known, and this run draws none before it",
                key="placement",
                fix="choose contiguous or round-robin, or train with it and a routing that knows them",
            )
        if experts % ranks or situation.redundant:
            raise MoesimError(
                f"clusters of equal size on {ranks} ranks do not divide {experts + situation.redundant} experts",
                key="placement",
                fix=f"choose ep so that it divides {experts} and redundant 0, or another placement",
            )
        owner = np.array([owners(pairs, ranks, situation.sharers) for pairs in situation.together])
        return Slots(np.broadcast_to(np.arange(experts), owner.shape), owner)


def owners(pairs: FloatArray, ranks: int, sharers: int = 1) -> IntArray:
    """[experts] rank of each expert of a layer.

    Args:
        pairs: [experts, experts] of the layer, see `Situation.together`.
    """
    cluster = clusters(pairs, ranks)
    load = np.bincount(cluster, np.diag(pairs), minlength=ranks).astype(np.float64)
    if sharers == 1 or ranks % sharers or ranks == sharers:
        return cluster
    group = balanced_groups(load, ranks // sharers)
    rank = np.empty(ranks, dtype=np.int64)
    rank[np.argsort(group, kind="stable")] = np.arange(ranks)
    return np.asarray(rank[cluster])


def clusters(pairs: FloatArray, count: int) -> IntArray:
    """[experts] cluster of each expert, all of the same size.

    Centres: the most chosen expert, then always the one that is chosen least with any of them. The others join, the
    clearest case first, the cluster with room with whose members they are chosen most, on average.
    """
    experts = len(pairs)
    chosen = np.maximum(np.diag(pairs), 1e-300)
    # As often as chance would have it is 1, whatever the popularity of the two.
    alike = pairs / np.sqrt(np.outer(chosen, chosen))
    np.fill_diagonal(alike, 0.0)
    cluster = np.full(experts, -1, dtype=np.int64)
    centre = int(np.argmax(chosen))
    nearest = np.full(experts, -np.inf)
    for number in range(count):
        cluster[centre] = number
        nearest = np.maximum(nearest, alike[centre])
        centre = int(np.argmin(np.where(cluster < 0, nearest, np.inf)))
    room = np.full(count, experts // count - 1)
    together = np.array([alike[:, cluster == number].sum(axis=1) for number in range(count)]).T  # [experts, clusters]
    for _ in range(experts - count):
        mean = together / (experts // count - room)
        mean[cluster >= 0] = -np.inf
        mean[:, room == 0] = -np.inf
        best, which = mean.max(axis=1), mean.argmax(axis=1)
        expert = int(np.argmax(best))
        number = int(which[expert])
        cluster[expert] = number
        room[number] -= 1
        together[:, number] += alike[:, expert]
    return improved(cluster, alike, count)


def improved(cluster: IntArray, alike: FloatArray, count: int) -> IntArray:
    """The clusters after exchanges of two experts, the best one first, as long as any raises what is within clusters
    (Kernighan and Lin, Bell System Technical Journal 49, 1970)."""
    cluster = cluster.copy()
    for _ in range(4 * len(cluster)):
        inside = np.array([alike[:, cluster == number].sum(axis=1) for number in range(count)]).T
        own = inside[np.arange(len(cluster)), cluster]
        moved = inside[:, cluster]  # [i, j]: what i shares with the cluster of j
        gain = moved + moved.T - own[:, None] - own[None, :] - 2 * alike
        gain[cluster[:, None] == cluster[None, :]] = 0.0
        one, other = np.unravel_index(int(np.argmax(gain)), gain.shape)
        if gain[one, other] <= 1e-9:
            break
        cluster[[one, other]] = cluster[[other, one]]
    return cluster


def balanced_groups(load: FloatArray, groups: int) -> IntArray:
    """[n] group of each item, equally many in each, the heaviest group as light as can be: a binary program for HiGHS
    (Huangfu and Hall, Mathematical Programming Computation 10, 2018).

    Raises:
        MoesimError: the solver finds no solution.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    items, mean = len(load), max(float(load.mean()), 1e-300)
    cost = np.zeros(items * groups + 1)
    cost[-1] = 1.0
    one = np.zeros((items, len(cost)))
    full = np.zeros((groups, len(cost)))
    below = np.zeros((groups, len(cost)))
    for item in range(items):
        one[item, item * groups : (item + 1) * groups] = 1.0
        for group in range(groups):
            full[group, item * groups + group] = 1.0
            below[group, item * groups + group] = load[item] / mean
    below[:, -1] = -1.0
    upper = np.ones(len(cost))
    upper[-1] = np.inf
    upper[1:groups] = 0.0  # the first item in the first group: groups are interchangeable
    integral: NDArray[Any] = np.ones(len(cost))
    integral[-1] = 0
    found = milp(
        cost,
        constraints=[
            LinearConstraint(one, 1, 1),
            LinearConstraint(full, items // groups, items // groups),
            LinearConstraint(below, -np.inf, 0),
        ],
        integrality=integral,
        bounds=Bounds(np.zeros(len(cost)), upper),
        options={"mip_rel_gap": GAP, "node_limit": NODES},
    )
    if found.x is None:
        raise MoesimError(f"no balanced groups were found: {found.message}", key="placement", fix="choose contiguous")
    return np.asarray(np.rint(found.x[:-1]).reshape(items, groups).argmax(axis=1), dtype=np.int64)
