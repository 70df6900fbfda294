"""How a step graph becomes a schedule: by plan (sweep or progressive filling) or operation by operation."""

from __future__ import annotations

from typing import Literal

from moesim.engine.invariants import check_schedule
from moesim.step.graph import Schedule, StepGraph

Fidelity = Literal["plan", "op"]


def schedule(graph: StepGraph, fidelity: Fidelity = "plan") -> Schedule:
    """When each node of the step runs. Checked on every call.

    Raises:
        InvariantError: the executor contradicts the graph.
    """
    executed = _executed(graph, fidelity)
    check_schedule(graph, executed)
    return executed


def _executed(graph: StepGraph, fidelity: Fidelity) -> Schedule:
    if fidelity == "op":
        from moesim.engine.operations import execute

        return execute(graph)
    if graph.demand is not None:
        from moesim.engine.shared import fill

        return fill(graph)
    from moesim.engine.sweep import sweep

    return sweep(graph)
