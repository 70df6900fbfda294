"""Experts to expert-parallel ranks: the protocol, the registry, and the loads that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from moesim.registry import Registry
from moesim.spec.base import Schema
from moesim.spec.complaints import validate
from moesim.spec.errors import MoesimError
from moesim.spec.marked import mark

IntArray = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True)
class Situation:
    """What a policy may know when it places the experts of a model.

    Attributes:
        layers, experts, ranks: MoE layers, experts of each, ranks of the expert-parallel group.
        redundant: physical experts of a layer beyond one for each.
        loads: [layers, experts], expected share of a layer's tokens that each expert gets; uniform where it is unknown.
        nodes: [ranks], the node that each rank is in.
        transitions: [layers - 1, experts, experts], how often a token's first choice e is followed by f in the next
            layer, each layer summing to 1; None where the routing knows no affinity between layers.
        together: [layers, experts, experts], how many of some tokens chose two experts, on the diagonal how many chose
            each; None where nobody counted.
        sharers: consecutive ranks that share a memory.
    """

    layers: int
    experts: int
    ranks: int
    redundant: int
    loads: NDArray[np.float64]
    nodes: IntArray
    transitions: NDArray[np.float64] | None = None
    together: NDArray[np.float64] | None = None
    sharers: int = 1


@dataclass(frozen=True)
class Slots:
    """Physical experts: which expert each of a layer's slots holds, and the rank it is on. An expert in several slots
    has replicas, among which its tokens are divided evenly.

    Attributes:
        expert, owner: [layers, slots].
    """

    expert: IntArray
    owner: IntArray

    @property
    def replicated(self) -> bool:
        """Whether any slot is more than the only one of the expert of its number."""
        return bool((self.expert != np.arange(self.expert.shape[1])).any())


def whole(owner: IntArray) -> Slots:
    """One slot for each expert, of which `owner` [layers, experts] has the rank."""
    return Slots(np.broadcast_to(np.arange(owner.shape[1]), owner.shape), owner)


class Placement(Protocol):
    """Decides which rank of an expert-parallel group owns an expert."""

    def owner(self, layers: int, experts: int, ranks: int) -> IntArray:
        """Owning rank of every expert, shape [layers, experts], values 0 .. ranks - 1.

        Raises:
            MoesimError: there are more ranks than experts.
        """
        ...


@runtime_checkable
class InformedPlacement(Protocol):
    """A placement that looks at loads or affinity, or replicates."""

    def slots(self, situation: Situation) -> Slots:
        """The physical experts of every layer. Raises MoesimError where the situation does not suit it."""
        ...


@runtime_checkable
class Relief(Protocol):
    """A placement that moves tokens, and the weights they need, for every step anew."""

    def relieve(self, tokens: NDArray[np.int64], owner: IntArray, ranks: int) -> Moved:
        """Where the tokens of each draw are computed.

        Args:
            tokens: [n, experts] of n layers or draws. owner: [n, experts]. ranks: of the expert-parallel group.
        """
        ...


@dataclass(frozen=True)
class Moved:
    """Tokens of n layers or draws, after some were moved.

    Attributes:
        tokens: [n, experts, ranks], whole numbers; summed over the ranks those that chose the expert.
        weights: [n, ranks, ranks] experts whose weights go from one rank to another.
    """

    tokens: NDArray[np.int64]
    weights: NDArray[np.int64]


AnyPlacement = Placement | InformedPlacement

#: Placements by name, called with the options that an experiment gives; other packages add theirs under the entry
#: points `moesim.placement`.
PLACEMENTS: Registry[AnyPlacement] = Registry("placement", "placement")


def make_placement(name: str, options: Mapping[str, Any] | None = None) -> AnyPlacement:
    """The placement of that name; one that takes options is a `Schema` of them.

    Raises:
        MoesimError: there is none, or the options are not its own.
    """
    factory = PLACEMENTS.factory(name)
    if isinstance(factory, type) and issubclass(factory, Schema):
        try:
            made: Any = validate(factory, mark(options or {}))
            return cast(AnyPlacement, made)
        except MoesimError as error:
            raise MoesimError(f"placement {name}: {error.what}", key="placement", fix=error.fix) from None
    if options:
        raise MoesimError(f"placement {name} takes no {next(iter(options))!r}", key="placement", fix="remove it")
    return cast(AnyPlacement, factory())


def place(placement: AnyPlacement, situation: Situation) -> Slots:
    """The physical experts of every layer, by a policy.

    Raises:
        MoesimError: the policy cannot, or it leaves out an expert or names a rank that is none.
    """
    layers, experts, ranks = situation.layers, situation.experts, situation.ranks
    if isinstance(placement, InformedPlacement):
        slots = placement.slots(situation)
    else:
        if situation.redundant:
            raise MoesimError("the placement makes no replicas", key="placement.redundant", fix="use eplb, or 0")
        owner = placement.owner(layers, experts, ranks)
        check_owner(owner, layers, experts, ranks)
        slots = whole(owner)
    check_slots(slots, layers, experts, ranks)
    return slots


def check_slots(slots: Slots, layers: int, experts: int, ranks: int) -> None:
    """Every expert of every layer has a slot, and every slot a rank.

    Raises:
        MoesimError: names the first layer and expert without one.
    """
    check_owner(slots.owner, layers, slots.expert.shape[1], ranks)
    held = np.zeros((layers, experts), dtype=np.bool_)
    held[np.arange(layers)[:, None], slots.expert] = True
    if not held.all():
        layer, expert = np.argwhere(~held)[0]
        raise MoesimError(
            f"the placement leaves out expert {expert} of MoE layer {layer}",
            key="placement",
            fix="place every expert of every MoE layer",
        )


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
