"""A measured library whose calls take so many times as long as its terms say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from numpy.typing import ArrayLike

from moesim.fabric.library import CalibratedFabric
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
