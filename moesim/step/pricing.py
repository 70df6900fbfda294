"""What a batch costs: the duration of every step in it, and, once it has run, where the time and bytes went.

A step takes, per pipeline stage, the sum over its local parts of the slowest DP rank, plus the exchange parts
(`program`), plus what the host adds. All steps of a block are priced at once: O(steps x ranks x parts), whatever the
number of layers; the context-length term is exact in every step.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from moesim.fabric.transfer import LONGEST_STEP
from moesim.model.attention import Reach
from moesim.spec.errors import MoesimError
from moesim.step.accounting import Accounts
from moesim.step.attention import FullAttention, chunk_work, verified_work
from moesim.step.batch import Batch
from moesim.step.communication import Communication
from moesim.step.graph import FloatArray, IntArray
from moesim.step.host import HostCosts
from moesim.step.layout import ReplicaLayout
from moesim.step.program import StageProgram
from moesim.step.routed import ExpertCosts, RoutedPrice, RoutedPricer
from moesim.step.sizes import Sizes, block_sizes, taking_part
from moesim.step.stage import StageCosts
from moesim.step.tables import StepContext

#: So many steps of ranks take about as long to price as one.
_RANK_STEPS = 64


class ExpertUse(NamedTuple):
    """What a step asked of a cache of experts. Distinct experts, summed over layers: requests, those found in the cache
    (hits), used after they were fetched ahead, computed by the host, and copies of all kinds; picoseconds in which
    nothing was computed because of copies and of the host."""

    requests: int = 0
    hits: int = 0
    fetched_ahead: int = 0
    on_host: int = 0
    copied: int = 0
    waiting_for_copies: int = 0
    waiting_for_host: int = 0

    def plus(self, other: ExpertUse) -> ExpertUse:
        return ExpertUse(*(a + b for a, b in zip(self, other, strict=True)))


class Executable(Protocol):
    """A priced batch whose steps are executed one after the other."""

    @property
    def batch(self) -> Batch: ...

    def ends(self, start: int) -> list[int]:
        """When each step ends, if they follow each other from `start` on."""
        ...

    def decoding(self, steps: int) -> list[int]:
        """Decoding sequences of all ranks in the first so many steps."""
        ...

    def seen(self, steps: int) -> list[int]:
        """Keys that they see, the new ones included."""
        ...


class Block(NamedTuple):
    """A priced batch: in step k, pipeline stage p takes `stages[p, k]` picoseconds and the host adds `host[k]`.

    `sums[kind]`: [9, steps, ranks], the rows of AttentionSums. Per stage: `attention[kind]` durations [steps, ranks]
    of one layer's kernel, `critical` [steps] the rank that is slowest in all local parts together. `routed`: the MoE
    parts, None for dense models. `hidden`, `sharing`: of an executed step, picoseconds of communication behind
    computation, and of waiting for others on shared links. `parts`: its micro-batches, where it has any.
    `offload`: of a step whose experts are not all on the devices.
    """

    batch: Batch
    sizes: Sizes
    stages: IntArray
    host: IntArray
    sums: dict[Reach, FloatArray]
    attention: list[dict[Reach, IntArray]]
    critical: list[IntArray]
    routed: RoutedPrice | None
    sends: IntArray  # [P, steps]
    durations: IntArray  # [steps] picoseconds
    hidden: int = 0
    sharing: int = 0
    parts: tuple[Block, ...] = ()
    offload: ExpertUse | None = None

    def ends(self, start: int) -> list[int]:
        ends: list[int] = (start + np.cumsum(self.durations)).tolist()
        return ends

    def decoding(self, steps: int) -> list[int]:
        decoding: list[int] = np.add.reduce(self.sizes.decodes[:steps], axis=1).tolist()
        return decoding

    def seen(self, steps: int) -> list[int]:
        seen: list[int] = np.add.reduce(self.sizes.keys[:steps] - self.sizes.idle[:steps], axis=1).astype(int).tolist()
        return seen


def _drafts(sizes: Sizes, each: int) -> FloatArray:
    """[2, steps, ranks] query tokens of drafts, `each` behind a sequence's first query token, and the pairs of theirs
    and keys: the n-th sees n keys more than the first."""
    keys = sizes.keys - sizes.idle
    return np.array([each * sizes.decodes, each * keys + sizes.decodes * (each * (each + 1) // 2)])


def check_length(durations: IntArray, tokens: IntArray) -> None:
    """Durations beyond what the clock is made for (sums of them may have run over) come from a mistake in the machine.

    Raises:
        MoesimError: a step takes an hour.
    """
    if durations.view(np.uint64).max() >= LONGEST_STEP:  # a negative number reads as a huge one
        raise MoesimError(
            f"a step of {int(tokens.max())} tokens takes an hour or more",
            key="machine",
            fix="check the rates of its devices and links and the engine's overheads, or lower engine.token_budget",
        )


def attention_kinds(programs: list[StageProgram]) -> list[Reach]:
    return sorted({row.attention for program in programs for row in program.rows if row.attention is not None})


class StepPricer:
    """Prices the batches of one replica. `single_steps`: it cannot price a block of several.

    Args:
        programs: one per pipeline stage.
        routed, experts: price the MoE parts; None for dense models.
    """

    single_steps = False

    @property
    def shortest_block(self) -> int:
        """Steps up to which pricing takes about as long as for one, at least 4."""
        return max(4, _RANK_STEPS // self.layout.dp)

    def __init__(
        self,
        context: StepContext,
        layout: ReplicaLayout,
        programs: list[StageProgram],
        communication: Communication,
        routed: RoutedPricer | None,
        experts: ExpertCosts | None,
    ) -> None:
        self.context, self.layout, self.programs, self.routed = context, layout, programs, routed
        self.communication, self.experts = communication, experts
        self._full = FullAttention(context.model)
        self._kinds = attention_kinds(programs)
        self.stages = [self.stage_costs(program) for program in programs]
        self.host = HostCosts(context, programs)
        self.accounts = self.new_accounts()

    def stage_costs(self, program: StageProgram) -> StageCosts:
        return StageCosts(self.context, self.layout, program, self.communication)

    def clear(self) -> None:
        """Forget what was recorded."""
        self.accounts = self.new_accounts()
        if self.routed is not None:
            self.routed.clear()

    def new_accounts(self) -> Accounts:
        return Accounts(self.stages, self.context, self.layout, self.routed)

    def price(self, batch: Batch, rested: bool = False) -> Block:
        """Durations of all steps of the batch; nothing is recorded yet. rested: the devices were idle before it."""
        sizes = block_sizes(batch, self.context.graphs)
        sums = {kind: self._attention(batch, sizes, kind) for kind in self._kinds}
        routed = self.routed.price(sizes, batch) if self.routed is not None else None
        stages = np.zeros((len(self.stages), batch.steps), dtype=np.int64)
        sends = np.zeros(stages.shape, dtype=np.int64)
        attention, critical, prompts = [], [], bool(batch.chunks)
        for p, stage in enumerate(self.stages):
            times = {kind: stage.attention(each, kind, prompts) for kind, each in sums.items()}
            stages[p], slowest = stage.local(sizes.tokens, sizes.samples, times)
            attention.append(times)
            critical.append(slowest)
        if routed is not None:
            stages += routed.experts
            stages += routed.dispatch
            stages += routed.combine
            if routed.weights is not None:
                stages += routed.weights
        if len(stages) > 1:
            sends = self.communication.send(sizes.fullest)
            stages += sends
        device = np.add.reduce(stages, axis=0)
        host = self.host.beyond(device, sizes, rested)
        durations = device + host
        check_length(durations, sizes.tokens)
        return Block(batch, sizes, stages, host, sums, attention, critical, routed, sends, durations)

    def block(self, batch: Batch, rested: bool = False) -> Executable:
        """What the loop of a replica needs to know of `price`."""
        return self.price(batch, rested)

    def record(self, block: Executable, executed: int, busy: int) -> None:
        """Count the first so many steps of a `block`; see `Accounts.record`."""
        assert isinstance(block, Block)
        self.accounts.record(block, executed, busy)

    def _attention(self, batch: Batch, sizes: Sizes, kind: Reach) -> FloatArray:
        """[9, steps, ranks] sums over each rank's sequences; dummy tokens see one key."""
        if kind == "local" and batch.queries > 1:
            work = self._local_drafts(batch, sizes)
        else:
            keys = sizes.keys if kind == "full" else self._local_keys(batch) + sizes.idle
            drafts = _drafts(sizes, batch.queries - 1) if batch.queries > 1 else None
            work = self._full.decode(keys, sizes.decodes + sizes.idle, drafts)
        for chunk in batch.chunks:
            if kind == "full":
                work[:, 0, chunk.rank] += self._full.chunk(chunk.tokens, chunk.cached)
            else:
                work[:, 0, chunk.rank] += chunk_work(self.context.model, kind, chunk.tokens, chunk.cached)
        return work

    def _local_drafts(self, batch: Batch, sizes: Sizes) -> FloatArray:
        """[9, steps, ranks] sums over sequences that verify drafts in local attention, and the dummies."""
        active = taking_part(batch)
        step, row = active.nonzero()
        columns = verified_work(self.context.model, "local", batch.queries, batch.cached()[step, row])
        cell, size = step * batch.ranks + batch.rank[row], batch.steps * batch.ranks
        work = self._full.decode(sizes.idle.astype(np.float64), sizes.idle)
        sums = [np.bincount(cell, weights=column, minlength=size) for column in columns]
        work[: len(sums)] += np.array(sums).reshape(len(sums), batch.steps, batch.ranks)
        return work

    def _local_keys(self, batch: Batch) -> FloatArray:
        """[steps, ranks] keys that local attention sees: at most the window, or those since the chunk's start."""
        spec = self.context.model.attention
        step = np.arange(batch.steps)[:, None]
        keys = batch.context + 1 + step
        seen = np.minimum(keys, spec.window) if spec.window is not None else (keys - 1) % (spec.chunk or 1) + 1
        seen = np.where(batch.left > step, seen, 0)
        seen[0, len(batch.rank) - batch.joining :] = 0
        cell = step * batch.ranks + batch.rank
        total = np.bincount(cell.ravel(), weights=seen.ravel(), minlength=batch.steps * batch.ranks)
        local: FloatArray = total.reshape(batch.steps, batch.ranks).astype(np.float64)
        return local
