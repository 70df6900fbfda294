"""The tokens of a step on their way to their experts, as an exchange asks for them."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.tokens import ExpectedTokens, Tokens
from moesim.routing.drawn import Drawn
from moesim.spec.model import MoeSpec
from moesim.step.graph import FloatArray, IntArray
from moesim.step.layout import ReplicaLayout


class ExpertPlaces(NamedTuple):
    """Where experts are, and how many a token needs.

    owner: [layers, experts] expert rank of each. group, limit: [ranks] group of each rank's experts and groups per
    token, where routers limit them and the draws do not; None elsewhere.
    """

    owner: IntArray
    ranks: int
    top_k: int
    group: IntArray | None = None
    limit: int | None = None

    def part(self, layers: slice) -> ExpertPlaces:
        return self._replace(owner=self.owner[layers])

    def expected(self, counts: NDArray[Any]) -> ExpectedTokens:
        """Tokens of which the counts [L, sources, experts] per expert are known."""
        return ExpectedTokens(counts, self.owner, self.ranks, self.top_k, self.group, self.limit)


def expert_places(owner: IntArray, ranks: int, moe: MoeSpec, limited: bool) -> ExpertPlaces:
    """Args: limited: take the model's limit of expert groups per token into account, where each rank's experts are of
    one group."""
    places = ExpertPlaces(owner, ranks, moe.top_k)
    if not limited or moe.top_groups == moe.groups:
        return places
    group = np.broadcast_to(np.arange(moe.experts) // (moe.experts // moe.groups), owner.shape)
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
        """[L, DP ranks, expert ranks] whole numbers."""
        return self.drawn.traffic(self.places.owner, self.places.ranks)

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
