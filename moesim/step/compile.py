"""From a priced step to its StepGraph: every operator and collective of every layer, on every lane."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from moesim.fabric.transfer import Transfer, collective
from moesim.routing.drawn import Drawn
from moesim.step.attention import AttentionSums
from moesim.step.graph import (
    ABSENT,
    COMPUTE,
    COPROCESSORS,
    NETWORK,
    SIDE_COMPUTE,
    Collective,
    FloatArray,
    IntArray,
    StepGraph,
)
from moesim.step.pricing import Block, StepPricer
from moesim.step.program import Row, StageProgram

#: The resources of a device's processors, its own arithmetic first; of rows beside others, a second stream of it.
_STREAMS, _SIDE_STREAMS = (COMPUTE, *COPROCESSORS), (SIDE_COMPUTE, *COPROCESSORS)
_KERNELS = ("operator", "shared", "attention", "experts")


@dataclass
class _Rows:
    """A graph under construction."""

    lanes: int
    name: list[str] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)
    layer: list[int] = field(default_factory=list)
    resource: list[int] = field(default_factory=list)
    duration: list[IntArray] = field(default_factory=list)
    demand: list[FloatArray] = field(default_factory=list)
    partition: list[int] = field(default_factory=list)
    predecessors: list[tuple[int, ...]] = field(default_factory=list)
    collectives: dict[int, Collective] = field(default_factory=dict)
    partitions: list[tuple[int, ...]] = field(default_factory=list)

    def label(self, groups: list[list[int]]) -> int:
        """Index of the partition whose groups these are; other lanes stay alone."""
        labels = list(range(self.lanes))
        for group in groups:
            for lane in group:
                labels[lane] = self.lanes + group[0]
        key = tuple(labels)
        if key not in self.partitions:
            self.partitions.append(key)
        return self.partitions.index(key)

    def add(
        self, row: Row, kind: str, resource: int, duration: IntArray, demand: FloatArray, partition: int,
        after: tuple[int, ...],
    ) -> int:  # fmt: skip
        self.name.append(row.name)
        self.kind.append(kind)
        self.layer.append(row.layer)
        self.resource.append(resource)
        self.duration.append(duration)
        self.demand.append(demand)
        self.partition.append(partition)
        self.predecessors.append(after)
        return len(self.name) - 1


def compile_step(
    pricer: StepPricer, block: Block, drawn: Drawn | None, stage: int | None = None
) -> StepGraph:  # fmt: skip
    """The graph of a block's first step.

    Args:
        drawn: what its tokens choose; None for a dense model.
        stage: only this one of a pipeline; None: all, one after the other.
    """
    compiler = StepCompiler(pricer, block, drawn)
    before: tuple[int, ...] = ()
    for program in pricer.programs:
        if stage in (None, program.stage):
            before = compiler.stage(program, before)
    return compiler.graph()


class StepCompiler:
    """Builds the graph of one step, stage by stage."""

    def __init__(self, pricer: StepPricer, block: Block, drawn: Drawn | None) -> None:
        self.pricer, self.block, self.layout = pricer, block, pricer.layout
        self.tokens, self.samples = block.sizes.tokens[0], block.sizes.samples[0]
        self.lanes = self.layout.pp * self.layout.stage_lanes
        self.rows = _Rows(self.lanes, partitions=[tuple(range(self.lanes))])
        self.experts: tuple[IntArray, FloatArray] | None = None
        self.drawn = drawn
        self.exchanged: dict[int, tuple[Transfer, Transfer]] = {}  # of all layers of a stage
        self.sends: dict[int, Transfer] = {}  # of weights, by layer, until their row is there
        self.layers: dict[int, int] = {}
        self.kernels: dict[object, tuple[IntArray, FloatArray]] = {}  # of one layer, by stage and operator
        if drawn is not None and pricer.experts is not None:
            durations, memory, sends = pricer.experts.by_layer(drawn.totals)
            self.experts = durations, memory
            moe_layers = [layer for program in pricer.programs for layer in program.moe_layers]
            self.sends = {layer: each for layer, each in zip(moe_layers, sends, strict=True) if each is not None}
            self.layers = {layer: index for index, layer in enumerate(moe_layers)}
        self.bandwidth = np.array(
            [pricer.context.machine.devices[i].memory.compute_bandwidth for i in self.layout.devices.ravel()]
        )
        #: [processors, lanes] bytes per second that each draws from the lane's memory at full speed.
        self.draws = np.zeros((len(_STREAMS), self.lanes))
        for lane, index in enumerate(self.layout.devices.ravel()):
            for p, processor in enumerate(pricer.context.machine.devices[index].processors):
                if p == 0 or processor.shares_memory:
                    self.draws[p, lane] = processor.memory.compute_bandwidth

    def stage(self, program: StageProgram, before: tuple[int, ...]) -> tuple[int, ...]:
        """Append a stage's rows; returns the rows that the next stage waits for.

        Shared experts on the second stream start with the dispatch and are awaited with the experts.
        """
        chain, fork = before, before
        side: tuple[int, ...] = ()
        exchange = {"dispatch", "experts", "shared"}
        for row in program.rows:
            if row.action not in exchange:
                after, side = chain + side, ()
                chain = fork = self._append(program, row, after)
            elif row.action == "shared":
                side = self._append(program, row, side or fork)
            else:
                chain = self.exchange(program, row, chain)
        return chain + side

    def exchange(self, program: StageProgram, row: Row, after: tuple[int, ...]) -> tuple[int, ...]:
        """Append dispatch, experts or combine; returns the rows that what follows waits for."""
        return self._append(program, row, after)

    def _append(self, program: StageProgram, row: Row, after: tuple[int, ...]) -> tuple[int, ...]:
        """Append a row, which may be one on each of several processors; returns those that what follows waits for."""
        stage, base = program.stage, program.stage * self.layout.stage_lanes
        mine = np.arange(base, base + self.layout.stage_lanes)
        if row.action in ("dispatch", "experts") and row.layer in self.sends:
            weights = replace(row, name="send_weights")
            after = (self._append_collective(weights, [mine.tolist()], [self.sends.pop(row.layer)], after),)
        if row.action in _KERNELS:
            return self._append_kernel(row, mine, self._kernel(stage, row), after)
        if row.action == "barrier":
            duration = np.full(self.lanes, ABSENT, dtype=np.int64)
            duration[mine] = 0
            nothing, together = np.zeros(self.lanes), self.rows.label([mine.tolist()])
            return (self.rows.add(row, "barrier", COMPUTE, duration, nothing, together, after),)
        groups, transfers = self._collective(stage, row)
        groups = [[lane + base for lane in group] for group in groups]
        return (self._append_collective(row, groups, transfers, after),)

    def _append_kernel(
        self, row: Row, lanes: IntArray, kernel: tuple[IntArray, FloatArray], after: tuple[int, ...]
    ) -> tuple[int, ...]:
        """A row for each processor that has work; side by side or one after the other."""
        durations, memory = kernel
        streams = _SIDE_STREAMS if row.action == "shared" else _STREAMS
        kind = row.operator.kind if row.operator is not None else row.action
        busy = [p for p, each in enumerate(durations) if each.any()] or [0]
        appended: list[int] = []
        for p in busy:
            duration, demand = np.full(self.lanes, ABSENT, dtype=np.int64), np.zeros(self.lanes)
            duration[lanes], demand[lanes] = durations[p], memory[p] * self.draws[p, lanes]
            before = after if self.pricer.context.mapped.concurrent else after if not appended else (appended[-1],)
            appended.append(self.rows.add(row, kind, streams[p], duration, demand, 0, before))
        return tuple(appended)

    def _append_collective(
        self, row: Row, groups: list[list[int]], transfers: list[Transfer], after: tuple[int, ...]
    ) -> int:
        duration = np.full(self.lanes, ABSENT, dtype=np.int64)
        for group, transfer in zip(groups, transfers, strict=True):
            duration[group] = int(transfer.picoseconds)
        label = self.rows.label(groups)
        index = self.rows.add(row, "collective", NETWORK, duration, np.zeros(self.lanes), label, after)
        self.rows.collectives[index] = collective(groups, transfers)
        return index

    def _kernel(self, stage: int, row: Row) -> tuple[IntArray, FloatArray]:
        """[processors, lanes of the stage] picoseconds, and seconds of its bytes at full bandwidth."""
        if row.action == "experts" and self.experts is not None:
            of_lane = np.arange(self.layout.stage_lanes) // self.layout.expert_tp
            layer = self.layers[row.layer]
            durations, memory = self.experts
            return durations[:, layer][:, of_lane], memory[:, layer][:, of_lane]
        key = stage, row.operator, row.attention
        if key not in self.kernels:
            self.kernels[key] = self._local_kernel(stage, row)
        return self.kernels[key]

    def _local_kernel(self, stage: int, row: Row) -> tuple[IntArray, FloatArray]:
        """Of a kernel that takes as long in every layer."""
        costs, tp = self.pricer.stages[stage], self.layout.tp
        if row.action == "attention" and row.attention is not None:
            sums = AttentionSums(*(column[0] for column in self.block.sums[row.attention]))
            of_kind = [costs.attention_by_processor(sums, row.attention, kind) for kind in range(len(costs.tables))]
            parts = [(each.durations, each.memory) for each in of_kind]
        else:
            assert row.operator is not None
            sizes = self.samples if row.operator.per_sequence else self.tokens
            entries = [table[row.operator] for table in costs.tables]
            parts = [(entry.durations[:, sizes], entry.memory[:, sizes]) for entry in entries]
        durations, memory = np.zeros((2, len(_STREAMS), self.layout.dp))
        for kind, (took, streamed) in enumerate(parts):
            ranks = np.flatnonzero(costs.rank_class == kind)
            durations[: len(took), ranks] = took[:, ranks]
            memory[: len(took), ranks] = streamed[:, ranks]
        return np.repeat(durations.astype(np.int64), tp, axis=1), np.repeat(memory, tp, axis=1)

    def _collective(self, stage: int, row: Row) -> tuple[list[list[int]], list[Transfer]]:
        """Stage-wide lanes of each communicator and its transfer."""
        communication, layout = self.pricer.communication, self.layout
        if row.action in ("dispatch", "combine"):
            return communication.exchange_groups(), self._exchanged(stage, row)
        if row.action == "send":
            size = int(self.tokens.max())
            pairs = [[lane, lane + layout.stage_lanes] for lane in range(layout.stage_lanes)]
            return pairs, [transfer.at(size) for transfer in communication.stage_send(stage)]
        table = {
            "reduce": communication.reduce, "reduce_sums": communication.reduce_sums, "gather": communication.gather,
            "gather_logits": communication.logits,
        }  # fmt: skip
        sizes = self.samples if row.action == "gather_logits" else self.tokens
        lanes = np.arange(layout.stage_lanes).reshape(layout.dp, layout.tp)
        transfers = [table[row.action](stage, rank).at(int(sizes[rank])) for rank in range(layout.dp)]
        return lanes.tolist(), transfers

    def _exchanged(self, stage: int, row: Row) -> list[Transfer]:
        """The transfer of each communicator that dispatches or combines."""
        assert self.pricer.routed is not None
        assert self.drawn is not None
        exchange, way = self.pricer.routed.exchange, 0 if row.action == "dispatch" else 1
        if not exchange.all_to_all:
            return exchange.gathers(stage, int(self.block.sizes.gathered[0]))[way]
        mine = exchange.slices[stage]
        if way == 1 and exchange.coherent:
            return [self.pricer.communication.context_gather(stage).at(int(self.block.sizes.gathered[0]))]
        if stage not in self.exchanged:
            self.exchanged[stage] = exchange.transfers(stage, exchange.tokens(self.drawn).part(mine))
        return [self.exchanged[stage][way].at(self.layers[row.layer] - mine.start)]

    def graph(self) -> StepGraph:
        rows = self.rows
        beside = [row for row, resource in enumerate(rows.resource) if resource in (SIDE_COMPUTE, *COPROCESSORS)]
        shares = any(rows.resource[row] == SIDE_COMPUTE or rows.demand[row].any() for row in beside)
        partition = np.array(rows.partition)
        return StepGraph(
            name=tuple(rows.name),
            kind=tuple(rows.kind),
            layer=np.array(rows.layer),
            resource=np.array(rows.resource),
            duration=np.array(rows.duration),
            partition=partition,
            partitions=np.array(rows.partitions),
            joint=partition > 0,
            predecessors=tuple(rows.predecessors),
            collectives=rows.collectives,
            demand=np.array(rows.demand) if shares else None,
            capacity=self.bandwidth if shares else None,
        )
