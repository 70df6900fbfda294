"""Lengths of prompts and answers."""

from __future__ import annotations

import math

import numpy as np

from moesim.serving.requests.table import IntArray
from moesim.spec.serving import LengthSpec


def draw_lengths(spec: LengthSpec, count: int, stream: np.random.Generator) -> IntArray:
    """`count` lengths in tokens, rounded and cut to [minimum, maximum]."""
    mean, deviation = spec.mean or 0.0, spec.deviation
    if spec.distribution == "lognormal":
        # Mean m and deviation s of the lengths are those of exp(N(ln m - v/2, v)) with v = ln(1 + s^2/m^2).
        variance = math.log1p((deviation / mean) ** 2)
        values = stream.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), count)
    elif spec.distribution == "normal":
        values = stream.normal(mean, deviation, count)
    elif spec.distribution == "exponential":
        values = stream.exponential(mean, count)
    elif spec.distribution == "uniform":
        values = stream.uniform(mean - deviation, mean + deviation, count)
    elif spec.distribution == "quantiles":
        shares, tokens = np.array(spec.quantiles).T
        values = np.exp(np.interp(stream.random(count), shares, np.log(tokens)))
    else:
        values = np.full(count, mean)
    highest = np.inf if spec.maximum is None else spec.maximum
    return np.clip(np.rint(values), spec.minimum, highest).astype(np.int64)
