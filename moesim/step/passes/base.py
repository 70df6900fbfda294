"""The seam: a step graph in, a step graph out."""

from __future__ import annotations

from typing import Protocol

from moesim.step.graph import StepGraph


class StepPass(Protocol):
    """Changes when the work of a step is done, not what is done. Bytes and FLOP stay."""

    def apply(self, graph: StepGraph) -> StepGraph: ...
