"""Experts to expert-parallel ranks: the protocol, the registry, and the loads that follow."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moesim.registry import Registry
from moesim.spec.errors import MoesimError

IntArray = NDArray[np.signedinteger[Any]]


class Placement(Protocol):
    """Decides which rank of an expert-parallel group owns an expert."""

    def owner(self, layers: int, experts: int, ranks: int) -> IntArray:
        """Owning rank of every expert, shape [layers, experts], values 0 .. ranks - 1.

        Raises:
            MoesimError: there are more ranks than experts.
        """
        ...


#: Placements by name; other packages add theirs under the entry points `moesim.placement`.
PLACEMENTS: Registry[Placement] = Registry("placement", "placement")


def make_placement(name: str) -> Placement:
    """The placement of that name. Raises MoesimError where there is none."""
    return PLACEMENTS.make(name)


def check_owner(owner: IntArray, layers: int, experts: int, ranks: int) -> None:
    """Every expert of every layer has an owner among the ranks.

    Raises:
        MoesimError: names the first layer and expert without one.
    """
    if owner.shape != (layers, experts):
        raise MoesimError(
            f"the placement covers {' x '.join(map(str, owner.shape))} experts, the model has {layers} x {experts}",
            fix="place every expert of every MoE layer",
        )
    astray = (owner < 0) | (owner >= ranks)
    if astray.any():
        layer, expert = np.argwhere(astray)[0]
        raise MoesimError(
            f"the placement puts expert {expert} of MoE layer {layer} on rank {owner[layer, expert]} of {ranks}",
            fix=f"place every expert on a rank from 0 to {ranks - 1}",
        )


def local_experts(owner: IntArray, rank: int) -> list[IntArray]:
    """The experts that `rank` holds, ascending, one array per layer."""
    return [np.flatnonzero(of_layer == rank) for of_layer in owner]


def rank_loads(counts: NDArray[np.int64], owner: IntArray, ranks: int) -> NDArray[np.int64]:
    """(Token, expert) pairs from every source to every rank.

    Args:
        counts: [layers, sources, experts], tokens per expert.
        owner: [layers, experts], the rank of every expert.
        ranks: size of the expert-parallel group.

    Returns:
        [layers, sources, ranks]; each row sums to that of `counts`.

    Raises:
        MoesimError: an expert has no owner among the ranks.
    """
    layers, sources, experts = counts.shape
    check_owner(owner, layers, experts, ranks)
    each = experts // ranks
    if each * ranks == experts:
        if (owner == np.arange(experts) // each).all():
            return _sum_slices(counts.reshape(layers, sources, ranks, each), 3)
        if (owner == np.arange(experts) % ranks).all():
            return _sum_slices(counts.reshape(layers, sources, each, ranks), 2)
    cell = (np.arange(layers)[:, None, None] * sources + np.arange(sources)[:, None]) * ranks + owner[:, None, :]
    total = np.bincount(cell.ravel(), weights=counts.ravel(), minlength=layers * sources * ranks)
    return total.astype(np.int64).reshape(layers, sources, ranks)


def _sum_slices(grouped: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    """Sum over a short axis, slice by slice: several times faster than `sum` when it is a few entries long."""
    if grouped.shape[axis] > 16:
        return np.asarray(grouped.sum(axis=axis))
    slices = np.moveaxis(grouped, axis, 0)
    total: NDArray[np.int64] = slices[0].copy()
    for part in slices[1:]:
        total += part
    return total
