"""What repeats of a run would scatter like, to the first order and without a repeat: for runs that are only scored.

A step is a sum of kernels, collectives and the host's work; each source of error stretches its share of it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from moesim.engine.record import RunRecord
from moesim.uncertainty.intervals import LEVEL
from moesim.uncertainty.sources import Source

#: Half the width of an interval in standard deviations.
REACH = NormalDist().inv_cdf(0.5 + LEVEL / 2)
#: Operators of another kernel's kind, by the kernel's name.
_KINDS = {"attention_prefill": "attention", "attention_decode": "attention", "mla_prefill": "attention",
          "mla_decode": "attention"}  # fmt: skip
#: Steeper growth is a queue without end, of which this says nothing.
_STEEPEST = 0.8


def step_deviation(record: RunRecord, sources: Sequence[Source]) -> float:
    """Standard deviation of the logarithm of the steps' time: shares of the critical path times the deviations of those
    who stretch them; of several that stretch the same share (prefill and decode, operations of a library) the mean."""
    by_kind: dict[str, list[float]] = defaultdict(list)
    for source in sources:
        by_kind[_kind(source)].append(_deviation(source))
    kinds, seconds = record.operators["kind"], record.operators["seconds"].astype(np.float64)
    total = float(seconds.sum())
    parts = [
        float(seconds[kinds == kind].sum()) / total * float(np.mean(deviations))
        for kind, deviations in by_kind.items()
    ]  # fmt: skip
    return math.sqrt(sum(part**2 for part in parts))


def crowding(record: RunRecord) -> float:
    """By how much more latencies grow than steps do, in an open loop: slower steps leave more sequences under way
    (Little's law), whose steps are slower still. 1 / (1 - slope of steps' time over their sequences, in logarithms)."""
    steps = record.iterations
    decoding = (steps["prefill_sequences"] == 0) & (steps["sequences"] > 0)
    sequences, seconds = steps["sequences"][decoding], (steps["end"] - steps["start"])[decoding]
    if not len(sequences) or np.ptp(sequences) == 0:
        return 1.0
    slope = float(np.polyfit(np.log(sequences), np.log(seconds), 1)[0])
    return 1.0 / (1.0 - min(max(slope, 0.0), _STEEPEST))


def _kind(source: Source) -> str:
    """Of the operators that a source stretches."""
    if source.what == "kernels":
        return _KINDS.get(source.name, source.name)
    return "host" if source.what == "engine" else "collective"


def _deviation(source: Source) -> float:
    """Standard deviation of the logarithm of a source's factor, as of a lognormal with its outer quantiles."""
    return math.log(source.spread.quantiles[-1] / source.spread.quantiles[0]) / (2 * REACH)
