"""Step graphs for tests: small ones by hand, layered ones, and random ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from moesim.fabric import collectives
from moesim.fabric.transfer import GroupPorts, Transfer, collective
from moesim.step.graph import ABSENT, COMPUTE, NETWORK, PICOSECONDS, SIDE_COMPUTE, Collective, StepGraph

C = 2e12  # bytes per second of a lane's memory


def graph(
    duration: Any,
    resource: Sequence[int],
    predecessors: Sequence[Sequence[int]],
    joint: Sequence[bool] | None = None,
    partition: Sequence[int] | None = None,
    partitions: Any = None,
    **more: Any,
) -> StepGraph:
    took = np.array(duration, dtype=np.int64)
    rows, lanes = took.shape
    alone = np.arange(lanes, dtype=np.int64)
    return StepGraph(
        name=tuple(f"row{i}" for i in range(rows)),
        kind=("gemm",) * rows,
        layer=np.full(rows, -1, dtype=np.int64),
        resource=np.array(resource, dtype=np.int64),
        duration=took,
        partition=np.array(partition if partition is not None else [0] * rows, dtype=np.int64),
        partitions=np.array([alone, np.zeros_like(alone)] if partitions is None else partitions, dtype=np.int64),
        joint=np.array(joint if joint is not None else [False] * rows, dtype=bool),
        predecessors=tuple(tuple(p) for p in predecessors),
        **more,
    )


def layered(layers: int, lanes: int, seed: int = 0, side: bool = True) -> StepGraph:
    """Attention, dispatch, experts beside a shared expert, combine: all lanes meet twice a layer."""
    draw = np.random.default_rng(seed)
    duration: list[Any] = []
    resource: list[int] = []
    predecessors: list[list[int]] = []
    joint: list[bool] = []
    for layer in range(layers):
        base = 5 * layer
        duration += [
            draw.integers(1, 1000, lanes),
            np.full(lanes, draw.integers(1, 500)),
            draw.integers(1, 1000, lanes),
        ]
        duration += [draw.integers(1, 800, lanes), np.full(lanes, draw.integers(1, 500))]
        resource += [COMPUTE, NETWORK, COMPUTE, SIDE_COMPUTE if side else COMPUTE, NETWORK]
        joint += [False, True, False, False, True]
        predecessors += [[base - 1] if layer else [], [base], [base + 1], [base], [base + 2, base + 3]]
    return graph(duration, resource, predecessors, joint, [int(j) for j in joint])


def with_demand(step: StepGraph, seed: int, pressure: float) -> StepGraph:
    """Half of the nodes read memory, at up to `pressure` of its bandwidth when alone."""
    draw = np.random.default_rng(seed)
    share = draw.uniform(0, pressure, step.duration.shape) * draw.integers(0, 2, step.duration.shape)
    demand = np.minimum(share, 1) * C * np.maximum(step.duration, 0) / PICOSECONDS
    return replace(step, demand=demand, capacity=np.full(step.lanes, C))


def longest_path(step: StepGraph, start: Any = None, free: Any = None) -> tuple[Any, Any]:
    """Start and finish by the definition, node by node and without any cleverness."""
    begun = np.full(step.duration.shape, ABSENT, dtype=np.int64)
    ended = begun.copy()
    available = np.zeros((3, step.lanes), dtype=np.int64) if free is None else np.array(free)
    available = available if start is None else np.maximum(available, start)
    for row in range(step.rows):
        labels = step.partitions[step.partition[row]]
        present = [lane for lane in range(step.lanes) if step.duration[row, lane] != ABSENT]
        at = {}
        for lane in present:
            group = [other for other in range(step.lanes) if labels[other] == labels[lane]]
            waits = [ended[p, other] for p in step.predecessors[row] for other in group]
            mates = [other for other in group if other in present] if step.joint[row] else [lane]
            waits += [available[step.resource[row], mate] for mate in mates]
            at[lane] = max(waits)
        for lane in present:
            begun[row, lane], ended[row, lane] = at[lane], at[lane] + step.duration[row, lane]
            available[step.resource[row], lane] = ended[row, lane]
    return begun, ended


def ports(lanes: int, per_node: int) -> GroupPorts:
    """Uneven ports, several nodes where there are more lanes than a node takes."""
    node = np.arange(lanes) // per_node
    up = 100e9 * (1 + np.arange(lanes) % 3)
    out = np.full(lanes, 25e9) if node[-1] else np.zeros(lanes)
    return GroupPorts(node, up, out, 2e-6, 5e-6, 1e-6)


def transfer(kind: str, seed: int, lanes: int, per_node: int) -> Transfer:
    draw, group = np.random.default_rng(seed), ports(lanes, per_node)
    if kind == "all_to_all":
        return collectives.all_to_all(draw.uniform(0, 1e7, (lanes, lanes)), group)
    if kind == "all_reduce":
        return collectives.all_reduce(draw.uniform(0, 1e7), group)
    if kind == "all_gather":
        return collectives.all_gather(draw.uniform(0, 1e7, lanes), group, "direct")
    return collectives.reduce_scatter(draw.uniform(0, 1e7, lanes), group)


@st.composite
def step_graphs(draw: Any, collective_rows: bool = False) -> StepGraph:
    """Random graphs. With `collective_rows`, every joint row moves bytes and takes what its transfers take."""
    lanes, rows = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    labels = st.lists(st.integers(0, 2), min_size=lanes, max_size=lanes)
    partitions = [list(range(lanes)), [0] * lanes, draw(labels), draw(labels)]
    duration, resource, predecessors, joint, partition = [], [], [], [], []
    carried: dict[int, Collective] = {}
    for row in range(rows):
        resource.append(draw(st.sampled_from([COMPUTE, SIDE_COMPUTE, NETWORK])))
        partition.append(draw(st.integers(0, 3)))
        joint.append(draw(st.booleans()))
        predecessors.append(sorted(draw(st.sets(st.integers(0, row - 1), max_size=3))) if row else [])
        if not collective_rows and draw(st.integers(0, 3)) == 0:  # all lanes meet, perhaps
            joint[row], partition[row], predecessors[row] = True, 1, list(range(max(row - 4, 0), row))
            duration.append([draw(st.integers(0, 9)) * 100_000] * lanes)
            continue
        took = draw(st.lists(st.integers(-1, 9).map(lambda t: t * 100_000), min_size=lanes, max_size=lanes))
        took = [max(t, ABSENT) for t in took]
        if joint[row] and collective_rows:
            carried[row], took = _carried(draw, partitions[partition[row]], lanes)
        duration.append(took)
    return graph(duration, resource, predecessors, joint, partition, partitions, collectives=carried)


def _carried(draw: Any, labels: list[int], lanes: int) -> tuple[Collective, list[int]]:
    kind = draw(st.sampled_from(["all_to_all", "all_reduce", "all_gather", "reduce_scatter"]))
    members = [[lane for lane in range(lanes) if labels[lane] == label] for label in sorted(set(labels))]
    per_node, seed = draw(st.integers(1, 4)), draw(st.integers(0, 99))
    transfers = [transfer(kind, seed + i, len(group), per_node) for i, group in enumerate(members)]
    took = [ABSENT] * lanes
    for group, moved in zip(members, transfers, strict=True):
        for lane in group:
            took[lane] = int(moved.picoseconds)
    return collective(members, transfers), took
