"""`exflow`: experts that follow each other from layer to layer share a rank (ExFlow, arXiv 2401.08383).

Every layer's experts are divided evenly over the ranks so that as many tokens as possible find the expert of their
first choice on the rank that holds that of the layer before. Written as a mixed-integer program (experts of layer l on
rank g: x[l, e, g]; pairs that stay: y[l, e, f, g] <= x[l, e, g], y <= x[l + 1, f, g]; maximise the weight of y), it is
solved exactly by HiGHS while it is small. Beyond that, layer by layer: with its neighbours fixed, the best placement of
one layer is an assignment problem, solved exactly; sweeps over the layers repeat it until nothing improves, from
several starts, and the best is kept. With one expert per rank the first sweep is exact: a layer's best order relative
to the last does not depend on what comes after.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from moesim.placement.base import PLACEMENTS, IntArray, Situation, Slots
from moesim.spec.base import Schema
from moesim.spec.errors import MoesimError

FloatArray = NDArray[np.float64]

#: Binary variables up to which the program is solved exactly: about a second.
_EXACT = 48


@PLACEMENTS.register("exflow")
class Affine(Schema):
    """Placement by affinity between layers; starts: of the heuristic, from different first layers."""

    starts: int = Field(default=4, gt=0, le=1000)

    def slots(self, situation: Situation) -> Slots:
        """See `InformedPlacement.slots`."""
        if situation.transitions is None:
            raise MoesimError(
                "placement exflow needs a routing that knows which expert follows which", key="placement",
                fix="give routing.affinity, or a trace with the experts of every token",
            )  # fmt: skip
        if situation.redundant:
            raise MoesimError("placement exflow makes no replicas", key="placement.redundant", fix="use eplb, or 0")
        if situation.experts % situation.ranks:
            raise MoesimError(
                f"{situation.ranks} ranks do not divide {situation.experts} experts", key="placement",
                fix="choose an ep that does",
            )  # fmt: skip
        owner = affine_owner(situation.transitions, situation.ranks, self.starts)
        return Slots(np.tile(np.arange(situation.experts), (situation.layers, 1)), owner)


def affine_owner(transitions: FloatArray, ranks: int, starts: int = 4) -> IntArray:
    """The rank of every expert, equally many on each.

    Args:
        transitions: [layers - 1, experts, experts] weight of the pairs of experts in consecutive layers.

    Returns:
        [layers, experts].
    """
    layers, experts = len(transitions) + 1, transitions.shape[-1]
    if layers == 1:
        only: IntArray = np.arange(experts)[None] // (experts // ranks)
        return only
    if layers * experts * ranks <= _EXACT:
        return exact_owner(transitions, ranks)
    random = np.random.default_rng(0)
    even = np.arange(experts) // (experts // ranks)
    best: IntArray | None = None
    for start in range(starts):
        owner = _swept(transitions, ranks, random.permutation(even) if start else even)
        if best is None or staying(transitions, owner) > staying(transitions, best) + 1e-12:
            best = owner
    assert best is not None
    return best


def staying(transitions: FloatArray, owner: IntArray) -> float:
    """Weight of the pairs whose experts share a rank, mean over the steps from layer to layer."""
    same = owner[:-1, :, None] == owner[1:, None, :]
    return float((transitions * same).sum() / len(transitions))


def _swept(transitions: FloatArray, ranks: int, first: IntArray) -> IntArray:
    layers, experts = len(transitions) + 1, transitions.shape[-1]
    owner = np.tile(first, (layers, 1))
    for layer in range(1, layers):
        owner[layer] = _assigned(_gain(transitions[layer - 1].T, owner[layer - 1], ranks))
    found = staying(transitions, owner)
    while True:
        for layer in [*range(layers), *reversed(range(layers - 1))]:
            gain = np.zeros((experts, ranks))
            if layer > 0:
                gain += _gain(transitions[layer - 1].T, owner[layer - 1], ranks)
            if layer < layers - 1:
                gain += _gain(transitions[layer], owner[layer + 1], ranks)
            owner[layer] = _assigned(gain)
        before, found = found, staying(transitions, owner)
        if found <= before + 1e-12:
            return owner


def _gain(weights: FloatArray, neighbour: IntArray, ranks: int) -> FloatArray:
    """[experts, ranks] weight that stays where an expert is put on a rank, its neighbours being placed."""
    gain: FloatArray = weights @ (neighbour[:, None] == np.arange(ranks)).astype(np.float64)
    return gain


def _assigned(gain: FloatArray) -> IntArray:
    """The rank of each expert, equally many on each, of the largest total gain."""
    from scipy.optimize import linear_sum_assignment

    room = len(gain) // gain.shape[1]
    _, seat = linear_sum_assignment(-np.repeat(gain, room, axis=1))
    return np.asarray(seat // room, dtype=np.int64)


def exact_owner(transitions: FloatArray, ranks: int) -> IntArray:
    """The optimum, by HiGHS; see the head of this file for the program."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    layers, experts = len(transitions) + 1, transitions.shape[-1]
    placed = np.arange(layers * experts * ranks).reshape(layers, experts, ranks)
    pairs = placed.size + np.arange(transitions.size * ranks).reshape(*transitions.shape, ranks)
    size = placed.size + pairs.size
    cost = np.zeros(size)
    cost[pairs] = -transitions[..., None]
    rows: list[tuple[Any, Any, Any]] = []
    bounds: list[tuple[float, float]] = []

    def add(columns: Any, signs: Any, low: float, high: float) -> None:
        rows.append((np.full(len(columns), len(bounds)), columns, signs))
        bounds.append((low, high))

    for layer in range(layers):
        for expert in range(experts):
            add(placed[layer, expert], np.ones(ranks), 1, 1)
        for rank in range(ranks):
            add(placed[layer, :, rank], np.ones(experts), experts // ranks, experts // ranks)
    for layer, expert, following, rank in np.ndindex(*pairs.shape):
        pair = pairs[layer, expert, following, rank]
        add([pair, placed[layer, expert, rank]], [1, -1], -np.inf, 0)
        add([pair, placed[layer + 1, following, rank]], [1, -1], -np.inf, 0)
    row, column, sign = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    low, high = np.array(bounds).T
    upper = np.ones(size)
    fixed = np.zeros(size)
    fixed[placed[0, 0, 0]] = 1  # ranks are alike
    integral = np.zeros(size)
    integral[placed] = 1
    found = milp(
        cost,
        integrality=integral,
        bounds=Bounds(fixed, upper),
        constraints=LinearConstraint(coo_array((sign, (row, column)), shape=(len(bounds), size)).tocsr(), low, high),
    )
    return np.asarray(found.x[placed].argmax(axis=2))
