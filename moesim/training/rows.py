"""A training step's graph under construction, row by row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from moesim.fabric.transfer import Transfer, collective
from moesim.step.graph import ABSENT, NETWORK, Collective, IntArray, StepGraph


class Rows:
    """Rows in topological order; lanes are the devices of the machine."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.name: list[str] = []
        self.kind: list[str] = []
        self.layer: list[int] = []
        self.resource: list[int] = []
        self.duration: list[IntArray] = []
        self.partition: list[int] = []
        self.joint: list[bool] = []
        self.predecessors: list[tuple[int, ...]] = []
        self.collectives: dict[int, Collective] = {}
        self._partitions: dict[tuple[int, ...], int] = {tuple(range(lanes)): 0}

    def __len__(self) -> int:
        return len(self.name)

    def label(self, groups: Iterable[Sequence[int]]) -> int:
        """Index of the partition whose groups these are; other lanes stay alone."""
        labels = list(range(self.lanes))
        for group in groups:
            for lane in group:
                labels[lane] = self.lanes + group[0]
        return self._partitions.setdefault(tuple(labels), len(self._partitions))

    def add(
        self, name: str, kind: str, layer: int, resource: int, lanes: IntArray, duration: IntArray,
        after: Sequence[int], partition: int = 0, *, joint: bool = False,
    ) -> int:  # fmt: skip
        """A row on some lanes, [n] picoseconds. It waits for the rows `after` on all lanes of its groups; `joint` ones
        start on all of them at once."""
        column = np.full(self.lanes, ABSENT, dtype=np.int64)
        column[lanes] = duration
        self.name.append(name)
        self.kind.append(kind)
        self.layer.append(layer)
        self.resource.append(resource)
        self.duration.append(column)
        self.partition.append(partition)
        self.joint.append(joint)
        self.predecessors.append(tuple(dict.fromkeys(after)))
        return len(self.name) - 1

    def collective(
        self, name: str, layer: int, groups: Sequence[Sequence[int]], transfers: Sequence[Transfer],
        after: Sequence[int], resource: int = NETWORK,
    ) -> int:  # fmt: skip
        """A row in which each group exchanges its transfer of a single size."""
        lanes = np.array([lane for group in groups for lane in group], dtype=np.int64)
        took = [int(transfer.picoseconds) for transfer in transfers]
        duration = np.repeat(took, [len(group) for group in groups])
        label = self.label(groups)
        index = self.add(name, "collective", layer, resource, lanes, duration, after, label, joint=True)
        self.collectives[index] = collective([list(group) for group in groups], list(transfers))
        return index

    def graph(self) -> StepGraph:
        return StepGraph(
            name=tuple(self.name),
            kind=tuple(self.kind),
            layer=np.array(self.layer),
            resource=np.array(self.resource),
            duration=np.array(self.duration).reshape(-1, self.lanes),
            partition=np.array(self.partition),
            partitions=np.array(list(self._partitions)),
            joint=np.array(self.joint, dtype=bool),
            predecessors=tuple(self.predecessors),
            collectives=self.collectives,
        )
