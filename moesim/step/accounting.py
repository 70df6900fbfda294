"""Where the time, work and energy of a replica's executed steps went.

The hot path only counts: how many steps saw each size (tokens, sequences) on each rank. Sizes become seconds, bytes and
joules once, at the end, from the operators' tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.step.graph import FloatArray
from moesim.step.layout import ReplicaLayout
from moesim.step.routed import RoutedPricer
from moesim.step.stage import StageCosts
from moesim.step.tables import StepContext

if TYPE_CHECKING:
    from moesim.step.pricing import Block, Segment

class StageAccount:
    """Counters of one stage. `attention[kind, mixed]` sums seconds, FLOPs, KV and query elements of one layer's kernel
    over the steps with (mixed) and without prefill tokens, which differ in what bounds them."""

    def __init__(self, costs: StageCosts, context: StepContext, layout: ReplicaLayout) -> None:
        ranks, sizes = layout.dp, context.token_limit + 1
        self.costs = costs
        self.tokens = np.zeros((ranks, sizes))  # steps in which the rank had so many tokens
        self.sequences = np.zeros((ranks, sizes))
        self.critical_tokens = np.zeros((ranks, sizes))  # the same where the rank was the slowest
        self.critical_sequences = np.zeros((ranks, sizes))
        self.attention: dict[tuple[str, bool], FloatArray] = {}
        self.critical_attention: dict[tuple[str, bool], int] = {}
        self.attention_calls: dict[tuple[str, bool], int] = {}  # steps
        self.dispatch = self.combine = self.send = self.experts = 0  # picoseconds on the critical path


class Accounts:
    """Counters of a replica."""

    def __init__(
        self, stages: list[StageCosts], context: StepContext, layout: ReplicaLayout, routed: RoutedPricer | None
    ) -> None:
        self.context, self.layout, self.routed = context, layout, routed
        self.stages = [StageAccount(stage, context, layout) for stage in stages]
        self.largest_tokens = np.zeros(context.token_limit + 1)  # steps by the largest rank's tokens
        self.host = self.busy = self.steps = self.dummies = 0
        self._rows = np.arange(layout.dp)

    def record(self, block: Block, executed: int) -> None:
        """Count the first `executed` steps of a block."""
        self.steps += executed
        self.host += int(block.host[:executed].sum())
        self.busy += int(block.durations[:executed].sum())
        mixed = bool(block.batch.chunks)
        for segment in block.segments:
            steps = min(segment.end, executed) - segment.begin
            if steps > 0:
                self._record_segment(segment, steps, mixed)

    def _record_segment(self, segment: Segment, steps: int, mixed: bool) -> None:
        self.largest_tokens[segment.tokens.max()] += steps
        self.dummies += segment.dummies * steps
        for p, account in enumerate(self.stages):
            critical = np.bincount(segment.critical[p, :steps], minlength=self.layout.dp)
            account.tokens[self._rows, segment.tokens] += steps
            account.sequences[self._rows, segment.sequences] += steps
            account.critical_tokens[self._rows, segment.tokens] += critical
            account.critical_sequences[self._rows, segment.sequences] += critical
            account.send += int(segment.send[p]) * steps
            for kind, sums in segment.attention.items():
                durations = segment.attention_duration[kind][p, :steps]
                totals = account.attention.setdefault((kind, mixed), np.zeros((4, self.layout.dp)))
                totals[0] += durations.sum(axis=0)
                totals[1] += sums.flops[:steps].sum(axis=0)
                totals[2] += sums.kv_elements[:steps].sum(axis=0)
                totals[3] += sums.query_elements[:steps].sum(axis=0)
                slowest = durations[np.arange(steps), segment.critical[p, :steps]].sum()
                key = (kind, mixed)
                account.critical_attention[key] = account.critical_attention.get(key, 0) + int(slowest)
                account.attention_calls[key] = account.attention_calls.get(key, 0) + steps
        if segment.routed is not None and self.routed is not None:
            self.routed.record(segment.routed, steps)
            for p, account in enumerate(self.stages):
                account.dispatch += int(segment.routed.dispatch[p]) * steps
                account.combine += int(segment.routed.combine[p]) * steps
                account.experts += int(segment.routed.experts[p]) * steps
