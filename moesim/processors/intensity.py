"""Operators of few FLOP per byte run where the bandwidth is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.hardware.machine import Device
from moesim.processors.base import PROCESSORS, IntArray, Loads, coprocessor_index
from moesim.spec.processors import ProcessorsSpec


@PROCESSORS.register("intensity")
class Intensity:
    """An operator moves to the coprocessor up to a threshold of its FLOP per byte, all its experts together (Duplex,
    arXiv 2409.01141, section IV); without a threshold, where the coprocessor is done sooner."""

    def __init__(self, spec: ProcessorsSpec) -> None:
        self._processor, self._threshold = spec.processor, spec.threshold
        self._operators, self.concurrent = frozenset(spec.operators), spec.concurrent

    def assign(self, pieces: Sequence[str], loads: Loads, device: Device) -> IntArray:
        other = coprocessor_index(self._processor, device)
        found = np.zeros(loads.rows.shape, dtype=np.int64)
        for kind in dict.fromkeys(pieces):
            if other == 0 or kind not in self._operators:
                continue
            mine = np.array([each == kind for each in pieces])
            if self._threshold is None:
                moves = loads.seconds[other][..., mine].sum(axis=-1) < loads.seconds[0][..., mine].sum(axis=-1)
            else:
                moved, computed = loads.bytes[..., mine].sum(axis=-1), loads.flops[..., mine].sum(axis=-1)
                moves = computed <= self._threshold * moved
            found[..., mine] = np.where(moves, other, 0)[..., None]
        return found
