"""From a training plan to the StepGraph of its step: the passes of every stage in the schedule's order, the transfers
between stages, the reduction of gradients and the optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from moesim.fabric.transfer import Transfer
from moesim.kernels.base import Calls
from moesim.spec.base import DTYPE_BYTES
from moesim.step.graph import COMPUTE, COPY, PEER, FloatArray, IntArray, StepGraph
from moesim.step.sharding import base_dtype
from moesim.training.memory import part_sizes, update_bytes
from moesim.training.order import Placed, before, sequence
from moesim.training.passes import Passes
from moesim.training.pieces import Kernel, Move, Piece, stretch
from moesim.training.plan import TrainingPlan, priced
from moesim.training.rows import Rows
from moesim.training.schedules import Task
from moesim.training.stream import Load, Stream


@dataclass
class Span:
    """What became of a task: its first row, one beyond its last one, and the rows that end it."""

    placed: Placed
    first: int
    last: int
    ends: tuple[int, ...]


@dataclass
class Compiled:
    """The graph, with what its rows stand for: the piece or move of a row, and the loads of streamed weights."""

    graph: StepGraph
    spans: list[Span]
    pieces: dict[int, Piece] = field(default_factory=dict)
    moves: dict[int, Move] = field(default_factory=dict)
    loads: dict[int, Load] = field(default_factory=dict)


@dataclass
class _Run:
    """Consecutive passes of a stage through one chunk in one direction, on the same weights. `uses[piece]`: the row
    that used a piece last; -1 are the dense lanes' weights."""

    part: int
    backward: bool
    passes: int
    loads: dict[int, int] = field(default_factory=dict)
    uses: dict[int, int] = field(default_factory=dict)
    ends: tuple[int, ...] = ()
    stored: list[int] = field(default_factory=list)


def compile_training(plan: TrainingPlan, passes: Passes, stream: Stream | None) -> Compiled:
    """Raises MoesimError where the schedule deadlocks."""
    return _Compiler(plan, passes, stream).compile()


class _Compiler:
    def __init__(self, plan: TrainingPlan, passes: Passes, stream: Stream | None) -> None:
        self.plan, self.passes, self.stream, self.layout = plan, passes, stream, plan.layout
        self.rows = Rows(len(plan.machine.devices))
        self.pieces: dict[int, Piece] = {}
        self.moves: dict[int, Move] = {}
        self.loads: dict[int, Load] = {}
        self.spans: list[Span] = []
        self.done: dict[Placed, Span] = {}
        self.sent: dict[Placed, int] = {}
        self.last: dict[int, Span] = {}  # by stage
        self.runs = [_runs(tasks, stage, self.layout.stages) for stage, tasks in enumerate(plan.order)]
        self.at = [0] * self.layout.stages  # the run that a stage is in
        self.loaded = [0] * self.layout.stages  # pieces loaded so far
        self.left = [[run.passes for run in runs] for runs in self.runs]
        self.reduced: dict[int, tuple[int, ...]] = {}  # by part
        self.steps: dict[Placed, list[Piece | Move]] = {}  # priced to find the sequence, until they are compiled

    def compile(self) -> Compiled:
        waiting: list[tuple[float, int, Placed]] = []  # what is to be handed over, by when it is about ready
        for number, (placed, start, end) in enumerate(sequence(self.plan.order, self.layout.chunks, self._seconds)):
            while waiting and waiting[0][0] <= start:
                self._hand_over(heappop(waiting)[2])
            self._task(placed)
            heappush(waiting, (end, number, placed))
        for stage in range(self.layout.stages):
            self._finish(stage)
        return Compiled(self.rows.graph(), self.spans, self.pieces, self.moves, self.loads)

    def _steps(self, stage: int, task: Task) -> list[Piece | Move]:
        part = task.chunk * self.layout.stages + stage
        return (self.passes.backward if task.backward else self.passes.forward)(part, task.micro_batch)

    def _seconds(self, stage: int, task: Task) -> float:
        steps = self.steps[Placed(stage, task)] = self._steps(stage, task)
        return float(sum(duration(step) for step in steps))

    def _task(self, placed: Placed) -> None:
        stage = placed.stage
        run = self.runs[stage][self.at[stage]]
        if self.stream is not None and self.left[stage][self.at[stage]] == run.passes:
            self._begin_run(stage)
        after = self._inputs(placed)
        chain: tuple[int, ...] = ()
        first = len(self.rows)
        dense: int | None = None
        for step in self.steps.pop(placed):
            waits = [*after, *chain]
            if isinstance(step, Move):
                if step.groups:
                    chain = (self._collective(step, [*waits, *self._whole_chunk(run)]),)
                continue
            partition = 0
            if self.stream is not None:
                loads, partition = self._needed(run, step, stage)
                waits += loads
            row = self._compute(step, waits, partition)
            run.uses[step.piece] = row
            # Pieces of experts on lanes of their own run beside nothing else: they too are one after the other.
            chain = (row,)
            dense = row if step.piece < 0 else dense
        ends = tuple(dict.fromkeys([*chain, *([dense] if dense is not None else [])]))
        span = Span(placed, first, len(self.rows), ends)
        self.spans.append(span)
        self.done[placed] = self.last[stage] = span
        run.ends = tuple(dict.fromkeys([*run.ends, *ends])) if self.stream is not None else ()
        self.left[stage][self.at[stage]] -= 1
        if not self.left[stage][self.at[stage]]:
            self._end_run(stage)

    def _inputs(self, placed: Placed) -> list[int]:
        """Rows that a pass waits for: what it is handed, its own forward pass, and the pass before where the two must
        not overlap."""
        stage, task = placed
        rows: list[int] = []
        source = before(stage, task, self.layout.stages, self.layout.chunks)
        if source is not None:
            rows += [self.sent[source]] if source in self.sent else self.done[source].ends
        if task.backward:
            rows += self.done[Placed(stage, task._replace(backward=False))].ends
        if not self.plan.training.overlap and stage in self.last:
            rows += self.last[stage].ends
        return rows

    def _compute(self, piece: Piece, after: list[int], partition: int) -> int:
        kind = "experts" if piece.piece >= 0 else piece.shares[0].kind if piece.layer < 0 else "layer"
        row = self.rows.add(piece.name, kind, piece.layer, COMPUTE, piece.lanes, piece.duration, after, partition)
        self.pieces[row] = piece
        return row

    def _collective(self, move: Move, after: list[int]) -> int:
        row = self.rows.collective(move.name, move.layer, move.groups, move.transfers, after)
        self.moves[row] = move
        return row

    def _hand_over(self, placed: Placed) -> None:
        """Hidden states to the next part, or their gradients to the one before, lane by lane."""
        stage, task = placed
        part = task.chunk * self.layout.stages + stage
        other = part - 1 if task.backward else part + 1
        if not 0 <= other < self.layout.parts or other % self.layout.stages == stage:
            return
        here, there = self.layout.dense[:, stage].ravel(), self.layout.dense[:, other % self.layout.stages].ravel()
        width = DTYPE_BYTES[base_dtype(self.plan.spec.storage)]
        size = self.plan.spec.model.hidden * width * self.plan.tokens
        pairs = [(int(a), int(b)) for a, b in zip(here, there, strict=True)]
        transfers = tuple(self.plan.fabric.send(size, a, b).at(()) for a, b in pairs)
        name = "send_backward" if task.backward else "send"
        move = Move(name, -1, tuple(pairs), transfers)
        after = self.done[placed].ends
        self.sent[placed] = row = self.rows.collective(name, -1, move.groups, transfers, after, PEER)
        self.moves[row] = move

    # Streamed weights

    def _begin_run(self, stage: int) -> None:
        """Brings what has room: the pieces of this run, and of later ones as far as `ahead` reaches; then stores what
        the run before leaves. Without `ahead`, everything comes one after the other."""
        assert self.stream is not None
        spec, number = self.stream.spec, self.at[stage]
        previous = self.runs[stage][number - 1] if number else None
        if not spec.ahead:
            stored = self._store(previous, stage) if previous is not None else []
            self._load_run(stage, number, [*stored, *(previous.ends if previous is not None else ())])
            return
        while self.loaded[stage] < min(number * spec.pieces + spec.ahead + 1, len(self.runs[stage]) * spec.pieces):
            self._load_piece(stage, self.loaded[stage])
            self.loaded[stage] += 1
        if previous is not None:
            self._store(previous, stage)

    def _load_run(self, stage: int, number: int, after: list[int]) -> None:
        assert self.stream is not None
        run = self.runs[stage][number]
        everything = self.rows.label([self.layout.stage_lanes(g, stage) for g in range(self.layout.groups)])
        for piece, load in enumerate(self.stream.weights(run.part, run.passes * run.backward), start=-1):
            if not after:
                run.loads[piece] = self._load(load, f"load_{_name(piece)}", [])
                continue
            gate = self.rows.add(
                "previous_chunk", "barrier", -1, COPY, load.lanes, np.zeros(len(load.lanes), dtype=np.int64), after,
                everything,
            )  # fmt: skip
            run.loads[piece] = self._load(load, f"load_{_name(piece)}", [gate])

    def _load_piece(self, stage: int, index: int) -> None:
        """One piece of a run's experts, when the piece whose room it takes is not used any more; before the first one
        the weights of the dense lanes."""
        assert self.stream is not None
        pieces, ahead = self.stream.spec.pieces, self.stream.spec.ahead
        number, piece = divmod(index, pieces)
        run = self.runs[stage][number]
        loads = self.stream.weights(run.part, run.passes * run.backward)
        if piece == 0:
            room = number - max((ahead + 1) // pieces, 1)
            run.loads[-1] = self._load(loads[0], "load_dense", self._release(stage, room, -1))
        if piece + 1 < len(loads):
            freed, which = divmod(index - ahead - 1, pieces)
            run.loads[piece] = self._load(loads[piece + 1], "load_experts", self._release(stage, freed, which))

    def _release(self, stage: int, number: int, piece: int) -> list[int]:
        if number < 0:
            return []
        used = self.runs[stage][number].uses.get(piece)
        return [] if used is None else [used]

    def _store(self, run: _Run, stage: int) -> list[int]:
        """Activations after a run of forward passes; gradients, states and weights after one backwards."""
        assert self.stream is not None
        after = [*run.ends, *run.uses.values()]  # the latter on the lanes of experts
        if run.backward:
            after += self.reduced.get(run.part, ())
            loads, name = self.stream.update(run.part), "update"
        else:
            loads, name = self.stream.activations(run.part, run.passes), "store_activations"
        run.stored = [self._load(load, name, after) for load in loads if load.size.any()]
        return run.stored

    def _load(self, load: Load, name: str, after: list[int]) -> int:
        groups = [load.lanes[load.label == mine].tolist() for mine in np.unique(load.label)]
        shared = any(len(group) > 1 for group in groups)
        partition = self.rows.label(groups) if shared else 0
        row = self.rows.add(name, "copy", -1, COPY, load.lanes, load.duration, after, partition, joint=shared)
        self.loads[row] = load
        return row

    def _whole_chunk(self, run: _Run) -> list[int]:
        """All loads of a run, where it begins and may not begin before they are there."""
        begins = self.stream is not None and not self.stream.spec.ahead and not run.uses
        return list(run.loads.values()) if begins else []

    def _needed(self, run: _Run, step: Piece, stage: int) -> tuple[list[int], int]:
        """Loads that a stretch waits for, and the partition over whose groups."""
        whole = self._whole_chunk(run)
        if whole:
            lanes = [self.layout.stage_lanes(group, stage) for group in range(self.layout.groups)]
            return whole, self.rows.label(lanes)
        load = run.loads.get(step.piece)
        return [*([] if load is None else [load]), *self._room_for_gradients(run, stage)], 0

    def _room_for_gradients(self, run: _Run, stage: int) -> list[int]:
        """Gradients take as much room as weights do: those of an earlier chunk have to be stored before."""
        assert self.stream is not None
        if not run.backward or any(piece >= 0 for piece in run.uses):
            return []
        number = self.at[stage] - max((self.stream.spec.ahead + 1) // self.stream.spec.pieces, 1)
        earlier = self.runs[stage][number] if number >= 0 else None
        return earlier.stored if earlier is not None and earlier.backward else []

    # The end of the step

    def _end_run(self, stage: int) -> None:
        run = self.runs[stage][self.at[stage]]
        self.at[stage] += 1
        if run.backward and not any(later.part == run.part for later in self.runs[stage][self.at[stage] :]):
            self.reduced[run.part] = self._reduce(run.part, self.last[stage].ends)

    def _reduce(self, part: int, after: tuple[int, ...]) -> tuple[int, ...]:
        """Gradients of a part over the data-parallel ranks that hold the same weights."""
        layout, stage = self.layout, part % self.layout.stages
        size = part_sizes(self.plan)[part]
        dense = layout.dense[:, stage].reshape(-1, layout.tp).T  # [tp, ranks]
        experts = layout.experts[:, stage].reshape(layout.groups, -1).T  # [lanes of a group, groups]
        rows: list[int] = []
        for lanes, number, name in ((dense, size.dense, "dense"), (experts, size.experts, "experts")):
            if lanes.shape[1] > 1 and number:
                rows += self._reduction(lanes, number, name, [*after, *rows])
        return tuple(rows)

    def _reduction(self, lanes: IntArray, number: float, name: str, after: list[int]) -> list[int]:
        """All-reduce or, where each rank updates its part alone, reduce-scatter and all-gather of the new weights."""
        groups = [tuple(int(lane) for lane in group) for group in lanes]
        gradient, fabric = DTYPE_BYTES[self.plan.training.gradients], self.plan.fabric
        if not self.plan.training.sharded_optimizer:
            transfers = [fabric.all_reduce(number * gradient, group) for group in groups]
            return [self._moved(f"reduce_{name}_gradients", groups, transfers, after)]
        share = np.full(lanes.shape[1], number / lanes.shape[1])
        scattered = [fabric.reduce_scatter(share * gradient, group) for group in groups]
        row = self._moved(f"scatter_{name}_gradients", groups, scattered, after)
        width = DTYPE_BYTES[base_dtype(self.plan.spec.storage)]
        gathered = [fabric.all_gather(share * width, group) for group in groups]
        return [row, self._moved(f"gather_{name}_weights", groups, gathered, [row])]

    def _moved(
        self, name: str, groups: list[tuple[int, ...]], transfers: list[Transfer], after: list[int]
    ) -> int:  # fmt: skip
        return self._collective(Move(name, -1, tuple(groups), tuple(each.at(()) for each in transfers)), after)

    def _finish(self, stage: int) -> None:
        """The optimizer, where weights are at hand; else what the last run leaves."""
        if self.stream is not None:
            self._store(self.runs[stage][-1], stage)
            return
        parts = [chunk * self.layout.stages + stage for chunk in range(self.layout.chunks)]
        after = [*self.last[stage].ends, *(row for part in parts for row in self.reduced.get(part, ()))]
        lanes = np.unique(np.concatenate([self.layout.all_lanes(stage)]))
        kernel = _optimizer(self.plan, parts, lanes)
        piece = stretch("optimizer", -1, lanes, [("optimizer", "optimizer", kernel)])
        self._compute(piece, after, 0)


def _optimizer(plan: TrainingPlan, parts: list[int], lanes: IntArray) -> Kernel:
    """Adam reads gradient, master weight and moments, and writes the latter and the weight: about 12 FLOP and, with
    fp32 gradients, 30 bytes per parameter of two bytes (28 of one in fp32, which is its own master); of a sharded
    optimizer, each rank its part."""
    numbers, traffic = np.zeros(len(plan.machine.devices)), np.zeros(len(plan.machine.devices))
    layout, sharded = plan.layout, plan.training.sharded_optimizer
    gradient, sizes = DTYPE_BYTES[plan.training.gradients], part_sizes(plan)
    for part in parts:
        stage, size = part % layout.stages, sizes[part]
        for at, number, held, ranks in (
            (layout.dense[:, stage].ravel(), size.dense, size.dense_bytes, layout.ranks),
            (layout.experts[:, stage].ravel(), size.experts, size.expert_bytes, layout.groups),
        ):
            share = number / (ranks if sharded else 1)
            each = held / number if number else 0.0
            numbers[at] += share
            traffic[at] += share * (gradient + update_bytes(plan, each))
    flops: FloatArray = 12.0 * numbers[lanes]
    calls = Calls("elementwise", "fp32", flops, np.zeros(len(lanes)), traffic[lanes])
    return priced(plan, calls, plan.near[int(lanes[0])])


def _runs(tasks: list[Task], stage: int, stages: int) -> list[_Run]:
    found: list[_Run] = []
    for task in tasks:
        part = task.chunk * stages + stage
        if found and (found[-1].part, found[-1].backward) == (part, task.backward):
            found[-1].passes += 1
        else:
            found.append(_Run(part, task.backward, 1))
    return found


def duration(step: Piece | Move) -> int:
    """Picoseconds of a step on its slowest lane."""
    if isinstance(step, Piece):
        return int(step.duration.max(initial=0))
    return max((int(transfer.picoseconds) for transfer in step.transfers), default=0)


def _name(piece: int) -> str:
    return "dense" if piece < 0 else "experts"
