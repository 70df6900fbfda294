"""Collectives on the links of topologies, link by link, against the plan."""

import numpy as np
import pytest
from engine_graphs import graph
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.engine.operations import execute
from moesim.engine.sweep import sweep
from moesim.fabric import collectives
from moesim.fabric.dispatch import dispatch
from moesim.fabric.links import GroupLinks, group_links
from moesim.fabric.tokens import ExpectedTokens
from moesim.fabric.topology import from_cables, nest, star
from moesim.fabric.transfer import Transfer, collective
from moesim.step.graph import NETWORK, StepGraph


def ring(devices: int) -> GroupLinks:
    cables = [(i, (i + 1) % devices) for i in range(devices)]
    rates = 1e9 * (1 + np.arange(devices))
    topology = from_cables("ring", devices, [f"gpu{i}" for i in range(devices)], cables, bandwidth=rates, latency=1e-6)
    return group_links(topology, range(devices))


def nodes(devices: int) -> GroupLinks:
    outer = star(devices, 5e9, 3e-6, name="spine", level="scale_out", overhead=2e-6, reduces=True)
    return group_links(nest([star(devices // 2, 9e9, 1e-6, reduces=True)] * 2, outer), range(devices))


def one_row(transfer: Transfer) -> StepGraph:
    lanes = list(range(transfer.ports.lanes))
    took = [[int(transfer.picoseconds)] * len(lanes)]
    return graph(took, [NETWORK], [[]], [True], [1], collectives={0: collective([lanes], [transfer])})


ALGORITHMS = ["ring", "bidirectional-ring", "direct", "halving-doubling", "tree", "double-binary-tree", "sharp", "nvls"]


@settings(max_examples=30)
@given(st.sampled_from(ALGORITHMS), st.booleans(), st.integers(0, 99))
def test_reductions(algorithm: str, over_nodes: bool, seed: int) -> None:
    size = float(np.random.default_rng(seed).uniform(0, 1e7))
    group = nodes(4) if over_nodes or algorithm in ("sharp", "nvls") else ring(4)
    step = one_row(collectives.all_reduce(size, group, algorithm))
    assert execute(step).finish.tolist() == sweep(step, kernel="numpy").finish.tolist()


@pytest.mark.parametrize("algorithm", ["direct", "pairwise", "bruck"])
def test_uneven_exchanges(algorithm: str) -> None:
    for group in (nodes(6), ring(5)):
        traffic = np.random.default_rng(0).uniform(0, 1e7, (group.lanes, group.lanes))
        step = one_row(collectives.all_to_all(traffic, group, algorithm))
        assert execute(step).makespan == sweep(step, kernel="numpy").makespan


@pytest.mark.parametrize("form", ["per-expert", "per-device", "per-node", "in-network"])
def test_expert_dispatch(form: str) -> None:
    counts = np.random.default_rng(1).integers(0, 99, (6, 12)).astype(float)
    tokens = ExpectedTokens(counts, np.arange(12) // 2, 6, 3)
    step = one_row(dispatch(tokens, 7168.0, nodes(6), form))
    assert execute(step).makespan == sweep(step, kernel="numpy").makespan


def test_groups_that_share_links_are_priced_together() -> None:
    """Two pairs across one trunk at once: told of each other, the plan holds; else the links queue, and it does not."""
    names = [*"abcd", "left", "right"]
    trunk = from_cables("trunk", 4, names, [(0, 4), (1, 4), (2, 5), (3, 5), (4, 5)], bandwidth=1e9)

    def pairs(told: bool) -> StepGraph:
        alone = [group_links(trunk, [0, 2]), group_links(trunk, [1, 3])]
        groups = [
            group_links(trunk, each.devices.tolist(), beside=(other,) if told else ())
            for each, other in zip(alone, reversed(alone), strict=True)
        ]
        moved = [collectives.all_reduce(1e6, group, "ring") for group in groups]
        took = [int(moved[lane % 2].picoseconds) for lane in range(4)]
        carried = {0: collective([(0, 2), (1, 3)], moved)}
        return graph([took], [NETWORK], [[]], [True], [1], [[0, 1, 2, 3], [0, 1, 0, 1]], collectives=carried)

    told, untold = pairs(True), pairs(False)
    assert execute(told).makespan == sweep(told, kernel="numpy").makespan == 2_000_000_000
    assert execute(untold).makespan > sweep(untold, kernel="numpy").makespan
