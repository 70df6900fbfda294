"""Replicas of busy experts, and the packing of them on devices: the greedy heuristics of DeepSeek's EPLB.

The algorithm is that of the description of EPLB (DeepSeek, Expert Parallelism Load Balancer, 2025): replicas go one by
one to the expert whose replicas are the busiest; packing takes the heaviest first and gives it to the lightest bin that
has room, each bin taking equally many. Hierarchical balancing packs groups of experts on nodes first, so that
group-limited routing stays within nodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.spec.errors import MoesimError

IntArray = NDArray[np.signedinteger[Any]]
FloatArray = NDArray[np.float64]


def pack(weights: FloatArray, bins: int) -> IntArray:
    """Items to bins, equally many in each, heaviest item first to the lightest bin with room.

    Args:
        weights: [n] of the items; bins divides n.

    Returns:
        [bins, n / bins], the items of each bin in the order in which they came.
    """
    room = len(weights) // bins
    held: list[list[int]] = [[] for _ in range(bins)]
    load = np.zeros(bins)
    for item in np.argsort(-weights, kind="stable"):
        open_bins = np.where([len(each) < room for each in held], load, np.inf)
        lightest = int(np.argmin(open_bins))
        held[lightest].append(int(item))
        load[lightest] += weights[item]
    return np.array(held, dtype=np.int64)


def replicate(loads: FloatArray, slots: int) -> IntArray:
    """Experts to slots: one each, then one more for the expert whose replicas bear most, until the slots are full.

    Args:
        loads: [E] tokens of every expert; slots is at least E.

    Returns:
        [slots], the expert of each: 0 .. E - 1, then those that were added, in order.
    """
    counts = np.ones(len(loads))
    added = []
    for _ in range(slots - len(loads)):
        busiest = int(np.argmax(loads / counts))
        counts[busiest] += 1
        added.append(busiest)
    return np.array([*range(len(loads)), *added], dtype=np.int64)


def balance(loads: FloatArray, slots: int, ranks: int, *, groups: int = 1, nodes: int = 1) -> IntArray:
    """One layer's experts, replicated and packed on ranks; hierarchical where the nodes divide the groups, else global.

    Args:
        loads: [E] tokens of every expert. slots: physical experts, on all ranks together. groups: of consecutive
            experts, that group-limited routing knows. nodes: that the ranks stand in, consecutive ones together.

    Returns:
        [ranks, slots / ranks], the experts that each rank holds; one may stand there twice.

    Raises:
        MoesimError: the slots are too few, or do not divide among the ranks; the groups do not divide the experts, or
            the nodes the ranks.
    """
    if groups % nodes:
        groups = nodes = 1
    _check(len(loads), slots, ranks, groups, nodes)
    size = len(loads) // groups
    packed = pack(loads.reshape(groups, size).sum(axis=1), nodes)
    held = []
    for of_node in packed:
        experts = (of_node[:, None] * size + np.arange(size)).ravel()
        chosen = replicate(loads[experts], slots // nodes)
        counts = np.bincount(chosen, minlength=len(experts))
        shares = loads[experts][chosen] / counts[chosen]
        held.append(experts[chosen[pack(shares, ranks // nodes)]])
    return np.concatenate(held)


def _check(experts: int, slots: int, ranks: int, groups: int, nodes: int) -> None:
    if slots < experts:
        raise MoesimError(f"{slots} slots hold fewer than the {experts} experts", fix="raise redundant")
    if slots % ranks:
        more = -slots % ranks
        raise MoesimError(
            f"{slots} replicas do not divide among {ranks} ranks",
            fix=f"redundant {slots - experts + more} would, or redundant {slots - experts + more - ranks}"
            if slots - experts + more >= ranks
            else f"redundant {slots - experts + more} would",
        )
    if experts % groups:
        raise MoesimError(f"{groups} groups do not divide the {experts} experts", fix="choose groups that do")
    if ranks % nodes:
        raise MoesimError(f"{nodes} nodes do not divide the {ranks} ranks", fix="choose nodes that do")
