"""Which ranks a token visits: copies per expert, and how many of them are one where several experts share a place.

A token goes to `top_k` experts. Sent per expert it is copied top_k times; sent once to each device, node or subtree
that holds any of them, it is copied as often as there are such places. With the experts of every token known, these
are counted (`ExactTokens`); with counts per expert only, they are expectations (`ExpectedTokens`).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from moesim.fabric.topology import BoolArray, FloatArray, IntArray


class Tokens(Protocol):
    """Tokens of n ranks on their way to experts on the same ranks; perhaps for an array of layers and steps."""

    @property
    def copies(self) -> FloatArray:
        """[..., n, n] (token, expert) pairs from rank to rank."""

    def visits(self, sets: BoolArray) -> FloatArray:
        """[..., n, E] tokens of each rank that need any rank of each set; sets: [E, n]."""


class ExactTokens:
    """Tokens whose experts are known.

    Args:
        experts: [T, top_k] experts of each token. source: [T] rank that holds it. owner: [experts] rank of each expert.
    """

    def __init__(self, experts: IntArray, source: IntArray, owner: IntArray, ranks: int) -> None:
        self.source, self.ranks = source, ranks
        cell = np.arange(len(experts))[:, None] * ranks + owner[experts]
        chosen = np.bincount(cell.ravel(), minlength=len(experts) * ranks).reshape(-1, ranks).astype(np.float64)
        self._chosen = chosen > 0
        self._copies = self._by_source(chosen)

    @property
    def copies(self) -> FloatArray:
        return self._copies

    def visits(self, sets: BoolArray) -> FloatArray:
        within = self._chosen.astype(np.float64) @ sets.T.astype(np.float64)
        return self._by_source((within > 0).astype(np.float64))

    def _by_source(self, per_token: FloatArray) -> FloatArray:
        total = np.zeros((self.ranks, per_token.shape[1]))
        np.add.at(total, self.source, per_token)
        return total


class ExpectedTokens:
    """Expectations, where only the counts per expert are known.

    A token that draws its k of E experts without preference misses a set of q experts with probability

        h(q) = C(E - q, k) / C(E, k) = product over i < k of 1 - q / (E - i).

    Where experts differ in popularity, expert e being chosen by a share p_e of the tokens, the probability to miss a
    set is taken as the product of 1 - p_e, times h(q) / (1 - k/E)^q for what drawing exactly k adds to it, with
    q = E sum(p_e) / k. This is exact for equal popularity, and for sets with an expert that all tokens choose.

    Under a limit of M groups of experts per token (node-limited routing: DeepSeek-V3, arXiv 2412.19437, section 2.1.2)
    a group is chosen with probability min(1, M times its share of the copies), each for itself; within the chosen ones
    the same holds.

    Args:
        counts: [..., n, experts] tokens of each rank per expert. owner: [experts] rank of each expert, or
            [..., experts] along the leading axes of counts. top_k: experts per token.
        group: [n] group of each rank's experts; limit: groups per token; None: no limit.
    """

    def __init__(
        self,
        counts: ArrayLike,
        owner: IntArray,
        ranks: int,
        top_k: int,
        group: IntArray | None = None,
        limit: int | None = None,
    ) -> None:
        per_expert = np.asarray(counts, dtype=np.float64)
        limited = group is not None and limit is not None and limit < len(np.unique(group))
        labels = group if group is not None and limited else np.zeros(ranks, dtype=np.int64)
        self._groups: BoolArray = labels[None, :] == np.unique(labels)[:, None]  # [G, n]
        self._open = limit / len(self._groups) if limited and limit is not None else 1.0
        self.top_k, self.experts = top_k, per_expert.shape[-1]
        held = (owner[..., None] == np.arange(ranks)).astype(np.float64)  # [..., experts, n]
        self._copies: FloatArray = per_expert @ held
        self.tokens: FloatArray = per_expert.sum(axis=-1, keepdims=True) / top_k  # [..., n, 1]
        self._popularity(np.divide(per_expert, self.tokens, where=self.tokens > 0, out=np.zeros_like(per_expert)), held)

    @property
    def copies(self) -> FloatArray:
        return self._copies

    def _popularity(self, share: FloatArray, held: FloatArray) -> None:
        """From the share [..., n, experts] of tokens that choose each expert: the chance of each group to be chosen,
        and, given that, how many of a rank's experts are among k, and the log of the chance that none is."""
        of_group = held @ self._groups.T.astype(np.float64)  # [..., experts, G]
        chance = np.minimum(len(self._groups) * self._open * (share @ of_group) / self.top_k, 1.0)
        if self._open < 1:
            inside = np.broadcast_to(of_group[..., None, :, :] > 0, (*share.shape, len(self._groups)))
            most = [np.max(share, axis=-1, where=inside[..., g], initial=0.0) for g in range(len(self._groups))]
            self._chosen = np.maximum(chance, np.stack(most, axis=-1))  # [..., n, G]
        else:
            self._chosen = np.ones_like(chance)
        of_expert = self._chosen @ np.swapaxes(of_group, -1, -2)
        given = np.divide(share, of_expert, where=of_expert > 0, out=np.zeros_like(share)).clip(max=1.0)
        self._wanted = given @ held  # [..., n, n]
        self._missed = np.log1p(-given.clip(max=1 - 1e-15)) @ held

    def visits(self, sets: BoolArray) -> FloatArray:
        missing = np.ones((*self.tokens.shape[:-1], len(sets)))
        for index, members in enumerate(self._groups):
            inside = sets & members
            met = inside.any(axis=1)
            if met.any():
                part = inside[met].T.astype(np.float64)
                reached = 1 - self._miss(self._wanted @ part, self._missed @ part)
                missing[..., met] *= 1 - self._chosen[..., index, None] * reached
        within = self._copies @ sets.T.astype(np.float64)
        visits: FloatArray = np.minimum(self.tokens * (1 - missing), np.minimum(within, self.tokens))
        return visits

    def _miss(self, wanted: FloatArray, missed: FloatArray) -> FloatArray:
        """Chance that none of k draws falls into a set that holds `wanted` of them on average."""
        experts = self.experts * self._open
        size = wanted * experts / self.top_k
        drawn: FloatArray = np.ones_like(size)
        for draw in range(self.top_k):
            drawn *= np.clip(1 - size / max(experts - draw, 1.0), 0.0, 1.0)
        if self.top_k >= experts:
            return drawn
        chance: FloatArray = np.minimum(drawn * np.exp(missed - np.log1p(-self.top_k / experts) * size), 1.0)
        return chance
