"""A replica whose devices hold some of the experts: steps change what is there, so they are compiled one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moesim.engine.analysis import hidden_communication
from moesim.engine.fidelity import Fidelity, schedule
from moesim.memory.experts.residency import Residency
from moesim.serving.executed import ExecutedPricer
from moesim.step.batch import Batch
from moesim.step.graph import COPY, FloatArray, IntArray, Schedule, StepGraph
from moesim.step.offload import Offload
from moesim.step.offloaded import LayerUse, compile_offloaded, waits
from moesim.step.pricing import Block, ExpertUse, StepPricer
from moesim.step.routed import ExpertCosts, RoutedLoad

#: Steps whose residency is remembered, so that they can be shown in detail afterwards.
_REMEMBERED = 600


@dataclass(frozen=True)
class Compiled:
    """A step: what it executes, when, what is on the device afterwards, and what its layers did."""

    graph: StepGraph
    executed: Schedule
    after: Residency
    uses: list[LayerUse]


class OffloadedPricer(ExecutedPricer):
    """Compiles each step with the residency that the one before left.

    Args:
        offload: where the experts are. popularity: [layers, experts] long-run shares of tokens. key: of random numbers.
    """

    def __init__(self, *arguments: Any, offload: Offload, popularity: FloatArray, key: int, fidelity: Fidelity) -> None:
        super().__init__(*arguments)
        self.offload, self.popularity, self.key, self.fidelity = offload, popularity, key, fidelity
        self._state, self._before = offload.initial(popularity), dict[int, Residency]()

    def clear(self) -> None:
        """Forget what was recorded, and what earlier steps left on the devices."""
        super().clear()
        self._state, self._before = self.offload.initial(self.popularity), dict[int, Residency]()

    @property
    def copy_bytes(self) -> float:
        """Bytes that one copy moves to all devices together."""
        return self.offload.expert_bytes * self.layout.expert_tp

    def price(self, batch: Batch, rested: bool = False) -> Block:
        """As ever; executing the step is what changes the residency, so a batch is priced once."""
        block = StepPricer.price(self, batch, rested)
        if len(self._before) < _REMEMBERED:
            self._before[batch.first_step] = self._state
        step = self._compile(block, self._state)
        self._state = step.after
        return self._executed(block, step, rested)

    def detailed(self, batch: Batch) -> Compiled | None:
        """A step that was executed, once more; None where it is too long ago."""
        before = self._before.get(batch.first_step)
        return None if before is None else self._compile(StepPricer.price(self, batch), before)

    def _compile(self, block: Block, before: Residency) -> Compiled:
        assert self.routed is not None
        drawn = self.routed.drawn(block.batch, 0)
        graph, after, uses = compile_offloaded(self, block, drawn, self.offload, before, self.popularity, self.key)
        return Compiled(graph, schedule(graph, self.fidelity), after, uses)

    def _executed(self, block: Block, step: Compiled, rested: bool) -> Block:
        lanes, pp = self.layout.stage_lanes, self.layout.pp
        finish = step.executed.finish[step.graph.resource != COPY]
        ends = [int(finish[:, p * lanes : (p + 1) * lanes].max()) for p in range(pp)]
        stages = np.diff(ends, prepend=0)[:, None]
        host = self.host.beyond(stages.sum(axis=0), block.sizes, rested)
        waited = waits(step.graph, step.executed, step.uses, pp)
        assert block.routed is not None
        ((load, tokens),) = block.routed.origin
        assert self.experts is not None
        routed = block.routed._replace(
            experts=waited.device[:, None], origin=[(_on_device(self.experts, load, tokens, step.uses), tokens)]
        )
        return block._replace(
            stages=stages,
            host=host,
            durations=stages.sum(axis=0) + host,
            hidden=hidden_communication(step.graph, step.executed),
            routed=routed,
            offload=_use(step.uses, int(waited.copies.sum()), int(waited.host.sum())),
        )


def _on_device(costs: ExpertCosts, load: RoutedLoad, tokens: IntArray, uses: list[LayerUse]) -> RoutedLoad:
    """What the devices compute themselves; imbalances are those of all tokens."""
    mine = np.zeros_like(tokens)
    for layer, use in enumerate(uses):
        mine[layer, list(use.split.device)] = tokens[layer, list(use.split.device)]
    with np.errstate(invalid="ignore"):  # the imbalance of a layer whose experts are all elsewhere
        found = costs.load(mine[:, None])
    return replace(found, rank_imbalance=load.rank_imbalance, expert_imbalance=load.expert_imbalance, sent=load.sent)


def _use(uses: list[LayerUse], copies: int, host: int) -> ExpertUse:
    active = [len(use.split.device) + len(use.split.host) for use in uses]
    hits = [sum(bool(use.resident[e]) for e in (*use.split.device, *use.split.host)) for use in uses]
    return ExpertUse(
        requests=sum(active),
        hits=sum(hits),
        fetched_ahead=sum(use.arrived for use in uses),
        on_host=sum(len(use.split.host) for use in uses),
        copied=sum(use.copied + use.ahead + use.filled for use in uses),
        waiting_for_copies=copies,
        waiting_for_host=host,
    )
