"""Prices of a replica of one DP rank, step by step as numbers: arrays of one rank take longer to handle than to fill.

Says the same as `StepPricer`, for engines without drafts and attention that sees everything before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.fabric.transfer import LONGEST_STEP
from moesim.kernels.base import Alone
from moesim.kernels.shapes import AttentionShape
from moesim.step.attention import AttentionSums, chunk_counts
from moesim.step.batch import Batch
from moesim.step.communication import Communication
from moesim.step.graph import PICOSECONDS
from moesim.step.layout import ReplicaLayout, stage_devices
from moesim.step.pricing import Block, StepPricer, attention_kinds, check_length
from moesim.step.program import StageProgram
from moesim.step.routed import ExpertCosts, RoutedPrice, RoutedPricer
from moesim.step.sharding import AttentionShare
from moesim.step.sizes import Sizes
from moesim.step.tables import StepContext
from moesim.step.tabulated import Tabulated, Use

_NOTHING = AttentionSums(*np.zeros((len(AttentionSums._fields), 1, 1)))
_NO_TIME = np.zeros((1, 1), dtype=np.int64)

#: Numbers of a step: picoseconds of it, of its devices, one layer's attention and all experts; decoding sequences, the
#: keys that they see, tokens, those that are padding, sequences, and tokens of its graph.
_Step = tuple[int, int, int, int, int, int, int, int, int, int]


class SingleRankPricer(StepPricer):
    """Of a replica for which `suits` holds."""

    shortest_block = 4

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
        super().__init__(context, layout, programs, communication, routed, experts)
        found = _attention_alone(context, layout)
        assert found is not None
        self._alone, self._sizes = found
        local, head, self._kernels = self.stages[0].single_rank()
        self._tabulated, self._exchange = routed, np.zeros((2, 1, context.token_limit + 1), dtype=np.int64)
        if routed is not None:
            self._exchange[:] = routed.exchange.of_gathered(np.arange(context.token_limit + 1))
        #: Picoseconds by tokens, and by sequences.
        self._by_tokens: list[int] = (local + self._exchange.sum(axis=(0, 1))).tolist()
        self._by_sequences: list[int] = head.tolist()
        self._graphs: list[int] = context.graphs.captured(np.arange(context.token_limit + 1), False).tolist()
        self._piecewise: list[int] = self._graphs if context.graphs.piecewise else [0] * len(self._graphs)

    def price(self, batch: Batch, rested: bool = False) -> Block:
        steps = [self._first(batch, rested)] if batch.chunks else []
        count, held, leaving = len(batch.rank), int(np.add.reduce(batch.context)), _leaving(batch)
        for step in range(batch.steps):
            for context in leaving.get(step, ()):
                count -= 1
                held -= context
            if step == len(steps):
                keys, graph = held + count * (step + 1), self._graphs[count]
                attention = self._attend(float(count), float(keys), 0.0, 0.0, 0.0, 0.0)
                experts = 0
                if self._tabulated is not None:
                    experts = self._tabulated.of_decodes(graph or count, batch.first_step + step)
                steps.append(self._step(count, keys, count, count, graph, attention, experts, 0, rested and not step))
        return self._block(batch, steps)

    def _first(self, batch: Batch, rested: bool) -> _Step:
        """The step of the chunks."""
        decodes = len(batch.rank) - batch.joining
        keys = int(np.add.reduce(batch.context[:decodes])) + decodes
        counts = [float(decodes), float(keys), 0.0, 0.0, 0.0, 0.0]
        for chunk in batch.chunks:
            pairs = chunk.tokens * chunk.cached + chunk.tokens * (chunk.tokens + 1) // 2
            of_chunk = chunk_counts(chunk.tokens, pairs, chunk.cached + chunk.tokens)
            counts = [a + b for a, b in zip(counts, of_chunk, strict=True)]
        tokens = decodes + sum(chunk.tokens for chunk in batch.chunks)
        graph, prompts, experts = self._piecewise[tokens], len(batch.chunks), 0
        if self._tabulated is not None:
            (experts,) = self._tabulated.of_prompts(self._use(batch, graph or tokens))
        attention = self._attend(*counts)
        return self._step(decodes, keys, tokens, decodes + prompts, graph, attention, experts, prompts, rested)

    def _use(self, batch: Batch, tokens: int) -> Use:
        """How the step of the chunks uses the grid of routed loads."""
        assert self._tabulated is not None
        return self._tabulated.use_of_prompts(tokens, sum(chunk.tokens for chunk in batch.chunks), batch.first_step)

    def _attend(self, *counts: float) -> int:
        """Picoseconds of one layer's attention."""
        seconds = self._alone(AttentionShape(*counts, *self._sizes))
        return round(min(seconds * PICOSECONDS, LONGEST_STEP))

    def _step(
        self, decodes: int, keys: int, tokens: int, sequences: int, graph: int, attention: int, experts: int,
        prompts: int, rested: bool,
    ) -> _Step:  # fmt: skip
        padded = graph or tokens
        device = self._by_tokens[padded] + self._by_sequences[sequences] + self._kernels * attention + experts
        host = self.host.beyond_one(device, sequences, graph > 0, prompts, rested)
        return device + host, device, attention, experts, decodes, keys, padded, padded - tokens, sequences, graph

    def _block(self, batch: Batch, steps: list[_Step]) -> Block:
        columns = np.array(steps, dtype=np.int64).T
        durations, device, _, experts = columns[:4]
        _, _, attention, _, decodes, keys, tokens, padding, sequences, _ = columns[:, :, None]
        check_length(durations, tokens)
        none, chunked = np.zeros((len(steps), 1), dtype=np.int64), _NO_TIME
        if batch.chunks:
            chunked = none.copy()
            chunked[0] = sum(chunk.tokens for chunk in batch.chunks)
        fullest, prompts = columns[6], bool(batch.chunks)
        sizes = Sizes(
            decodes, none, chunked, tokens, sequences, sequences, keys.astype(np.float64), padding, columns[9], fullest,
            prompts,
        )  # fmt: skip
        routed = None
        if self._tabulated is not None:
            exchange = self._exchange.take(fullest, axis=2)
            uses = [self._use(batch, int(fullest[0]))] if prompts else []
            if len(steps) > len(uses):
                uses.append(self._tabulated.use_of_decodes(fullest[len(uses) :], batch.first_step + len(uses)))
            routed = RoutedPrice(experts[None], exchange[0], exchange[1], uses)
        critical = none[:, 0]
        return Block(
            batch, sizes, device[None], durations - device, {}, [{"full": attention}], [critical], routed, none.T,
            durations,
        )  # fmt: skip


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
