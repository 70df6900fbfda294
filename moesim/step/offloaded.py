"""From a priced step and what is on the device to its graph and what is there afterwards.

The experts of a layer become rows on three fifo resources: the compute stream, the engine that copies to the device,
and the host's processor. Copies queue in the order in which they are asked for: what a layer lacks, what is fetched
ahead, and what the cache takes in for later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.memory.experts import Split, Times, Use
from moesim.memory.experts.prefetch import Ahead
from moesim.memory.experts.residency import Experts, Residency, admit
from moesim.memory.experts.scheduling import makespan
from moesim.routing.drawn import Drawn
from moesim.step.compile import StepCompiler
from moesim.step.graph import (
    ABSENT,
    COMPUTE,
    COPY,
    HOST,
    PICOSECONDS,
    FloatArray,
    IntArray,
    Schedule,
    StepGraph,
    picoseconds,
)
from moesim.step.offload import Offload
from moesim.step.pricing import Block, StepPricer
from moesim.step.program import Row, StageProgram


@dataclass
class LayerUse:
    """What one layer did. start: rows that its experts waited for; device, host: rows that computed them."""

    layer: int
    stage: int
    split: Split
    resident: Experts
    copied: int  # experts, on demand
    ahead: int  # experts, for layers ahead
    filled: int  # experts that the host computed, for later
    arrived: int  # experts that had been fetched ahead and were used
    start: tuple[int, ...] = ()
    device: list[int] = field(default_factory=list)
    host: int | None = None


def compile_offloaded(
    pricer: StepPricer, block: Block, drawn: Drawn, offload: Offload, state: Residency, popularity: FloatArray, key: int
) -> tuple[StepGraph, Residency, list[LayerUse]]:
    """The graph of a block's first step, and the residency after it.

    Args:
        popularity: [layers, experts] long-run shares of tokens. key: of the random numbers by which guesses err.
    """
    compiler = OffloadCompiler(pricer, block, drawn, offload, state, popularity, key)
    before: tuple[int, ...] = ()
    for program in pricer.programs:
        before = compiler.stage(program, before)
    return compiler.graph(), state.after(compiler.kept), compiler.uses


class OffloadCompiler(StepCompiler):
    """A step whose experts are not all on the device."""

    def __init__(
        self,
        pricer: StepPricer,
        block: Block,
        drawn: Drawn,
        offload: Offload,
        state: Residency,
        popularity: FloatArray,
        key: int,
    ) -> None:
        super().__init__(pricer, block, drawn)
        self.offload, self.state, self.popularity = offload, state, popularity
        self.counts = drawn.totals
        pairs = self.counts.astype(np.float64)
        self.on_device = offload.seconds(pairs, np.minimum(pairs, 1.0), offload.device)
        self.on_host = offload.host_seconds(pairs)
        self.scheduling = offload.prefill if block.batch.chunks else offload.scheduling
        self.rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 1, block.batch.first_step]))
        #: Experts on their way to a layer, with the row of their copy; those of layers that are done are forgotten.
        self.pending: dict[int, dict[int, int]] = {}
        self.kept: dict[int, tuple[Experts, FloatArray]] = {}
        self.uses: list[LayerUse] = []
        layers = max(len(self.layers), 1)
        experts = 0 if block.routed is None else int(block.routed.experts.sum())
        #: Seconds of what a layer computes beside its experts, on average.
        self.rest = max(int(block.stages.sum()) - experts, 0) / PICOSECONDS / layers

    def exchange(self, program: StageProgram, row: Row, after: tuple[int, ...]) -> tuple[int, ...]:
        if row.action != "experts":
            return super().exchange(program, row, after)
        layer = self.layers[row.layer]
        resident, coming = self.state.resident[layer], self.pending.pop(layer, {})
        available = resident.copy()
        available[list(coming)] = True
        times = self._times(layer, np.arange(self.offload.experts))
        split = self.scheduling.split(self.counts[layer], available, times)
        used = set(split.device)
        use = LayerUse(row.layer, program.stage, split, resident, 0, 0, 0, len(used & coming.keys()), start=after)
        fetched = self._compute(program, row, after, use, coming)
        took, copying = makespan(split, available, times)
        idle = took - copying + self.rest
        idle -= self._fetch_ahead(program, row, after, use, idle, layer)
        fetched |= set(coming) | self._fill(program, row, after, use, idle, layer, fetched | set(coming))
        self._keep(layer, fetched)
        self.uses.append(use)
        return (*use.device[-1:], *(() if use.host is None else (use.host,)))

    def _times(self, layer: int, order: IntArray) -> Times:
        """Of a layer whose experts have the tokens of others, `order`."""
        copy = self.offload.copy_seconds
        return Times(self.on_device[layer][order], self.on_host[layer][order], copy)

    def _compute(
        self, program: StageProgram, row: Row, after: tuple[int, ...], use: LayerUse, coming: dict[int, int]
    ) -> set[int]:
        """Rows of the experts: one kernel for those of the cache, one for each that is copied, one of the host.
        Returns what was copied on demand."""
        layer, fetched = self.layers[row.layer], set()
        at_hand = [e for e in use.split.device if use.resident[e]]
        if at_hand:
            pairs = np.array(float(self.counts[layer][at_hand].sum()))
            kernel = self.offload.seconds(pairs, np.array(float(len(at_hand))), self.offload.device)
            use.device.append(self._timed(program, row, COMPUTE, float(kernel), after))
        for expert in use.split.device:
            if use.resident[expert]:
                continue
            if expert not in coming:
                fetched.add(expert)
                use.copied += 1
            copy = coming[expert] if expert in coming else self._copy(program, row, row.layer, after)
            seconds = float(self.on_device[layer][expert])
            use.device.append(self._timed(program, row, COMPUTE, seconds, (*after, copy)))
        if use.split.host:
            seconds = float(self.on_host[layer][list(use.split.host)].sum())
            use.host = self._timed(program, Row("host_experts", "experts", row.layer), HOST, seconds, after)
        return fetched

    def _fetch_ahead(
        self, program: StageProgram, row: Row, after: tuple[int, ...], use: LayerUse, idle: float, layer: int
    ) -> float:
        """Copies for layers ahead of this stage; returns the seconds that they keep the link busy."""
        policy, mine = self.offload.prefetch, list(program.moe_layers)
        place = mine.index(row.layer)
        following = mine[place + 1 : place + 1 + policy.depth]
        if not following or not (policy.exact or idle >= self.offload.copy_seconds):
            return 0.0
        ahead = [self._ahead(self.layers[other], steps + 1) for steps, other in enumerate(following)]
        room = self.offload.staged - sum(len(each) for each in self.pending.values())
        wanted = policy.fetch(ahead, idle, self.scheduling, room)
        for step, expert in wanted:
            copy = self._copy(program, row, following[step], after)
            self.pending.setdefault(self.layers[following[step]], {})[expert] = copy
        use.ahead = len(wanted)
        return len(wanted) * self.offload.copy_seconds

    def _ahead(self, layer: int, steps: int) -> Ahead:
        """What a policy sees of a layer `steps` ahead: guesses are right with a power of the accuracy, else another
        expert stands for the right one."""
        tokens, order = self.counts[layer], np.arange(self.offload.experts)
        if not self.offload.prefetch.exact:
            active = np.flatnonzero(tokens)
            wrong = active[self.rng.random(len(active)) >= self.offload.spec.prefetch.accuracy**steps]
            others = np.flatnonzero(tokens == 0)
            instead = self.rng.permutation(others)[: len(wrong)]
            wrong = wrong[: len(instead)]
            order[wrong], order[instead] = instead, wrong
        available = self.state.resident[layer].copy()
        available[list(self.pending.get(layer, {}))] = True
        return Ahead(tokens[order], available, self._times(layer, order))

    def _fill(
        self,
        program: StageProgram,
        row: Row,
        after: tuple[int, ...],
        use: LayerUse,
        idle: float,
        layer: int,
        there: set[int],
    ) -> set[int]:
        """Copies of experts that the host computed and the cache would keep, as long as the link would idle."""
        most = min(int(max(idle, 0.0) / self.offload.copy_seconds), self.offload.slots)
        if not self.offload.cache.fills or not use.split.host or most <= 0:
            return set()
        candidates = self._mask({*use.split.host, *there})
        kept, _ = self._admitted(layer, candidates)
        wanted = [e for e in use.split.host if kept[e] and e not in there][:most]
        for _ in wanted:
            self._copy(program, row, row.layer, after)
        use.filled = len(wanted)
        return set(wanted)

    def _keep(self, layer: int, fetched: set[int]) -> None:
        self.kept[layer] = self._admitted(layer, self._mask(fetched))

    def _admitted(self, layer: int, fetched: Experts) -> tuple[Experts, FloatArray]:
        assert self.drawn is not None
        scores = None if self.drawn.scores is None else self.drawn.scores[layer]
        use = Use(self.counts[layer], scores, self.state.time, self.popularity[layer])
        resident, memory = self.state.resident[layer], self.state.memory[layer]
        return admit(self.offload.cache, resident, memory, use, fetched, self.offload.slots)

    def _mask(self, experts: set[int]) -> Experts:
        mask: Experts = np.zeros(self.offload.experts, dtype=bool)
        mask[sorted(experts)] = True
        return mask

    def _copy(self, program: StageProgram, row: Row, layer: int, after: tuple[int, ...]) -> int:
        copy = Row("expert_copy", "copy", layer)
        return self._timed(program, copy, COPY, self.offload.copy_seconds, after)

    def _timed(self, program: StageProgram, row: Row, resource: int, seconds: float, after: tuple[int, ...]) -> int:
        """A row that takes so long on all lanes of a stage."""
        base = program.stage * self.layout.stage_lanes
        duration = np.full(self.lanes, ABSENT, dtype=np.int64)
        duration[base : base + self.layout.stage_lanes] = int(picoseconds(np.asarray(seconds)))
        return self.rows.add(row, row.action, resource, duration, np.zeros(self.lanes), 0, after)


class Waits(NamedTuple):
    """Picoseconds by stage [P]: of the experts' kernels on the device, and of waiting for copies and for the host."""

    device: NDArray[np.int64]
    copies: NDArray[np.int64]
    host: NDArray[np.int64]


def waits(graph: StepGraph, executed: Schedule, uses: list[LayerUse], stages: int) -> Waits:
    """Where the time between a layer's router and the last of its experts went. All lanes of a stage are alike."""
    found = Waits(*np.zeros((3, stages), dtype=np.int64))
    finish = executed.finish.max(axis=1)
    for use in uses:
        begin = max((int(finish[row]) for row in use.start), default=0)
        on_device = int(finish[use.device[-1]]) if use.device else begin
        on_host = int(finish[use.host]) if use.host is not None else begin
        computed = int(graph.duration[use.device].max(axis=1).sum()) if use.device else 0
        found.device[use.stage] += computed
        waited = on_device - begin - computed
        found.copies[use.stage] += waited
        found.host[use.stage] += max(on_host - on_device, 0)
    return found
