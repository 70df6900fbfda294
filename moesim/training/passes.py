"""Forward and backward passes of a micro-batch through a part of the model, priced piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np

from moesim.model.attention import Reach
from moesim.model.operators import Operator
from moesim.spec.base import DTYPE_BYTES
from moesim.step.attention import AttentionSums, chunk_work
from moesim.step.communication import NORM_SUMS_BYTES
from moesim.step.graph import IntArray
from moesim.step.program import Row
from moesim.step.sharding import AttentionShare, base_dtype, operator_calls
from moesim.training.backward import backward_calls
from moesim.training.experts import ExpertPasses
from moesim.training.pieces import Kernel, Move, Piece, by_lane, stretch
from moesim.training.plan import TrainingPlan, gradient_ratio, priced

Step = Piece | Move


class Segment(NamedTuple):
    """Consecutive kernels of one layer, or one exchange, of a part of the model."""

    layer: int
    action: Literal["kernels", "reduce", "reduce_sums", "gather", "gather_logits", "dispatch", "experts", "combine"]
    rows: tuple[Row, ...]


def segments(rows: tuple[Row, ...], exchanges: bool) -> list[Segment]:
    """A part's rows, in order. exchanges: whether tokens travel to their experts; what a program says of that and of
    handing over to the next part is decided elsewhere."""
    found: list[Segment] = []
    kept = [row for row in rows if row.action not in ("dispatch", "combine", "barrier", "send")]
    for (layer, dense), group in groupby(kept, lambda row: (row.layer, row.action in ("operator", "attention"))):
        if dense:
            found.append(Segment(layer, "kernels", tuple(group)))
            continue
        for row in group:
            around = row.action == "experts" and exchanges
            found += [Segment(layer, "dispatch", ())] * around
            found.append(Segment(layer, row.action, (row,)))  # type: ignore[arg-type]
            found += [Segment(layer, "combine", ())] * around
    return found


class Passes:
    """Prices the passes of one plan; what does not depend on the micro-batch is priced once."""

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan, self.dtype = plan, plan.spec.storage
        self.experts = ExpertPasses(plan, self.dtype) if plan.routing is not None else None
        alone = plan.layout.dp * plan.layout.tp == 1 and not plan.layout.apart
        self._segments = [segments(program.rows, not alone) for program in plan.programs]
        self._attention = AttentionShare(plan.spec.model, plan.layout.tp, self.dtype)
        self._dense_lanes = [
            np.array([*plan.layout.dense[:, stage].ravel()], dtype=np.int64) for stage in range(plan.layout.stages)
        ]
        self._kernel = lru_cache(maxsize=None)(self._kernel_of)
        self._collective = lru_cache(maxsize=None)(self._collective_of)
        self._stretch = lru_cache(maxsize=None)(self._stretch_of)
        self._token_bytes = plan.spec.model.hidden * DTYPE_BYTES[base_dtype(self.dtype)]

    def forward(self, part: int, micro_batch: int) -> list[Step]:
        """What a forward pass runs, in order."""
        return [step for each in self._segments[part] for step in self._forward(part, each, micro_batch)]

    def backward(self, part: int, micro_batch: int) -> list[Step]:
        """What a backward pass runs: the forward pass reversed; of layers that are not kept, their forward pass
        first."""
        found: list[Step] = []
        for layer, group in groupby(reversed(self._segments[part]), lambda segment: segment.layer):
            mine = list(group)
            if layer >= 0 and self.plan.training.recompute == "full":
                for each in reversed(mine):
                    found += self._forward(part, each, micro_batch)
            for each in mine:
                found += self._backward(part, each, micro_batch)
        return found

    def _forward(self, part: int, segment: Segment, micro_batch: int) -> Iterator[Step]:
        if segment.action == "kernels":
            yield self._stretch(part, segment, False)
        elif segment.action == "experts":
            assert self.experts is not None
            yield from self.experts.compute(part, segment.layer, micro_batch, backward=False)
        else:
            yield from self._move(part, segment, micro_batch, segment.action)

    def _backward(self, part: int, segment: Segment, micro_batch: int) -> Iterator[Step]:
        """Gradients go to the experts as results came from them, and the other way round."""
        if segment.action == "kernels":
            yield self._stretch(part, segment, True)
        elif segment.action == "experts":
            assert self.experts is not None
            yield from self.experts.compute(part, segment.layer, micro_batch, backward=True)
        else:
            other = {"dispatch": "combine", "combine": "dispatch"}.get(segment.action, segment.action)
            yield from self._move(part, segment, micro_batch, other)

    def _move(self, part: int, segment: Segment, micro_batch: int, action: str) -> Iterator[Move]:
        if action in ("dispatch", "combine"):
            assert self.experts is not None
            yield self.experts.exchange(part, segment.layer, micro_batch, action)
        else:
            yield self._collective(part % self.plan.layout.stages, action, segment.layer)

    def _collective_of(self, stage: int, action: str, layer: int) -> Move:
        """Within each tensor-parallel group."""
        plan, tp = self.plan, self.plan.layout.tp
        groups = [tuple(int(d) for d in group) for group in plan.layout.dense[:, stage].reshape(-1, tp)]
        if action in ("reduce", "reduce_sums"):
            size = self._token_bytes if action == "reduce" else NORM_SUMS_BYTES
            transfers = [plan.fabric.all_reduce(size * plan.tokens, group) for group in groups]
        else:
            width = self._token_bytes / plan.spec.model.hidden
            features = plan.spec.model.vocabulary if action == "gather_logits" else plan.spec.model.hidden
            chunk = np.full(tp, features / tp * width * plan.tokens)
            transfers = [plan.fabric.all_gather(chunk, group) for group in groups]
        return Move(action, layer, tuple(groups), tuple(each.at(()) for each in transfers))

    def _stretch_of(self, part: int, segment: Segment, backward: bool) -> Piece:
        lanes = self._dense_lanes[part % self.plan.layout.stages]
        rows = reversed(segment.rows) if backward else segment.rows
        named: list[tuple[str, str, Kernel]] = []
        for row in rows:
            assert row.operator is not None
            again = row.action == "attention" and self.plan.training.recompute == "attention"
            if backward and again:
                named.append((row.name, row.operator.kind, self._on(lanes, row, 0)))
            ways = (1, 2) if backward else (0,)
            # Cross-entropy reads the logits as the choice of a token does.
            title = "loss" if row.operator.kind == "sampling" else row.name
            named += [(title, row.operator.kind, self._on(lanes, row, way)) for way in ways]
        attention = any(row.action == "attention" for row in segment.rows)
        name = "attention" if attention else segment.rows[0].name if segment.layer < 0 else "feed_forward"
        return stretch(f"{name}_backward" if backward else name, segment.layer, lanes, named)

    def _on(self, lanes: IntArray, row: Row, way: int) -> Kernel:
        """The kernel on each of the lanes, whose devices may be of several kinds. way: 0 forwards, 1 and 2 the two
        calls backwards."""
        names = [self.plan.machine.devices[lane].spec.name for lane in lanes]
        found = {
            name: self._kernel(row.operator, row.attention, way, int(lanes[names.index(name)]))
            for name in dict.fromkeys(names)
        }
        return found[names[0]] if len(found) == 1 else by_lane([found[name] for name in names])

    def _kernel_of(self, operator: Operator, reach: Reach | None, way: int, lane: int) -> Kernel:
        plan, model = self.plan, self.plan.spec.model
        if reach is not None:
            work = chunk_work(model, reach, plan.training.sequence, 0) * plan.sequences
            calls = self._attention.calls(AttentionSums(*work), reach)
        else:
            calls = operator_calls(operator, plan.tokens, model, plan.layout.tp, self.dtype)
        if way:
            calls = backward_calls(calls, gradient_ratio(plan, operator))[way - 1]
        return priced(plan, calls, plan.near[lane])
