"""Measured libraries whose calls take so many times as long as their terms say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

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


def scaled_fabric(fabric: Fabric, scales: Mapping[str, float], launch: float = 1.0) -> Fabric:
    """`fabric`, with the calls of its library scaled by operation, and their launches and rounds by `launch`; itself
    where no library paces it."""
    if (not scales and launch == 1.0) or not isinstance(fabric, CalibratedFabric):
        return fabric
    same = {each.name: getattr(fabric.protocol, each.name) for each in fields(fabric.protocol)}
    same["terms"] = {
        key: replace(terms, launch=terms.launch * launch, round=terms.round * launch)
        for key, terms in fabric.protocol.terms.items()
    }
    return CalibratedFabric(fabric.fabric, ScaledProtocol(**same, scales=scales), fabric.element)


@dataclass(frozen=True)
class ScaledExperts(ExpertKernels):
    """scales: of `dispatch` and `combine`."""

    scales: tuple[float, float] = (1.0, 1.0)

    def both_ways(self, load: ExpertLoad, sizes: tuple[float, float], *, experts: int, nodes: int) -> FloatArray:
        seconds = super().both_ways(load, sizes, experts=experts, nodes=nodes)
        scaled: FloatArray = seconds * np.reshape(self.scales, (2, *[1] * (seconds.ndim - 1)))
        return scaled


def scaled_experts(
    kernels: ExpertKernels | None, scales: Mapping[str, float], launch: float = 1.0
) -> ExpertKernels | None:
    """`kernels`, with their calls scaled by the names `dispatch` and `combine`, and their launches and hops by
    `launch`; None where there are none."""
    if (not scales and launch == 1.0) or kernels is None:
        return kernels
    both = scales.get("dispatch", 1.0), scales.get("combine", 1.0)
    terms, scattered = (
        {key: replace(each, launch=each.launch * launch, hop=each.hop * launch) for key, each in known.items()}
        for known in (kernels.protocol.terms, kernels.protocol.scattered)
    )
    return ScaledExperts(replace(kernels.protocol, terms=terms, scattered=scattered), kernels.mode, both)
