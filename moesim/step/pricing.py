"""What a batch costs: the duration of every step in it, and, once it has run, where the time and bytes went.

A step takes, per pipeline stage, the sum over its local parts of the slowest DP rank, plus the exchange parts
(`program`), plus what the host adds. Work per step: O(parts x ranks), whatever the number of layers; per change of a
batch's composition one look-up per part, while the context-length term is evaluated for every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.model.operators import attention_work
from moesim.step.accounting import Accounts
from moesim.step.batch import Batch
from moesim.step.communication import Communication
from moesim.step.graph import PICOSECONDS, FloatArray, IntArray
from moesim.step.layout import ReplicaLayout
from moesim.step.program import StageProgram
from moesim.step.routed import ExpertCosts, RoutedPrice, RoutedPricer
from moesim.step.stage import AttentionSums, StageCosts
from moesim.step.tables import StepContext


@dataclass(frozen=True)
class Segment:
    """Steps `begin` to `end` of a block, in which the batch's composition stays the same."""

    begin: int
    end: int
    tokens: IntArray  # [R] with dummy tokens
    sequences: IntArray  # [R]
    attention: dict[str, AttentionSums]
    attention_duration: dict[str, IntArray]  # [P, steps, R]
    local: IntArray  # [P, steps] picoseconds, slowest ranks
    critical: IntArray  # [P, steps] the slowest rank (of the whole local part)
    routed: RoutedPrice | None
    send: IntArray  # [P]
    dummies: int  # ranks without work, which carry a token all the same


@dataclass(frozen=True)
class Block:
    """A priced batch: `stages[p, k]` is what pipeline stage p of step k takes, `host` what the host adds, picoseconds."""

    batch: Batch
    stages: IntArray
    host: IntArray
    segments: tuple[Segment, ...]

    @property
    def durations(self) -> IntArray:
        total: IntArray = self.stages.sum(axis=0) + self.host
        return total


class DecodeCoefficients:
    """Attention of one decoding sequence is linear in its visible keys: work = slope x keys + constant."""

    def __init__(self, context: StepContext) -> None:
        # Two evaluations with 1 and 2 visible keys give the line.
        work = attention_work(context.model, "full", [1, 1], [0, 1])
        self.flops, self.kv, self.query = (
            (float(values[1] - values[0]), float(2 * values[0] - values[1]))
            for values in (work.flops, work.kv_read + work.kv_written, work.query_elements)
        )


class StepPricer:
    """Prices the batches of one replica.

    Args:
        programs: one per pipeline stage.
        routed, experts: price the MoE parts; None for dense models.
    """

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
        self._decode = DecodeCoefficients(context)
        self._kinds = sorted({"local" if row.attention == "local" else "full" for p in programs for row in p.rows if row.attention})
        self._stages = [StageCosts(context, layout, program, communication) for program in programs]
        self._step_overhead = round(context.engine.step_overhead * PICOSECONDS)
        self._sequence_overhead = round(context.engine.sequence_overhead * PICOSECONDS)
        self.accounts = Accounts(self._stages, context, layout, routed)

    def price(self, batch: Batch) -> Block:
        """Durations of all steps of the batch; nothing is recorded yet."""
        leaving = np.unique(batch.left[batch.left < batch.steps])
        fresh = self.routed is not None and not self.routed.reuses
        edges = list(range(batch.steps + 1)) if fresh else [0, *leaving.tolist(), batch.steps]
        segments = tuple(self._segment(batch, a, b) for a, b in zip(edges, edges[1:], strict=False) if b > a)
        stages = np.concatenate([self._stage_times(segment) for segment in segments], axis=1)
        host = np.concatenate([self._host(segment) for segment in segments])
        return Block(batch, stages, host, segments)

    def _host(self, segment: Segment) -> IntArray:
        overhead = self._step_overhead + self._sequence_overhead * int(segment.sequences.max())
        return np.full(segment.end - segment.begin, overhead, dtype=np.int64)

    def _stage_times(self, segment: Segment) -> IntArray:
        fixed = segment.send if segment.routed is None else segment.send + segment.routed.stages
        return segment.local + fixed[:, None]

    def _segment(self, batch: Batch, begin: int, end: int) -> Segment:
        decodes = batch.decode_counts(begin)
        chunked = batch.chunk_tokens()
        idle = (decodes + chunked) == 0
        singles = decodes + idle
        tokens = singles + chunked
        sequences = singles + batch.chunk_counts()
        attention = {kind: self._attention(batch, begin, end, kind, idle) for kind in self._kinds}
        times = {kind: np.stack([stage.attention(sums) for stage in self._stages]) for kind, sums in attention.items()}
        pairs = [stage.local(tokens, sequences, {kind: times[kind][p] for kind in times}) for p, stage in enumerate(self._stages)]
        routed = self.routed.price(singles, chunked, batch, begin) if self.routed is not None else None
        return Segment(
            begin, end, tokens, sequences, attention, times,
            np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs]), routed,
            self.communication.send(int(tokens.max())), int(idle.sum()),
        )  # fmt: skip

    def _attention(self, batch: Batch, begin: int, end: int, kind: str, idle: IntArray) -> AttentionSums:
        """Sums over each rank's sequences; dummy tokens see one key."""
        steps = np.arange(end - begin, dtype=np.float64)[:, None]
        active = batch.left > begin
        rank, keys = batch.rank[active], batch.context[active] + (begin + 1)
        count = np.bincount(rank, minlength=batch.ranks) + idle
        if kind == "full":
            visible = np.bincount(rank, weights=keys, minlength=batch.ranks) + idle + steps * count
        else:
            visible = self._local_keys(rank, keys, steps, batch.ranks) + idle
        (flops, flops0), (kv, kv0), (query, query0) = self._decode.flops, self._decode.kv, self._decode.query
        sums = [flops * visible + flops0 * count, kv * visible + kv0 * count, query * visible + query0 * count]
        for chunk in batch.chunks:
            work = attention_work(self.context.model, kind, chunk.tokens, chunk.cached)  # type: ignore[arg-type]
            sums[0][:, chunk.rank] += work.flops
            sums[1][:, chunk.rank] += work.kv_read + work.kv_written
            sums[2][:, chunk.rank] += work.query_elements
        return AttentionSums(*sums)

    def _local_keys(self, rank: IntArray, keys: IntArray, steps: FloatArray, ranks: int) -> FloatArray:
        """Keys that local attention sees: at most the window, or those since the chunk's start."""
        spec = self.context.model.attention
        now = keys[None, :] + steps
        seen = np.minimum(now, spec.window) if spec.window is not None else (now - 1) % (spec.chunk or 1) + 1
        visible = np.zeros((len(steps), ranks))
        for k, row in enumerate(seen):
            visible[k] = np.bincount(rank, weights=row, minlength=ranks)
        return visible
