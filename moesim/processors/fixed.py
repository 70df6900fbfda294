"""Operator classes that always run on a certain processor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.hardware.machine import Device
from moesim.processors.base import PROCESSORS, IntArray, Loads, coprocessor_index
from moesim.spec.processors import ProcessorsSpec


@PROCESSORS.register("fixed")
class Fixed:
    """`assign: {decode_attention: logic-pim, experts: logic-pim}`; the device's own arithmetic computes the rest."""

    def __init__(self, spec: ProcessorsSpec) -> None:
        self._assign, self.concurrent = dict(spec.assign), spec.concurrent

    def assign(self, pieces: Sequence[str], loads: Loads, device: Device) -> IntArray:
        of_class = [coprocessor_index(self._assign[each], device) if each in self._assign else 0 for each in pieces]
        return np.broadcast_to(np.array(of_class), loads.rows.shape)
