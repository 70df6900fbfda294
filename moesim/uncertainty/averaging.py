"""How far the errors of single shapes average out in a step that calls a kernel in several."""

from __future__ import annotations

import math
from collections import defaultdict

from moesim.serving.build import Deployment
from moesim.step.stage import StageCosts

#: Tokens of the step whose calls are weighed: while sequences decode, weights take the time, and their sizes do not
#: change.
_TOKENS = 64

#: Classes of calls that are priced as another's kernel.
_AS = {"router": "gemm"}


def averaging(deployment: Deployment) -> dict[tuple[str, str], float]:
    """By device and kernel, the standard deviation of a step's time over that of a call's, where errors of shapes are
    independent: sqrt(sum of squares) of the time that each shape takes, over their sum. Kernels that a step calls in
    one shape alone are left out."""
    times: dict[tuple[str, str], dict[tuple[int, int], float]] = defaultdict(lambda: defaultdict(float))
    for replica in deployment.replicas:
        for stage in replica.pricer.stages:
            _add(times, stage)
    found = {}
    for key, by_shape in times.items():
        total = sum(by_shape.values())
        if len(by_shape) > 1 and total > 0:
            found[key] = math.sqrt(sum(each**2 for each in by_shape.values())) / total
    return found


def _add(times: dict[tuple[str, str], dict[tuple[int, int], float]], stage: StageCosts) -> None:
    """A stage's calls, on each kind of its devices."""
    operators = stage.operators
    operators.update(stage.per_sequence)
    for table, rank in zip(stage.tables, stage.representative, strict=True):
        device = stage.devices[rank].spec.name
        for operator, count in operators.items():
            took = table[operator].duration
            key = device, _AS.get(operator.kind, operator.kind)
            times[key][operator.inputs, operator.outputs] += count * float(took[min(_TOKENS, len(took) - 1)])
