"""Where the time, work and energy of a replica's executed steps went.

The hot path only counts: how many steps saw each size (tokens, sequences) on each rank. Sizes become seconds, bytes and
joules once, at the end, from the operators' tables. Steps are added up one after the other in the order in which they
were executed, so that the sums do not show how they came in blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.model.attention import Reach
from moesim.step.graph import FloatArray, IntArray
from moesim.step.layout import ReplicaLayout
from moesim.step.routed import RoutedPricer
from moesim.step.stage import StageCosts
from moesim.step.tables import StepContext

if TYPE_CHECKING:
    from moesim.step.pricing import Block, ExpertUse

#: Blocks that are counted together.
_TOGETHER = 64

Executed = list[tuple["Block", int]]


class StageAccount:
    """Counters of one stage. `attention[kind, mixed]` sums picoseconds and the columns of AttentionSums of one layer's
    kernel over the steps with (mixed) and without prefill tokens, which differ in what bounds them."""

    def __init__(self, costs: StageCosts, context: StepContext, layout: ReplicaLayout) -> None:
        ranks, sizes = layout.dp, context.token_limit + 1
        self.costs = costs
        self.tokens = np.zeros((ranks, sizes))  # steps in which the rank had so many tokens
        self.samples = np.zeros((ranks, sizes))
        self.critical_tokens = np.zeros((ranks, sizes))  # the same where the rank was the slowest
        self.critical_samples = np.zeros((ranks, sizes))
        self.attention: dict[tuple[Reach, bool], FloatArray] = {}
        self.critical_attention: dict[tuple[Reach, bool], int] = {}
        self.attention_calls: dict[tuple[Reach, bool], int] = {}  # steps
        #: Picoseconds on the critical path.
        self.dispatch = self.combine = self.send = self.experts = self.weights = 0

    def count(self, stage: int, blocks: Executed, tokens: IntArray, samples: IntArray) -> None:
        """Args: tokens, samples: [steps, ranks] of the blocks."""
        slowest = _joined(block.critical[stage][:steps] for block, steps in blocks)
        step, rank = np.arange(len(slowest)), np.arange(tokens.shape[1])
        np.add.at(self.tokens, (rank, tokens), 1)
        np.add.at(self.samples, (rank, samples), 1)
        np.add.at(self.critical_tokens, (slowest, tokens[step, slowest]), 1)
        np.add.at(self.critical_samples, (slowest, samples[step, slowest]), 1)
        self.send += int(_joined(block.sends[stage, :steps] for block, steps in blocks).sum())
        routed = [(block.routed, steps) for block, steps in blocks if block.routed is not None]
        if routed:
            self.dispatch += int(_joined(price.dispatch[stage, :steps] for price, steps in routed).sum())
            self.combine += int(_joined(price.combine[stage, :steps] for price, steps in routed).sum())
            self.experts += int(_joined(price.experts[stage, :steps] for price, steps in routed).sum())
            self.weights += sum(int(price.weights[stage, :n].sum()) for price, n in routed if price.weights is not None)
        self._count_attention(stage, [(block, slice(0, 1)) for block, _ in blocks if block.batch.chunks], True)
        prompts = [int(bool(block.batch.chunks)) for block, _ in blocks]  # steps with prompt tokens: the first, or none
        self._count_attention(
            stage,
            [(block, slice(n, steps)) for n, (block, steps) in zip(prompts, blocks, strict=True) if steps > n],
            False,
        )

    def _count_attention(self, stage: int, parts: list[tuple[Block, slice]], mixed: bool) -> None:
        for kind in parts[0][0].sums if parts else ():
            slowest = _joined(block.critical[stage][at] for block, at in parts)
            durations = _joined(block.attention[stage][kind][at] for block, at in parts)
            works = np.concatenate([block.sums[kind][:, at] for block, at in parts], axis=1)
            self.add_attention((kind, mixed), durations, works, slowest)

    def add_attention(self, key: tuple[Reach, bool], durations: IntArray, works: FloatArray, slowest: IntArray) -> None:
        """Args: durations: [steps, ranks]. works: [9, steps, ranks]. slowest: [steps] ranks that others wait for."""
        totals = self.attention.setdefault(key, np.zeros((1 + len(works), durations.shape[1])))
        columns = np.concatenate([durations[None], works])
        totals[:] = np.cumsum(np.concatenate([totals[:, None], columns], axis=1), axis=1)[:, -1]
        on_path = int(durations[np.arange(len(slowest)), slowest].sum())
        self.critical_attention[key] = self.critical_attention.get(key, 0) + on_path
        self.attention_calls[key] = self.attention_calls.get(key, 0) + len(durations)


class Accounts:
    """Counters of a replica; complete after `settle`."""

    def __init__(
        self, stages: list[StageCosts], context: StepContext, layout: ReplicaLayout, routed: RoutedPricer | None
    ) -> None:
        self.context, self.layout, self.routed = context, layout, routed
        self.stages = [StageAccount(stage, context, layout) for stage in stages]
        self.largest_tokens = np.zeros(context.token_limit + 1)  # steps by the largest rank's tokens
        self.gathered_tokens = np.zeros(context.token_limit + 1)  # steps by Sizes.gathered
        self.host = self.busy = self.steps = self.dummies = self.padding = 0
        self.hidden = self.sharing = 0  # picoseconds, see Block
        self.offload: ExpertUse | None = None
        self._waiting: Executed = []

    def record(self, block: Block, executed: int, busy: int) -> None:
        """Count the first `executed` steps of a block, which kept the replica `busy` for so many picoseconds more."""
        self.steps += executed
        self.busy += busy
        self.hidden += block.hidden
        self.sharing += block.sharing
        if block.offload is not None:
            self.offload = block.offload if self.offload is None else self.offload.plus(block.offload)
        self._waiting += [(part, executed) for part in block.parts or (block,)]
        if len(self._waiting) >= _TOGETHER:
            self.settle()

    def settle(self) -> None:
        """Count what was recorded and not counted yet."""
        blocks, self._waiting = self._waiting, []
        if not blocks:
            return
        tokens = _joined(block.sizes.tokens[:steps] for block, steps in blocks)
        samples = _joined(block.sizes.samples[:steps] for block, steps in blocks)
        self.host += int(_joined(block.host[:steps] for block, steps in blocks).sum())
        self.dummies += int(_joined(block.sizes.idle[:steps] for block, steps in blocks).sum())
        self.padding += int(_joined(block.sizes.padding[:steps] for block, steps in blocks).sum())
        np.add.at(self.largest_tokens, tokens.max(axis=1), 1)
        np.add.at(self.gathered_tokens, _joined(block.sizes.gathered[:steps] for block, steps in blocks), 1)
        for stage, account in enumerate(self.stages):
            account.count(stage, blocks, tokens, samples)
        if self.routed is not None:
            self.routed.record([(block.routed, steps) for block, steps in blocks if block.routed is not None])


def _joined(parts: Iterable[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(list(parts))
