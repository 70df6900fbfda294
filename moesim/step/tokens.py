"""The tokens of a step on their way to their experts, as an exchange asks for them."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.tokens import ExpectedTokens, Tokens
from moesim.placement import Relief, Slots
from moesim.routing.drawn import Drawn
from moesim.spec.errors import MoesimError
from moesim.spec.model import MoeSpec
from moesim.step.graph import FloatArray, IntArray
from moesim.step.layout import ReplicaLayout


class ExpertPlaces(NamedTuple):
    """Where physical experts are, and how many a token needs.

    owner: [layers, slots] expert rank of each. group, limit: [ranks] group of each rank's experts and groups per token,
    where routers limit them and the draws do not; None elsewhere. relief: moves tokens elsewhere in every step. hops:
    [layers - 1, ranks, ranks] share of the tokens that go from one rank to another between layers, where they stay with
    their experts (`DispatchSpec.returns`).
    """

    owner: IntArray
    ranks: int
    top_k: int
    group: IntArray | None = None
    limit: int | None = None
    relief: Relief | None = None
    hops: FloatArray | None = None

    def part(self, layers: slice) -> ExpertPlaces:
        return self._replace(owner=self.owner[layers])

    def expected(self, counts: NDArray[Any]) -> ExpectedTokens:
        """Tokens of which the counts [L, sources, experts] per expert are known."""
        return ExpectedTokens(counts, self.owner, self.ranks, self.top_k, self.group, self.limit)

    def relieved(self, counts: NDArray[Any], computed: FloatArray | None) -> Tokens:
        """The same after a relief, of which the pairs [L, ranks] that ranks compute are known; None: there is none."""
        expected = self.expected(counts)
        return expected if computed is None else RelievedTokens(expected, computed)


def expert_places(slots: Slots, ranks: int, moe: MoeSpec, limited: bool) -> ExpertPlaces:
    """Args: limited: take the model's limit of expert groups per token into account, where each rank's experts are of
    one group."""
    owner = slots.owner
    places = ExpertPlaces(owner, ranks, moe.top_k)
    if not limited or moe.top_groups == moe.groups:
        return places
    group = slots.expert // (moe.experts // moe.groups)
    of_rank = np.full(ranks, -1)
    of_rank[owner.ravel()] = group.ravel()
    if (of_rank[owner] != group).any():
        return places
    return places._replace(group=of_rank, limit=moe.top_groups)


class RoutedTokens:
    """The tokens of every DP rank, by layer; see fabric.tokens.Tokens. What was drawn token by token is counted, what
    was drawn as counts, or under a limit of groups that the draws do not know, is expected."""

    def __init__(self, drawn: Drawn, places: ExpertPlaces) -> None:
        self.drawn, self.places = drawn, places

    def part(self, layers: slice) -> RoutedTokens:
        return RoutedTokens(self.drawn.part(layers), self.places.part(layers))

    @cached_property
    def copies(self) -> NDArray[Any]:
        """[L, DP ranks, expert ranks]; whole numbers, unless a relief takes from every source alike."""
        if self.places.relief is None:
            return self.drawn.traffic(self.places.owner, self.places.ranks)
        totals = self.drawn.totals
        moved = self.places.relief.relieve(totals, self.places.owner, self.places.ranks).tokens
        return self.drawn.counts @ (moved / np.maximum(totals, 1)[:, :, None])

    @cached_property
    def _expected(self) -> ExpectedTokens:
        return self.places.expected(self.drawn.counts)

    def visits(self, sets: NDArray[np.bool_]) -> FloatArray:
        """[L, DP ranks, E] for sets [E, expert ranks]."""
        if self.places.limit is not None:
            return self._expected.visits(sets)
        visits = self.drawn.visits(sets.T[self.places.owner]).astype(np.float64)
        if len(self.drawn.summed):
            visits[:, self.drawn.summed] += self.places.expected(self.drawn.sums).visits(sets)
        return visits


class RelievedTokens:
    """Expected tokens, taken from every source alike to where they are computed; `visits` are those before the relief,
    as `RoutedTokens` has them."""

    def __init__(self, before: ExpectedTokens, computed: FloatArray) -> None:
        shares = computed / np.maximum(computed.sum(axis=-1, keepdims=True), 1)
        self.visits = before.visits
        self.copies: FloatArray = before.copies.sum(axis=-1, keepdims=True) * shares[:, None]


class HoppingTokens(RoutedTokens):
    """Tokens that stay with the only expert they choose: each layer's go from where the layer before left them."""

    def part(self, layers: slice) -> HoppingTokens:
        return HoppingTokens(self.drawn.part(layers), self.places.part(layers))

    @cached_property
    def copies(self) -> NDArray[Any]:
        """[L, ranks, ranks] whole numbers."""
        if len(self.drawn.summed):
            raise MoesimError(
                "tokens that stay with their experts need a routing that knows the choices of every token",
                key="engine.dispatch.returns", fix="give routing.affinity, or a trace with the experts of every token",
            )  # fmt: skip
        ranks, layer = self.places.ranks, np.arange(len(self.places.owner))[:, None]
        there = self.places.owner[layer, self.drawn.expert[layer, self.drawn.picks[0]]]
        before = np.concatenate([self.drawn.source[None], there[:-1]])
        weight = np.ones(there.shape[1], dtype=np.int64)
        weight[len(weight) - len(self.drawn.weight) :] = self.drawn.weight
        cell = (layer * ranks + before) * ranks + there
        found = np.bincount(cell.ravel(), np.tile(weight, len(layer)), minlength=len(layer) * ranks * ranks)
        return found.astype(np.int64).reshape(len(layer), ranks, ranks)

    def visits(self, sets: NDArray[np.bool_]) -> FloatArray:
        """See `ExpectedHops.visits`."""
        visits: FloatArray = self.copies.astype(np.float64) @ sets.T.astype(np.float64)
        return visits


class ExpectedHops:
    """The same in expectation, for so many tokens [ranks], of which a share [L, slots] goes to each slot."""

    def __init__(self, tokens: IntArray, share: FloatArray, places: ExpertPlaces) -> None:
        assert places.hops is not None
        first = places.part(slice(0, 1)).expected(tokens[:, None] * share[:1, None]).copies
        self.copies: FloatArray = np.concatenate([first, places.hops * float(tokens.sum())])

    def visits(self, sets: NDArray[np.bool_]) -> FloatArray:
        """[L, ranks, E] for sets [E, ranks]: a token has one copy."""
        visits: FloatArray = self.copies @ sets.T.astype(np.float64)
        return visits


class LaneTokens:
    """The same from lane to lane of a stage: a DP rank's tokens are divided over its lanes, and each lane of an expert
    rank receives every copy."""

    def __init__(self, tokens: Tokens, layout: ReplicaLayout) -> None:
        self.tokens, self.tp = tokens, layout.tp
        lanes = np.arange(layout.stage_lanes)
        self.rank, self.expert_rank = lanes // layout.tp, lanes // layout.expert_tp
        self.of_rank = self.expert_rank[:, None] == np.arange(layout.expert_ranks)

    @cached_property
    def copies(self) -> FloatArray:
        """[L, lanes, lanes]"""
        copies = self.tokens.copies
        if len(self.rank) > copies.shape[-1]:
            copies = copies[..., self.expert_rank]
        if len(self.rank) > copies.shape[-2]:
            copies = copies[..., self.rank, :]
        divided: FloatArray = copies / self.tp
        return divided

    def visits(self, sets: NDArray[np.bool_]) -> FloatArray:
        """[L, lanes, E] for sets [E, lanes]."""
        ranks = sets.astype(np.int64) @ self.of_rank.astype(np.int64) > 0
        visits: FloatArray = self.tokens.visits(ranks)[..., self.rank, :] / self.tp
        return visits
