"""One pipeline stage's local parts, tabulated over token counts for each kind of rank."""

from __future__ import annotations

from collections import Counter

import numpy as np

from moesim.kernels.base import Calls
from moesim.model.attention import Reach
from moesim.model.operators import Operator
from moesim.processors.mapped import Mapped
from moesim.step.attention import AttentionSums, FullAttention, without_chunks
from moesim.step.communication import Communication
from moesim.step.graph import FloatArray, IntArray, picoseconds
from moesim.step.layout import ReplicaLayout, stage_devices
from moesim.step.program import StageProgram
from moesim.step.sharding import AttentionShare
from moesim.step.tables import StepContext


class StageCosts:
    """Durations of a stage's local parts.

    DP ranks with the same kind of device and the same links form a class and share their tables; `rank_class[r]` is the
    class of rank r and `representative[c]` a rank of class c.
    """

    def __init__(
        self, context: StepContext, layout: ReplicaLayout, program: StageProgram, communication: Communication
    ) -> None:
        self.context, self.layout, self.program, self.communication = context, layout, program, communication
        self.devices = stage_devices(layout, program.stage, context.machine)
        keys = [self._link_key(rank) for rank in range(layout.dp)]
        classes = list(dict.fromkeys(keys))
        self.rank_class: IntArray = np.array([classes.index(key) for key in keys], dtype=np.int64)
        self.representative = [keys.index(key) for key in classes]
        self.tables = [context.table(self.devices[rank], layout.tp) for rank in self.representative]
        found = (row.operator for row in program.rows)
        self.per_sequence = list(dict.fromkeys(each for each in found if each is not None and each.per_sequence))
        self._share = AttentionShare(context.model, layout.tp, context.dtype, 1 + context.engine.drafts)
        self._decodes = FullAttention(context.model)
        parts = [part for part, _ in program.parts]
        self._times = np.array([count for _, count in program.parts])
        self._full = np.array([part.full_attention for part in parts])[:, None, None]
        self._local = np.array([part.local_attention for part in parts])[:, None, None]
        self._heads = [(i, part.heads) for i, part in enumerate(parts) if part.heads]
        self._parts = np.stack([[self._tabulate(i, c) for c in range(len(classes))] for i in range(len(parts))])
        self._head = np.stack([self._tabulate_head(c) for c in range(len(classes))])

    @property
    def operators(self) -> Counter[Operator]:
        """How often each local operator runs in a step, those beside the routed experts included."""
        found: Counter[Operator] = Counter(dict(self.program.beside))
        for part, times in self.program.parts:
            for operator, count in part.operators:
                found[operator] += count * times
        return found

    def total(self, name: str) -> int:
        """How often the parts hold `reductions`, `norm_reductions`, `gathers`, `heads`, `full_attention` or
        `local_attention` in all."""
        return sum(getattr(part, name) * times for part, times in self.program.parts)

    def _link_key(self, rank: int) -> tuple[object, ...]:
        devices = [self.context.machine.devices[i] for i in self.layout.devices[self.program.stage, rank]]
        return (devices[0].spec.name, *(device.node - devices[0].node for device in devices))

    def _tabulate(self, index: int, kind: int) -> IntArray:
        """[sizes] picoseconds of a part's operators and reductions, by the rank's tokens."""
        part, rank, stage = self.program.parts[index][0], self.representative[kind], self.program.stage
        total = np.zeros(self.context.token_limit + 1, dtype=np.int64)
        for operator, count in part.operators:
            total += count * self.tables[kind][operator].duration
        if part.reductions:
            total += part.reductions * self.communication.reduce(stage, rank).picoseconds
        if part.norm_reductions:
            total += part.norm_reductions * self.communication.reduce_sums(stage, rank).picoseconds
        if part.gathers:
            total += part.gathers * self.communication.gather(stage, rank).picoseconds
        return total

    def _tabulate_head(self, kind: int) -> IntArray:
        """[sizes] picoseconds of head and sampling, by the rank's samples."""
        total = np.zeros(self.context.token_limit + 1, dtype=np.int64)
        for operator in self.per_sequence:
            total += self.tables[kind][operator].duration
        if self.per_sequence and self.layout.tp > 1:
            total += self.communication.logits(self.program.stage, self.representative[kind]).picoseconds
        return total

    def attention_calls(self, sums: AttentionSums, reach: Reach) -> Calls:
        return self._share.calls(sums, reach)

    def attention_by_processor(self, sums: AttentionSums, reach: Reach, kind: int) -> Mapped:
        """What one layer's attention takes on a class of ranks."""
        device, mapped = self.devices[self.representative[kind]], self.context.mapped
        calls = self.attention_calls(sums, reach)
        if len(mapped.processors(device)) == 1:
            return mapped.whole(calls, device)
        decoding = self._decodes.decode(np.atleast_2d(sums.keys), np.atleast_2d(sums.decodes))
        decode = AttentionSums(*decoding.reshape(len(sums), *sums.keys.shape))
        prefill = AttentionSums(*(both - part for both, part in zip(sums, decode, strict=True)))
        apart = self.attention_calls(prefill, reach), self.attention_calls(decode, reach)
        return mapped.attention(*apart, calls, device)

    def attention(self, sums: FloatArray, reach: Reach, prompts: bool) -> IntArray:
        """[steps, ranks] picoseconds of one layer's attention kernel.

        Args:
            sums: [9, steps, ranks], the rows of AttentionSums. prompts: whether the first step has any.
        """
        if len(self.tables) == 1:
            return self._attention_duration(sums, reach, 0, prompts)
        times = np.zeros(sums.shape[1:], dtype=np.int64)
        for kind in range(len(self.tables)):
            mine = self.rank_class == kind
            times[:, mine] = self._attention_duration(sums[:, :, mine], reach, kind, prompts)
        return times

    def _attention_duration(self, sums: FloatArray, reach: Reach, kind: int, prompts: bool) -> IntArray:
        """[steps, ranks]; steps with prompts and without are calls of different kernels."""
        device, kernels = self.devices[self.representative[kind]], self.context.kernels
        if len(self.context.mapped.processors(device)) > 1:
            return self.attention_by_processor(AttentionSums(*sums), reach, kind).duration
        if not prompts:
            return picoseconds(kernels.seconds(self.attention_calls(without_chunks(sums), reach), device))
        first = kernels.seconds(self.attention_calls(AttentionSums(*sums[:, :1]), reach), device)
        if sums.shape[1] == 1:
            return picoseconds(first)
        rest = kernels.seconds(self.attention_calls(without_chunks(sums[:, 1:]), reach), device)
        return picoseconds(np.concatenate([first, rest]))

    def single_rank(self) -> tuple[IntArray, IntArray, int]:
        """Where there is one DP rank: [sizes] picoseconds of all local parts without attention, by its tokens; of heads
        and sampling, by its samples; and how many attention kernels there are."""
        heads = sum(int(self._times[part]) * count for part, count in self._heads)
        return self._times @ self._parts[:, 0], heads * self._head[0], self.total("full_attention")

    def local(self, tokens: IntArray, samples: IntArray, attention: dict[Reach, IntArray]) -> tuple[IntArray, IntArray]:
        """Picoseconds of all local parts, each as slow as its slowest rank, and the rank that is slowest overall.

        Args:
            tokens, samples: [steps, ranks].
            attention: per kind [steps, ranks] picoseconds of one kernel.
        """
        alike = len(self.tables) == 1
        times = self._parts[:, 0].take(tokens, axis=1) if alike else self._parts[:, self.rank_class, tokens]
        for part, heads in self._heads:  # times: [parts, steps, ranks]
            times[part] += heads * (self._head[0].take(samples) if alike else self._head[self.rank_class, samples])
        if "full" in attention:
            times += self._full * attention["full"]
        if "local" in attention:
            times += self._local * attention["local"]
        if tokens.shape[1] == 1:
            single: IntArray = self._times @ times[:, :, 0]
            return single, np.zeros(len(single), dtype=np.int64)
        slowest = self._times @ np.maximum.reduce(times, axis=2)
        critical = (self._times @ times.reshape(len(times), -1)).reshape(tokens.shape).argmax(axis=1)
        return slowest, critical
