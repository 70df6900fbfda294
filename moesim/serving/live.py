"""Replicas whose steps share the links of the machine with all other steps in progress: `fabric: flow` and `chunk`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import simpy

from moesim.engine.analysis import hidden_communication
from moesim.engine.clock import Clock
from moesim.engine.fidelity import schedule
from moesim.engine.invariants import check_schedule
from moesim.engine.operations import start
from moesim.engine.wires import SharedWires, Wires
from moesim.fabric.live import LiveFlows
from moesim.fabric.live_chunk import LiveChunks
from moesim.fabric.topology import Topology
from moesim.serving.flight import Flight
from moesim.serving.replica import Replica
from moesim.spec.experiment import ExperimentSpec
from moesim.step.batch import Batch
from moesim.step.passes.micro_batches import in_parts, step_graph
from moesim.step.pricing import Block, StepPricer


class LivePricer(StepPricer):
    """Prices steps one at a time, as the bound has them; what they really take, their execution says."""

    single_steps = True

    def price(self, batch: Batch, rested: bool = False) -> Block:
        return in_parts(self, batch, rested)


class LiveReplica(Replica):
    """Executes its steps operation by operation on the run's own clock, stage by stage of a pipeline."""

    def __init__(self, *arguments: Any, wires: Wires, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._wires = wires
        self._stages = [simpy.Resource(self.clock) for _ in self.pricer.programs]
        self._entering = 0  # batches in the first stage, or in front of it

    def _wake(self, time: int) -> None:
        """As ever; while a batch is in the first stage, its leaving is what wakes."""
        if not self._entering:
            super()._wake(time)

    def _execute(self, flight: Flight) -> None:
        self._entering += 1
        self.clock.process(self._run(flight))

    def _run(self, flight: Flight) -> Generator[simpy.Event, Any, None]:
        pricer, block = self.pricer, flight.block
        assert isinstance(block, Block)
        stages = np.zeros_like(block.stages)
        hidden = sharing = 0
        for stage, turn in enumerate(self._stages):
            graph = step_graph(pricer, block, stage)
            with turn.request() as mine:
                yield mine
                executed = yield start(graph, self.clock, self._wires)
            check_schedule(graph, executed)
            stages[stage, 0] = executed.makespan
            hidden += hidden_communication(graph, executed)
            sharing += executed.makespan - schedule(graph).makespan
            if stage == 0:
                self._entering -= 1
                super()._wake(int(self.clock.now))
        host = pricer.host.beyond(stages.sum(axis=0), block.sizes, flight.rested)
        yield self.clock.timeout(int(host[0]))
        flight.block = block._replace(
            stages=stages, host=host, durations=stages.sum(axis=0) + host, hidden=hidden, sharing=sharing
        )
        flight.ends = [int(self.clock.now)]
        self.clock.call_at(self.clock.now, lambda: self._end(flight), last=True)


def shared_wires(spec: ExperimentSpec, clock: Clock, topology: Topology) -> SharedWires:
    """The links of a run's machine, at the fidelity that its `fabric` names."""
    if spec.fabric == "chunk":
        return SharedWires(clock, LiveChunks(clock, topology, spec.chunk))
    return SharedWires(clock, LiveFlows(clock, topology.bandwidth))
