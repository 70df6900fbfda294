"""Micro-batches side by side: while one computes, another's tokens travel (two-batch overlap)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from moesim.fabric.transfer import Collective
from moesim.step.batch import Batch, Chunk
from moesim.step.compile import compile_step
from moesim.step.graph import ABSENT, RESOURCES, FloatArray, IntArray, StepGraph
from moesim.step.passes.pipeline import Pipeline
from moesim.step.pricing import Block, StepPricer

#: Draws of a step's micro-batches are as far apart as those of no two steps of a run.
_APART = 1 << 40


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch's first step as micro-batches: the sequences of every rank in turns, as even as possible, its chunks as
    well. A rank without a sequence in one of them carries a dummy there."""
    first = batch.first() if batch.joining else batch
    order = np.argsort(first.rank, kind="stable")
    before = np.searchsorted(first.rank[order], first.rank[order])
    turn = np.empty(len(order), dtype=np.int64)
    turn[order] = (np.arange(len(order)) - before) % parts
    per_rank = dict.fromkeys(range(batch.ranks), 0)
    chunks: list[list[Chunk]] = [[] for _ in range(parts)]
    for chunk in first.chunks:
        chunks[per_rank[chunk.rank] % parts].append(chunk)
        per_rank[chunk.rank] += 1
    found = []
    for part in range(parts):
        mine = turn == part
        columns: dict[str, Any] = {name: getattr(first, name)[mine] for name in ("rank", "request", "context", "left")}
        columns["gained"] = None if first.gained is None else first.gained[mine]
        step = batch.first_step + part * _APART
        own = replace(first, **columns, chunks=tuple(chunks[part]), steps=1, first_step=step)
        found.append(own)
    return found


def in_parts(pricer: StepPricer, batch: Batch, rested: bool = False) -> Block:
    """The price of a batch, and of its micro-batches where the engine divides it: where each of them has a sequence on
    some rank."""
    block = StepPricer.price(pricer, batch, rested)
    parts = pricer.context.engine.micro_batches
    if parts == 1 or int(block.sizes.sequences[0].max()) < parts:
        return block
    priced = [StepPricer.price(pricer, each) for each in split(batch, parts)]
    hosts = (block.host[:1], *(np.zeros_like(block.host[:1]),) * (parts - 1))  # one launch for all
    return block._replace(parts=tuple(each._replace(host=host) for each, host in zip(priced, hosts, strict=True)))


def step_graph(pricer: StepPricer, block: Block, stage: int | None = None) -> StepGraph:
    """The graph of a block's first step, its micro-batches side by side; of one stage, or all."""
    graphs, overlap = [], pricer.context.engine.overlap
    for each in block.parts or (block,):
        drawn = pricer.routed.drawn(each.batch, 0) if pricer.routed is not None else None
        graph = compile_step(pricer, each, drawn, stage)
        graphs.append(graph if overlap is None else Pipeline(overlap).apply(graph))
    return graphs[0] if len(graphs) == 1 else interleave(graphs)


def interleave(graphs: Sequence[StepGraph]) -> StepGraph:
    """One graph of several on the same lanes that wait for each other only where they need the same resource.

    Rows take turns on a resource in the order of a list schedule: always the one next that can start first. Of several,
    the one of the graph that has the resource already, so that a graph leaves with all that it has to do there and the
    next takes its place (in lockstep they would all wait for the network together); else of the graph that is furthest
    behind. The durations of its slowest lane stand for a row.
    """
    order = _list_schedule(graphs)
    place = [np.zeros(graph.rows, dtype=np.int64) for graph in graphs]
    for at, (which, row) in enumerate(order):
        place[which][row] = at
    partitions, partition = _joined_partitions(graphs)

    def rows(name: str) -> list[object]:
        return [getattr(graphs[which], name)[row] for which, row in order]

    collectives: dict[int, Collective] = {}
    for which, graph in enumerate(graphs):
        collectives |= {int(place[which][row]): each for row, each in graph.collectives.items()}
    moves = any(graph.demand is not None for graph in graphs)
    return StepGraph(
        name=tuple(map(str, rows("name"))),
        kind=tuple(map(str, rows("kind"))),
        layer=np.array(rows("layer")),
        resource=np.array(rows("resource")),
        duration=np.array(rows("duration")),
        partition=np.array([partition[which][row] for which, row in order]),
        partitions=partitions,
        joint=np.array(rows("joint")),
        predecessors=tuple(
            tuple(int(place[which][p]) for p in graphs[which].predecessors[row]) for which, row in order
        ),
        collectives=dict(sorted(collectives.items())),
        demand=np.array([_demand(graphs[which])[row] for which, row in order]) if moves else None,
        capacity=next((graph.capacity for graph in graphs if graph.capacity is not None), None),
    )


def _demand(graph: StepGraph) -> FloatArray:
    return graph.demand if graph.demand is not None else np.zeros(graph.duration.shape)


def _joined_partitions(graphs: Sequence[StepGraph]) -> tuple[IntArray, list[IntArray]]:
    """Distinct partitions of all graphs, each lane alone first, and the index of each row's."""
    known: dict[bytes, int] = {}
    kept: list[IntArray] = []
    index = []
    for graph in graphs:
        for labels in graph.partitions:
            if labels.tobytes() not in known:
                known[labels.tobytes()] = len(kept)
                kept.append(labels)
        of_graph = np.array([known[labels.tobytes()] for labels in graph.partitions])
        index.append(of_graph[graph.partition])
    return np.array(kept), index


def _list_schedule(graphs: Sequence[StepGraph]) -> list[tuple[int, int]]:
    """(graph, row) in the order in which they are put on their resources."""
    longest = [np.where(graph.duration == ABSENT, 0, graph.duration).max(axis=1).tolist() for graph in graphs]
    resource = [graph.resource.tolist() for graph in graphs]
    free, user = [0] * len(RESOURCES), [-1] * len(RESOURCES)
    finish: list[list[int]] = [[] for _ in graphs]
    order: list[tuple[int, int]] = []

    def start(which: int) -> int:
        row = len(finish[which])
        free_from: int = free[resource[which][row]]
        return max([free_from, *(finish[which][p] for p in graphs[which].predecessors[row])])

    def preference(which: int) -> tuple[int, bool, int, int]:
        done = len(finish[which])
        return start(which), user[resource[which][done]] != which, done, which

    waiting = list(range(len(graphs)))
    while waiting:
        which = min(waiting, key=preference)
        row, begin = len(finish[which]), start(which)
        end = begin + longest[which][row]
        finish[which].append(end)
        free[resource[which][row]], user[resource[which][row]] = end, which
        order.append((which, row))
        if len(finish[which]) == graphs[which].rows:
            waiting.remove(which)
    return order
