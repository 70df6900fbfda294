"""A few steps in full detail, for the timeline: which ones to keep, and every node of them."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.engine.fidelity import schedule
from moesim.engine.record import TimelineStep
from moesim.serving.offloaded import OffloadedPricer
from moesim.serving.replica import Replica
from moesim.step.batch import Batch
from moesim.step.graph import Schedule, StepGraph
from moesim.step.passes.micro_batches import step_graph
from moesim.step.pricing import StepPricer

#: Nodes (rows x lanes) that all kept steps together may have, and how many steps of each kind are kept.
_MOST_NODES, _MOST_STEPS = 300_000, 3
_KEPT = frozenset(8**power for power in range(_MOST_STEPS))


@dataclass(frozen=True)
class KeptStep:
    """`batch` is reduced to its first step, which began at `start` (picoseconds)."""

    replica: int
    start: int
    batch: Batch


class DetailKeeper:
    """Keeps the 1st, 8th and 64th batch with prompt tokens, and the same of those without."""

    def __init__(self) -> None:
        self.steps: list[KeptStep] = []
        self._seen = {True: 0, False: 0}
        self._complete = False

    def offer(self, replica: int, batch: Batch, times: tuple[int, ...]) -> None:
        """Args: times: when the batch's first step began and, where another one was executed, the second."""
        if self._complete:
            return
        if self._keeps(bool(batch.chunks)):
            self.steps.append(KeptStep(replica, times[0], batch.first()))
        if batch.chunks and len(times) > 1 and self._keeps(False):
            self.steps.append(KeptStep(replica, times[1], batch.second()))

    def _keeps(self, prompts: bool) -> bool:
        self._seen[prompts] += 1
        self._complete = min(self._seen.values()) >= max(_KEPT)
        return self._seen[prompts] in _KEPT


def timeline_steps(keeper: DetailKeeper, replicas: list[Replica]) -> list[TimelineStep]:
    """Compile and schedule the kept steps, as many as the limit of nodes allows. Their routing is drawn for each step,
    so that a step priced from tabulated routing may differ from its detail by the scatter of one draw."""
    by_number = {replica.index: replica for replica in replicas}
    found: list[TimelineStep] = []
    nodes = 0
    for kept in sorted(keeper.steps, key=lambda kept: kept.start):
        pricer = by_number[kept.replica].pricer
        detail = _detail(pricer, kept.batch)
        if detail is None:
            continue
        graph, executed = detail
        nodes += graph.duration.size
        if found and nodes > _MOST_NODES:
            break
        devices = tuple(int(device) for device in pricer.layout.devices.ravel())
        label = "mixed" if kept.batch.chunks and len(kept.batch.rank) else "prefill" if kept.batch.chunks else "decode"
        found.append(TimelineStep(kept.start, kept.replica, kept.batch.first_step, label, graph, executed, devices))
    return found


def _detail(pricer: StepPricer, batch: Batch) -> tuple[StepGraph, Schedule] | None:
    """A step's graph and schedule; None where what its devices held is forgotten."""
    if isinstance(pricer, OffloadedPricer):
        step = pricer.detailed(batch)
        return None if step is None else (step.graph, step.executed)
    graph = step_graph(pricer, pricer.price(batch))
    return graph, schedule(graph)
