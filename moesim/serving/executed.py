"""Steps executed node by node instead of priced: for `fidelity: op`, and where kernels share a device's memory."""

from __future__ import annotations

import numpy as np

from moesim.engine.analysis import hidden_communication
from moesim.engine.fidelity import Fidelity, schedule
from moesim.step.batch import Batch
from moesim.step.graph import Schedule, StepGraph
from moesim.step.passes.micro_batches import in_parts, step_graph
from moesim.step.pricing import Block, StepPricer


class ExecutedPricer(StepPricer):
    """Compiles every step to its graph and executes that; steps come one at a time.

    Stages leave together, so that a stage takes what lies between the ends of its own and its predecessor's last rows.
    """

    fidelity: Fidelity = "plan"
    single_steps = True

    def price(self, batch: Batch, rested: bool = False) -> Block:
        block = in_parts(self, batch, rested)
        graph, executed = execute_step(self, block, self.fidelity)
        lanes = self.layout.stage_lanes
        ends = [int(executed.finish[:, p * lanes : (p + 1) * lanes].max()) for p in range(self.layout.pp)]
        stages = np.diff(ends, prepend=0)[:, None]
        host = self.host.beyond(stages.sum(axis=0), block.sizes, rested)
        return block._replace(
            stages=stages,
            host=host,
            durations=stages.sum(axis=0) + host,
            hidden=hidden_communication(graph, executed),
        )


def execute_step(pricer: StepPricer, block: Block, fidelity: Fidelity) -> tuple[StepGraph, Schedule]:
    """Compile and execute a block's first step; its routing is the one drawn for that step."""
    graph = step_graph(pricer, block)
    return graph, schedule(graph, fidelity)


class _OperationPricer(ExecutedPricer):
    fidelity = "op"


def executed_pricer(fidelity: Fidelity) -> type[ExecutedPricer]:
    return _OperationPricer if fidelity == "op" else ExecutedPricer
