"""What the measured rank of a fused-MoE benchmark is handed: expected pairs and touched experts.

The tables record how tokens were routed only by name. `balanced` strides through the experts; `power_law_A` draws a
weight per expert from a truncated power law of exponent A, rounds the weights to counts of tokens and times the most
loaded rank (AIConfigurator, collector/helper.py: balanced_logits, power_law_logits_v3; five unseeded draws per
measurement). Here the drawing is repeated with streams of our own, so that a table always gives the same numbers.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.split import rank
from moesim.spec.errors import MoesimError

IntArray = NDArray[np.int64]

#: Draws that an expectation averages.
DRAWS = 16


class Load(NamedTuple):
    """Of the measured rank: (token, expert) pairs, and experts with a token."""

    pairs: float
    touched: float


def known(distribution: str) -> bool:
    """Whether `expected_load` knows a routing by this name."""
    return distribution == "balanced" or re.fullmatch(r"power_law_\d+(\.\d+)?", str(distribution)) is not None


@lru_cache(maxsize=65536)
def expected_load(distribution: str, tokens: int, experts: int, topk: int, ranks: int) -> Load:
    """The load of the rank that is timed, of `ranks` that share `experts` evenly.

    Raises:
        MoesimError: the distribution is not known.
    """
    if distribution == "balanced":
        counts = _balanced(tokens, experts, topk)[None, : experts // ranks]
    elif known(distribution):
        label = f"routing/{distribution}/{tokens}/{experts}/{topk}/{ranks}"
        stream = np.random.default_rng(rank(label))
        counts = _power_law(float(distribution.removeprefix("power_law_")), tokens, experts, topk, ranks, stream)
    else:
        raise MoesimError(f"unknown routing {distribution!r}", fix="known are balanced and power_law_EXPONENT")
    return Load(float(counts.sum(axis=1).mean()), float((counts > 0).sum(axis=1).mean()))


def _balanced(tokens: int, experts: int, topk: int) -> IntArray:
    """[experts] tokens of each: choice i of token t is expert t + i·stride, or as evenly spread if tokens are few."""
    stride = -(-experts // topk)
    first = np.arange(tokens) if tokens >= stride else np.arange(tokens) * stride / tokens
    chosen = (first[:, None] + np.arange(topk)[None, :] * stride).astype(np.int64) % experts
    return np.bincount(chosen.ravel(), minlength=experts)


def _power_law(
    exponent: float, tokens: int, experts: int, topk: int, ranks: int, stream: np.random.Generator
) -> IntArray:
    """[draws, experts of a rank] tokens of each expert of the most loaded rank."""
    low, high = (1.0, 0.8 * tokens) if tokens * topk > experts else (0.01, 2.0)
    ends = low ** (1.0 - exponent), high ** (1.0 - exponent)
    uniform = stream.random((DRAWS, ranks, experts // ranks))
    weights = ((ends[1] - ends[0]) * uniform + ends[0]) ** (1.0 / (1.0 - exponent))
    total = tokens * topk
    share = weights / weights.sum(axis=(1, 2), keepdims=True)
    counts = np.minimum(np.rint(share * total).astype(np.int64), tokens)
    counts = _adjusted(counts, total - counts.sum(axis=(1, 2)), tokens)
    busiest = counts.sum(axis=2).argmax(axis=1)
    return np.asarray(counts[np.arange(DRAWS), busiest])


def _adjusted(counts: IntArray, missing: IntArray, most: int) -> IntArray:
    """[draws, ranks, experts] counts with `missing` [draws] more (or fewer), none above `most` or below 0.

    The ranks take turns, each at its emptiest (fullest) expert, while they have room.
    """
    sign = np.where(missing >= 0, 1, -1)[:, None]
    height = counts.sum(axis=2)
    room = np.where(sign > 0, most * counts.shape[2] - height, height)
    given = _level(np.zeros_like(room), room, np.abs(missing)[:, None])
    signed = sign[:, :, None] * counts
    return np.asarray(sign[:, :, None] * _filled(signed, given))


def _level(taken: IntArray, room: IntArray, amount: IntArray) -> IntArray:
    """[draws, ranks] how an `amount` [draws, 1] is dealt round by round to ranks that have `room`."""
    left = amount - taken.sum(axis=1, keepdims=True)
    if not left.any():
        return taken
    open_ranks = taken < room
    place = np.cumsum(open_ranks, axis=1) - 1
    count = np.maximum(open_ranks.sum(axis=1, keepdims=True), 1)
    turn = np.where(open_ranks, left // count + (place < left % count), 0)
    return _level(taken + np.minimum(turn, room - taken), room, amount)


def _filled(rows: IntArray, amount: IntArray) -> IntArray:
    """[..., experts] rows after `amount` [...] ones were added one by one, each to its row's smallest entry."""
    order = np.argsort(rows, axis=-1, kind="stable")
    climb = np.take_along_axis(rows, order, axis=-1)
    place = np.arange(rows.shape[-1])
    below = np.cumsum(climb, axis=-1)
    cost = (place + 1) * climb - below  # to lift entries 0..i to the height of entry i
    lifted = (cost <= amount[..., None]).sum(axis=-1, keepdims=True)
    level, rest = np.divmod(amount[..., None] + np.take_along_axis(below, lifted - 1, axis=-1), lifted)
    climb = np.where(place < lifted, level + (place < rest), climb)
    filled = np.empty_like(rows)
    np.put_along_axis(filled, order, climb, axis=-1)
    return filled
