"""Whole iterations of a dense model, for profiles that hold nothing finer: weights, tokens, and the rest of a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.kernels.forms import Rates, Times, register
from moesim.kernels.shapes import MatrixShape


@register("step")
@dataclass(frozen=True)
class StepForm:
    """overhead + per_token · m + the larger of 2·m·n·k FLOPs at a share of the peak, and n·k weights at a share of the
    bandwidth of memory (Williams et al., Roofline, 2009).

    The shape's n · k are a rank's parameters, m the tokens of the batch. overhead: launches and collectives of a step,
    seconds; per_token: what grows with tokens beside products (attention, collectives), seconds.
    """

    overhead: float
    per_token: float
    compute: float
    memory: float

    def times(self, shape: MatrixShape, rates: Rates) -> Times:
        weights = shape.n * shape.k
        arithmetic = np.asarray(2.0 * shape.m * weights / (self.compute * rates.compute))
        streaming = np.asarray(weights * shape.weight_bytes / (self.memory * rates.memory))
        beside = self.overhead + self.per_token * shape.m
        return Times(np.asarray(beside + np.maximum(arithmetic, streaming)), arithmetic, streaming)
