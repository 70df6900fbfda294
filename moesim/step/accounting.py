"""Where the time, work and energy of a replica's executed steps went.

The hot path only counts: how many steps saw each size (tokens, sequences) on each rank. Sizes become seconds, bytes and
joules once, at the end, from the operators' tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.step.graph import FloatArray, IntArray
from moesim.step.layout import ReplicaLayout
from moesim.step.routed import RoutedPricer
from moesim.step.stage import StageCosts
from moesim.step.tables import StepContext

if TYPE_CHECKING:
    from moesim.step.pricing import Block

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

    def record(self, block: Block, executed: int, busy: int) -> None:
        """Count the first `executed` steps of a block, which kept the replica `busy` for so many picoseconds more."""
        steps = slice(executed)
        tokens, sequences = block.sizes.tokens[steps], block.sizes.sequences[steps]
        self.steps += executed
        self.host += int(block.host[steps].sum())
        self.busy += busy
        self.dummies += int(block.sizes.idle[steps].sum())
        np.add.at(self.largest_tokens, tokens.max(axis=1), 1)
        step = np.arange(executed)
        for p, account in enumerate(self.stages):
            slowest = block.critical[p][steps]
            np.add.at(account.tokens, (self._rows, tokens), 1)
            np.add.at(account.sequences, (self._rows, sequences), 1)
            np.add.at(account.critical_tokens, (slowest, tokens[step, slowest]), 1)
            np.add.at(account.critical_sequences, (slowest, sequences[step, slowest]), 1)
            account.send += int(block.sends[p, steps].sum())
            self._record_attention(account, block, p, step, slowest)
        if self.routed is not None:
            self._record_routed(self.routed, block, executed)

    def _record_attention(self, account: StageAccount, block: Block, p: int, step: IntArray, slowest: IntArray) -> None:
        for kind, sums in block.sums.items():
            durations = block.attention[p][kind][step]
            key = (kind, bool(block.batch.chunks))
            totals = account.attention.setdefault(key, np.zeros((4, self.layout.dp)))
            for row, values in enumerate((durations, sums.flops, sums.kv_elements, sums.query_elements)):
                totals[row] += values[step].sum(axis=0)
            on_path = int(durations[step, slowest].sum())
            account.critical_attention[key] = account.critical_attention.get(key, 0) + on_path
            account.attention_calls[key] = account.attention_calls.get(key, 0) + len(step)

    def _record_routed(self, routed: RoutedPricer, block: Block, executed: int) -> None:
        for begin, end, price in block.routed:
            steps = min(end, executed) - begin
            if steps <= 0:
                break
            routed.record(price, steps)
            for p, account in enumerate(self.stages):
                account.dispatch += int(price.dispatch[p]) * steps
                account.combine += int(price.combine[p]) * steps
                account.experts += int(price.experts[p]) * steps
