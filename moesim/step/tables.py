"""Operators tabulated once per kind of device over every size a step can have, so that the hot path is a look-up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from moesim.hardware.machine import Device, Machine
from moesim.kernels.base import Calls, Cost, KernelModel
from moesim.kernels.shapes import RowShape
from moesim.model.operators import Operator
from moesim.processors.base import ProcessorMapping
from moesim.processors.mapped import MappedKernels
from moesim.spec.experiment import DtypeSpec
from moesim.spec.model import ModelSpec
from moesim.spec.serving import EngineSpec
from moesim.step.fusion import fused_calls
from moesim.step.graph import FloatArray, IntArray
from moesim.step.graphs import CapturedGraphs
from moesim.step.sharding import operator_calls


@dataclass(frozen=True)
class StepContext:
    """What every step of a run shares. mapping: which processor of a device computes what, where it has several."""

    model: ModelSpec
    machine: Machine
    dtype: DtypeSpec
    engine: EngineSpec
    kernels: KernelModel
    mapping: ProcessorMapping | None = None

    @cached_property
    def mapped(self) -> MappedKernels:
        return MappedKernels(self.kernels, self.mapping)

    @property
    def token_limit(self) -> int:
        """Most tokens that one DP rank can have in a step; where prefill is not chunked, decodes and a whole prompt."""
        decodes = self.engine.max_sequences * (1 + self.engine.drafts)
        budget = max(self.engine.token_budget, decodes)
        return budget if self.engine.chunked_prefill else max(budget, decodes + self.model.context)

    def table(self, device: Device, tp: int) -> OperatorTable:
        """Costs on a kind of device, shared by all layouts of the same `tp`."""
        key = (device.spec.name, tp)
        if key not in self._tables:
            self._tables[key] = OperatorTable(self, device, tp)
        return self._tables[key]

    @cached_property
    def _tables(self) -> dict[tuple[str, int], OperatorTable]:
        return {}

    @cached_property
    def graphs(self) -> CapturedGraphs:
        return CapturedGraphs(self.engine, self.token_limit)


@dataclass(frozen=True)
class Tabulated:
    """One operator over all sizes 0..limit: calls, cost and duration in picoseconds; by processor also
    [processors, sizes] durations, and seconds that its bytes take at full bandwidth."""

    calls: Calls
    cost: Cost
    duration: IntArray
    durations: IntArray
    memory: FloatArray


class OperatorTable:
    """Costs on one kind of device, tabulated on demand. Memory: 10 arrays of `limit` per operator."""

    def __init__(self, context: StepContext, device: Device, tp: int) -> None:
        self._context, self._device, self._tp = context, device, tp
        self._sizes = np.arange(context.token_limit + 1)
        self._known: dict[Operator, Tabulated] = {}

    def __getitem__(self, operator: Operator) -> Tabulated:
        if operator not in self._known:
            context = self._context
            calls = operator_calls(operator, self._sizes, context.model, self._tp, context.dtype)
            if operator.kind == "sampling" and context.model.top_p < 1.0:
                calls = _sorting(calls, context.engine.sort_bytes * context.model.vocabulary)
            calls = fused_calls(operator, calls, context.engine, self._tp)
            mapped = context.mapped.whole(calls, self._device)
            self._known[operator] = Tabulated(calls, mapped.cost, mapped.duration, mapped.durations, mapped.memory)
        return self._known[operator]


def _sorting(calls: Calls, each: float) -> Calls:
    """Calls whose rows move so many bytes more."""
    assert isinstance(calls.shape, RowShape)
    shape = calls.shape._replace(read=calls.shape.read + each)
    return calls._replace(data_bytes=calls.data_bytes + calls.shape.rows * each, shape=shape)
