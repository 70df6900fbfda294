"""Experts in pieces: while one piece is computed, the next one's tokens come and the last one's go.

With n pieces of a dispatch d, experts e and a combine c that share no resource but the network, a layer takes

    max(e, d + c) + fill,    fill about (d + c) / n  where e is the longer,

so that pieces hide up to 1 - 1/n of the communication; what each piece costs by itself (a launch, a call) sets how many
are worth it. Few pieces with launches of their own are chunked pipelines (Tutel, arXiv 2206.03382); many, handed over
inside one kernel that lends some of its units to communication, are tiles (COMET, arXiv 2502.19811; FlashMoE,
arXiv 2506.04667).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from moesim.fabric.transfer import Collective, GroupPorts, Transfer
from moesim.spec.overlap import OverlapSpec
from moesim.step.graph import ABSENT, PICOSECONDS, FloatArray, IntArray, StepGraph

#: Columns of phases that grow with the bytes.
_MOVED = ("sent", "received", "moved")


@dataclass(frozen=True)
class Pipeline:
    """The pass that an engine's `overlap` asks for."""

    spec: OverlapSpec

    def apply(self, graph: StepGraph) -> StepGraph:
        builder = _Builder(graph, self.spec)
        for row in range(graph.rows):
            builder.add(row)
        return builder.graph()


class _Builder:
    """Copies a graph row by row, but for the layers with experts."""

    def __init__(self, graph: StepGraph, spec: OverlapSpec) -> None:
        self.old, self.spec = graph, spec
        self.source: list[int] = []
        self.duration: list[IntArray] = []
        self.demand: list[FloatArray] = []
        self.predecessors: list[tuple[int, ...]] = []
        self.collectives: dict[int, Collective] = {}
        self.place: dict[int, tuple[int, ...]] = {}  # new rows of an old one
        self.layers: dict[int, dict[str, list[int]]] = {}
        for row, (name, layer) in enumerate(zip(graph.name, graph.layer.tolist(), strict=True)):
            if name in ("dispatch", "experts", "combine"):
                self.layers.setdefault(layer, {}).setdefault(name, []).append(row)

    def add(self, row: int) -> None:
        layer, name = int(self.old.layer[row]), self.old.name[row]
        stages = self.layers.get(layer, {})
        if len(stages) < 3 or name not in stages:
            demand = None if self.old.demand is None else self.old.demand[row]
            self.place[row] = (self._append(row, self.old.duration[row], demand, self._inputs(row)),)
            if row in self.old.collectives:
                self.collectives[self.place[row][0]] = self.old.collectives[row]
        elif name == "combine":
            self._pipeline(stages["dispatch"][0], stages["experts"], row)

    def _inputs(self, row: int) -> tuple[int, ...]:
        return tuple(new for old in self.old.predecessors[row] for new in self.place[old])

    def _append(self, row: int, duration: IntArray, demand: FloatArray | None, after: tuple[int, ...]) -> int:
        self.source.append(row)
        self.duration.append(duration)
        self.demand.append(np.zeros(self.old.lanes) if demand is None else demand)
        self.predecessors.append(after)
        return len(self.source) - 1

    def _pipeline(self, dispatch: int, experts: list[int], combine: int) -> None:
        """Dispatch of one piece, experts of the one before, combine of the one before that, in every turn."""
        pieces = self.spec.pieces
        sent: list[int] = []
        computed: list[tuple[int, ...]] = []
        back: list[int] = []
        beside = [p for p in self.old.predecessors[combine] if p not in experts]
        for turn in range(pieces + 2):
            if turn < pieces:
                sent.append(self._piece(dispatch, self._inputs(dispatch), turn))
            if 1 <= turn <= pieces:
                computed.append(self._computed_piece(experts, sent[turn - 1]))
            if turn >= 2:
                others = tuple(new for old in beside for new in self.place[old])
                back.append(self._piece(combine, computed[turn - 2] + others, turn - 2))
        self.place[dispatch], self.place[combine] = tuple(sent), tuple(back)
        for at, row in enumerate(experts):
            self.place[row] = tuple(rows[at] for rows in computed)

    def _computed_piece(self, experts: list[int], sent: int) -> tuple[int, ...]:
        """On every processor that has a part; one after the other where the graph has them so."""
        rows: dict[int, int] = {}
        for row in experts:
            before = tuple(rows[p] for p in self.old.predecessors[row] if p in rows)
            rows[row] = self._computed(row, (sent, *before))
        return tuple(rows.values())

    def _computed(self, row: int, after: tuple[int, ...]) -> int:
        took, pieces = self.old.duration[row], self.spec.pieces
        slower = 1.0 / (1.0 - self.spec.lent)
        launch = self.spec.launch * PICOSECONDS
        duration = np.where(took > 0, np.rint(took / pieces * slower + launch).astype(np.int64), took)
        demand = None if self.old.demand is None else self.old.demand[row] / pieces
        return self._append(row, duration, demand, after)

    def _piece(self, row: int, after: tuple[int, ...], number: int) -> int:
        """A share of the bytes of a collective."""
        whole = self.old.collectives[row]
        transfers = tuple(self._share(each, number) for each in whole.transfers)
        duration = np.full(self.old.lanes, ABSENT, dtype=np.int64)
        for group, transfer in zip(whole.members, transfers, strict=True):
            duration[list(group)] = int(transfer.picoseconds)
        index = self._append(row, duration, None, after)
        self.collectives[index] = replace(whole, transfers=transfers)
        return index

    def _share(self, transfer: Transfer, number: int) -> Transfer:
        """What is sent without a library's call streams: only the first piece waits for the way to the others."""
        phases: list[Any] = []
        for phase in transfer.phases:
            names = [field.name for field in fields(phase) if field.name in _MOVED]  # type: ignore[arg-type]
            scaled: dict[str, Any] = {name: getattr(phase, name) / self.spec.pieces for name in names}
            phases.append(replace(phase, **scaled))  # type: ignore[type-var]
        ports = transfer.ports
        if self.spec.call is not None and isinstance(ports, GroupPorts):
            ports = replace(ports, overhead=self.spec.call)
            if number:
                ports = replace(ports, up_latency=0.0, out_latency=0.0)
        return Transfer(transfer.operation, transfer.algorithm, ports, tuple(phases), transfer.shape)

    def graph(self) -> StepGraph:
        old, source = self.old, self.source
        return replace(
            old,
            name=tuple(old.name[row] for row in source),
            kind=tuple(old.kind[row] for row in source),
            layer=old.layer[source],
            resource=old.resource[source],
            duration=np.array(self.duration),
            partition=old.partition[source],
            joint=old.joint[source],
            predecessors=tuple(self.predecessors),
            collectives=self.collectives,
            demand=None if old.demand is None else np.array(self.demand),
        )
