"""The pieces of an operator divided between a device's own arithmetic and a coprocessor, which work side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.hardware.machine import Device
from moesim.processors.base import PROCESSORS, IntArray, Loads, coprocessor_index
from moesim.spec.processors import ProcessorsSpec


@PROCESSORS.register("co-processing")
class CoProcessing:
    """The pieces with the fewest rows go to the coprocessor, as many of them as make the later of the two end soonest,
    by what each takes on either (the lookup tables of Duplex, arXiv 2409.01141, section V)."""

    concurrent = True

    def __init__(self, spec: ProcessorsSpec) -> None:
        self._processor, self._operators = spec.processor, frozenset(spec.operators)

    def assign(self, pieces: Sequence[str], loads: Loads, device: Device) -> IntArray:
        other = coprocessor_index(self._processor, device)
        movable = np.array([each in self._operators for each in pieces])
        if other == 0 or not movable.any():
            return np.zeros(loads.rows.shape, dtype=np.int64)
        # What may not move counts as the piece with the most rows: it stays.
        order = np.argsort(np.where(movable, loads.rows, np.inf), axis=-1, kind="stable")
        here, there = (np.take_along_axis(loads.seconds[p], order, axis=-1) for p in (0, other))
        # With the first k pieces moved, k = 0 .. all of them.
        none = np.zeros((*loads.rows.shape[:-1], 1))
        moved = np.concatenate([none, np.cumsum(there, axis=-1)], axis=-1)
        stays = np.concatenate([np.cumsum(here[..., ::-1], axis=-1)[..., ::-1], none], axis=-1)
        ends = np.maximum(moved, stays)
        ends[..., int(movable.sum()) + 1 :] = np.inf
        best = ends.argmin(axis=-1)
        rank = np.argsort(order, axis=-1, kind="stable")
        found: IntArray = np.where(rank < best[..., None], other, 0)
        return found
