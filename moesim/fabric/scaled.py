"""Measured libraries whose calls take so many times as long as their terms say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import ArrayLike

from moesim.fabric.expert_protocol import ExpertLoad
from moesim.fabric.library import CalibratedFabric, ExpertKernels
from moesim.fabric.protocol import TWO_BYTES, CollectiveProtocol
from moesim.fabric.switch import Fabric
from moesim.fabric.transfer import FloatArray, Operation


@dataclass(frozen=True)
class ScaledProtocol(CollectiveProtocol):
    """scales: by operation, the factor of its calls' durations; the others take just as long."""

    scales: Mapping[str, float] = field(default_factory=dict)

    def seconds(
        self, operation: Operation, size: ArrayLike, ranks: ArrayLike, element: int = TWO_BYTES
    ) -> FloatArray:  # fmt: skip
        known = "all_to_all" if operation == "send" else operation  # what a library sends is priced as its all-to-all
        return super().seconds(operation, size, ranks, element) * self.scales.get(known, 1.0)


def scaled_fabric(fabric: Fabric, scales: Mapping[str, float]) -> Fabric:
    """`fabric`, with the calls of its library scaled by operation; itself where no library paces it."""
    if not scales or not isinstance(fabric, CalibratedFabric):
        return fabric
    same = {each.name: getattr(fabric.protocol, each.name) for each in fields(fabric.protocol)}
    return CalibratedFabric(fabric.fabric, ScaledProtocol(**same, scales=scales), fabric.element)


@dataclass(frozen=True)
class ScaledExperts(ExpertKernels):
    """scales: of `dispatch` and `combine`."""

    scales: tuple[float, float] = (1.0, 1.0)

    def both_ways(self, load: ExpertLoad, sizes: tuple[float, float], *, experts: int, nodes: int) -> FloatArray:
        seconds = super().both_ways(load, sizes, experts=experts, nodes=nodes)
        scaled: FloatArray = seconds * np.reshape(self.scales, (2, *[1] * (seconds.ndim - 1)))
        return scaled


def scaled_experts(kernels: ExpertKernels | None, scales: Mapping[str, float]) -> ExpertKernels | None:
    """`kernels`, with their calls scaled by the names `dispatch` and `combine`; None where there are none."""
    if not scales or kernels is None:
        return kernels
    both = scales.get("dispatch", 1.0), scales.get("combine", 1.0)
    return ScaledExperts(kernels.protocol, kernels.mode, both)
