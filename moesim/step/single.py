"""Prices of a replica of one DP rank, step by step as numbers: arrays of one rank take longer to handle than to fill.

Says the same as `StepPricer`, for engines without drafts and attention that sees everything before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, islice
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from moesim.fabric.transfer import LONGEST_STEP
from moesim.kernels.base import Alone
from moesim.kernels.shapes import AttentionShape
from moesim.step.accounting import Accounts
from moesim.step.attention import AttentionSums, FullAttention
from moesim.step.batch import Batch
from moesim.step.communication import Communication
from moesim.step.graph import PICOSECONDS, IntArray
from moesim.step.layout import ReplicaLayout, stage_devices
from moesim.step.pricing import Executable, StepPricer, attention_kinds, check_length
from moesim.step.program import StageProgram
from moesim.step.routed import ExpertCosts, RoutedPricer
from moesim.step.sharding import AttentionShare
from moesim.step.tables import StepContext
from moesim.step.tabulated import Tabulated

_NOTHING = AttentionSums(*np.zeros((len(AttentionSums._fields), 1, 1)))

#: Blocks that are counted together; they are smaller than others.
_TOGETHER = 256


N = TypeVar("N", int, IntArray)


class _Step(NamedTuple, Generic[N]):
    """A priced step: picoseconds of it, its host, one layer's attention and all experts; decoding sequences, the keys
    that they see, tokens with padding, those that are padding, sequences, and prompt tokens; number of the step."""

    duration: N
    host: N
    attention: N
    experts: N
    decodes: N
    keys: N
    tokens: N
    padding: N
    sequences: N
    chunked: N
    number: N


class SingleRankBlock:
    """A batch whose steps are priced when they are asked for."""

    def __init__(self, batch: Batch, steps: Iterator[_Step[int]]) -> None:
        self.batch, self.steps, self._more = batch, list[_Step[int]](), steps

    def ends(self, start: int, steps: int) -> list[int]:
        self.steps += islice(self._more, steps - len(self.steps))
        durations = [step.duration for step in self.steps]
        if not 0 <= min(durations) <= max(durations) < LONGEST_STEP:
            check_length(np.array(durations), np.array([step.tokens for step in self.steps]))
        return list(accumulate(durations, initial=start))[1:]

    def decoding(self, steps: int) -> list[int]:
        return [step.decodes for step in self.steps[:steps]]

    def seen(self, steps: int) -> list[int]:
        return [step.keys for step in self.steps[:steps]]


class SingleRankPricer(StepPricer):
    """Of a replica for which `suits` holds."""

    @staticmethod
    def suits(
        context: StepContext, layout: ReplicaLayout, programs: list[StageProgram], routed: RoutedPricer | None
    ) -> bool:
        if layout.dp > 1 or layout.pp > 1 or context.engine.drafts or attention_kinds(programs) != ["full"]:
            return False
        gathers = routed is None or (isinstance(routed, Tabulated) and not routed.exchange.all_to_all)
        return gathers and _attention_alone(context, layout) is not None

    def __init__(
        self,
        context: StepContext,
        layout: ReplicaLayout,
        programs: list[StageProgram],
        communication: Communication,
        routed: Tabulated | None,
        experts: ExpertCosts | None,
    ) -> None:
        self.tabulated = routed
        super().__init__(context, layout, programs, communication, routed, experts)
        found = _attention_alone(context, layout)
        assert found is not None
        self._alone, self._sizes = found
        sizes = np.arange(context.token_limit + 1)
        local, head, self._kernels = self.stages[0].single_rank()
        #: [2, sizes] picoseconds of dispatch and combine.
        self.exchange: IntArray = np.zeros((2, len(sizes)), dtype=np.int64)
        if routed is not None:
            self.exchange[:] = np.stack(routed.exchange.of_gathered(sizes))[:, 0]
        self._by_tokens: list[int] = (local + self.exchange.sum(axis=0)).tolist()
        self._by_sequences: list[int] = head.tolist()
        self._graphs: list[int] = context.graphs.captured(sizes, False).tolist()
        self._piecewise: list[int] = self._graphs if context.graphs.piecewise else [0] * len(sizes)

    def new_accounts(self) -> Accounts:
        self._counted = SingleRankAccounts(self)
        return self._counted

    def record(self, block: Executable, executed: int, busy: int) -> None:
        assert isinstance(block, SingleRankBlock)
        self._counted.record_single(block, executed, busy)

    def block(self, batch: Batch, rested: bool = False) -> SingleRankBlock:
        return SingleRankBlock(batch, self._steps(batch, rested))

    def _steps(self, batch: Batch, rested: bool) -> Iterator[_Step[int]]:
        if batch.chunks:
            yield self._first(batch, rested)
        count, held = len(batch.rank), int(np.add.reduce(batch.context))
        leaving = _leaving(batch) if batch.steps > 1 else {}
        for step in range(batch.steps):
            for context in leaving.get(step, ()):
                count -= 1
                held -= context
            if step or not batch.chunks:
                keys = held + count * (step + 1)
                yield self._decode(count, keys, batch.first_step + step, rested and not step)

    def _decode(self, count: int, keys: int, number: int, rested: bool) -> _Step[int]:
        """A step of decoding sequences."""
        graph = self._graphs[count]
        tokens = graph or count
        attention = self._attend(float(count), float(keys), 0.0, 0.0, 0.0, 0.0)
        experts = self.tabulated.of_decodes(tokens, number) if self.tabulated is not None else 0
        device = self._by_tokens[tokens] + self._by_sequences[count] + self._kernels * attention + experts
        host = self.host.beyond_one(device, count, graph > 0, 0, rested)
        return _Step(
            device + host, host, attention, experts, count, keys, tokens, tokens - count, count, 0, number
        )  # fmt: skip

    def _first(self, batch: Batch, rested: bool) -> _Step[int]:
        """The step of the chunks."""
        count, prompts = len(batch.rank) - batch.joining, len(batch.chunks)
        keys = int(np.add.reduce(batch.context[:count])) + count
        decodes, seen, chunks, chunked, pairs, chunk_keys = count, keys, 0, 0, 0, 0
        for _, _, tokens, cached in batch.chunks:
            if tokens == 1:  # computed as a decoding sequence is
                decodes, seen = decodes + 1, seen + cached + 1
                continue
            chunks, chunked, chunk_keys = chunks + 1, chunked + tokens, chunk_keys + cached + tokens
            pairs += tokens * cached + tokens * (tokens + 1) // 2
        attention = self._attend(*map(float, (decodes, seen, chunks, chunked, pairs, chunk_keys)))
        chunked += decodes - count
        sequences, graph, experts = count + prompts, self._piecewise[count + chunked], 0
        padded = graph or count + chunked
        if self.tabulated is not None:
            use = self.tabulated.use_of_prompts(padded, chunked, batch.first_step)
            (experts,) = self.tabulated.of_prompts(use)
        device = self._by_tokens[padded] + self._by_sequences[sequences] + self._kernels * attention + experts
        host = self.host.beyond_one(device, sequences, graph > 0, prompts, rested)
        padding = padded - count - chunked
        return _Step(
            device + host, host, attention, experts, count, keys, padded, padding, sequences, chunked, batch.first_step
        )  # fmt: skip

    def _attend(self, *counts: Any) -> int:
        """Picoseconds of one layer's attention, by the first columns of its shape."""
        seconds = self._alone(AttentionShape(*counts, *self._sizes))
        return round(min(seconds * PICOSECONDS, LONGEST_STEP))


class SingleRankAccounts(Accounts):
    """Counts many blocks at once, from all their steps together."""

    def __init__(self, pricer: SingleRankPricer) -> None:
        super().__init__(pricer.stages, pricer.context, pricer.layout, pricer.routed)
        self._pricer, self._executed = pricer, list[tuple[Batch, list[_Step[int]]]]()
        self._attention = FullAttention(pricer.context.model)

    def record_single(self, block: SingleRankBlock, executed: int, busy: int) -> None:
        """As `record`."""
        self.steps += executed
        self.busy += busy
        self._executed.append((block.batch, block.steps[:executed]))
        if len(self._executed) >= _TOGETHER:
            self.settle()

    def settle(self) -> None:
        super().settle()
        blocks, self._executed = self._executed, []
        if not blocks:
            return
        steps: _Step[IntArray] = _Step(*np.array([step for _, each in blocks for step in each], dtype=np.int64).T)
        self.host += int(steps.host.sum())
        self.padding += int(steps.padding.sum())
        np.add.at(self.largest_tokens, steps.tokens, 1)
        np.add.at(self.gathered_tokens, steps.tokens, 1)
        (stage,) = self.stages
        for sizes in (stage.tokens, stage.critical_tokens):
            np.add.at(sizes[0], steps.tokens, 1)
        for sizes in (stage.samples, stage.critical_samples):
            np.add.at(sizes[0], steps.sequences, 1)
        stage.experts += int(steps.experts.sum())
        dispatch, combine = self._pricer.exchange
        stage.dispatch += int(dispatch[steps.tokens].sum())
        stage.combine += int(combine[steps.tokens].sum())
        self._count_kernels(steps, [batch for batch, _ in blocks if batch.chunks])
        self._count_routed(steps)

    def _count_kernels(self, steps: _Step[IntArray], prompts: list[Batch]) -> None:
        """Attention in steps with prompts, which are those of `prompts`, and without."""
        for mixed in (True, False):
            mine = (steps.chunked > 0) == mixed
            durations, keys, decodes = (each[mine][:, None] for each in (steps.attention, steps.keys, steps.decodes))
            if not len(durations):
                continue
            works = self._attention.decode(keys.astype(np.float64), decodes)
            for step, batch in enumerate(prompts if mixed else ()):
                for chunk in batch.chunks:
                    works[:, step, 0] += self._attention.chunk(chunk.tokens, chunk.cached)
            self.stages[0].add_attention(("full", mixed), durations, works, np.zeros(len(durations), dtype=np.int64))

    def _count_routed(self, steps: _Step[IntArray]) -> None:
        tabulated = self._pricer.tabulated
        if tabulated is None:
            return
        mixed = steps.chunked > 0
        prompts = (each[mixed].tolist() for each in (steps.tokens, steps.chunked, steps.number))
        for use in zip(*prompts, strict=True):
            tabulated.count_prompts(tabulated.use_of_prompts(*use))
        _, below, weight, turn = tabulated.use_of_decodes(steps.tokens[~mixed], steps.number[~mixed])
        tabulated.count_decodes(below, weight, turn)


def _leaving(batch: Batch) -> dict[int, list[int]]:
    """Tokens in the cache of the sequences that do not take part any more from a step on, by step."""
    found: dict[int, list[int]] = {}
    rows = (batch.left < batch.steps).nonzero()[0]
    for step, context in zip(batch.left[rows].tolist(), batch.context[rows].tolist(), strict=True):
        found.setdefault(step, []).append(context)
    return found


def _attention_alone(context: StepContext, layout: ReplicaLayout) -> tuple[Alone, tuple[Any, ...]] | None:
    """What prices one layer's attention, and the last columns of its shapes; None where only arrays can be priced."""
    device = stage_devices(layout, 0, context.machine)[0]
    calls = AttentionShare(context.model, layout.tp, context.dtype).calls(_NOTHING, "full")
    assert isinstance(calls.shape, AttentionShape)
    if len(context.mapped.processors(device)) > 1 or (alone := context.kernels.alone(calls, device)) is None:
        return None
    return alone, calls.shape[6:]
