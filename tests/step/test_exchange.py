"""What an all-to-all puts on each port, against the matrix of what every lane sends to every other; and its scatter."""

from __future__ import annotations

import numpy as np
import pytest
import stepping
from hypothesis import given, settings
from hypothesis import strategies as st
from stepping import ALL_TO_ALL, document

from moesim.fabric.transfer import GroupPorts
from moesim.step.layout import ReplicaLayout
from moesim.step.ports import StagePorts


def stage(ranks, tp, expert_ranks, nodes):
    """Lanes of one stage, spread over the nodes as `nodes` says."""
    lanes = ranks * tp
    ports = GroupPorts(node=np.array(nodes), up_bandwidth=np.ones(lanes), out_bandwidth=np.ones(lanes))
    return StagePorts(ports, ReplicaLayout(np.arange(lanes).reshape(1, ranks, tp), expert_ranks))


def port_sums(lane_traffic, nodes):
    """Brute force: sent and received over the ports to the own node and to others, from [layers, lanes, lanes]."""
    near = np.equal.outer(nodes, nodes)
    inside = lane_traffic * (near & ~np.eye(len(nodes), dtype=bool))
    outside = lane_traffic * ~near
    return inside.sum(axis=2), inside.sum(axis=1), outside.sum(axis=2), outside.sum(axis=1)


def lane_traffic(traffic, tp, lanes):
    """A DP rank's tokens are divided over its lanes; each lane of an expert rank gets every copy."""
    expert_tp = lanes // traffic.shape[2]
    return np.array(
        [[[layer[i // tp, j // expert_tp] / tp for j in range(lanes)] for i in range(lanes)] for layer in traffic]
    )


LAYOUTS = st.sampled_from([(2, 1, 2), (4, 1, 4), (4, 2, 8), (4, 2, 4), (2, 4, 4), (8, 1, 8), (3, 2, 6)])


@given(layout=LAYOUTS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_ports_carry_what_the_matrix_of_lanes_says(layout, data):
    ranks, tp, expert_ranks = layout
    lanes = ranks * tp
    nodes = data.draw(st.lists(st.integers(0, 2), min_size=lanes, max_size=lanes))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    traffic = rng.integers(0, 50, (2, ranks, expert_ranks))
    sums = stage(*layout, nodes).of_traffic(traffic)
    for found, wanted in zip(sums, port_sums(lane_traffic(traffic, tp, lanes), nodes), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-9)
    assert sums[0].sum() + sums[2].sum() == pytest.approx(sums[1].sum() + sums[3].sum())


@pytest.fixture
def scattered():
    """`scattered()`: dispatch and combine by tokens per rank, of one replica on two nodes; anew with every call."""
    tree = document("qwen3-30b-a3b", {"h100-sxm": 8}, parallelism={"dp": 16, "ep": 16}, **ALL_TO_ALL)
    tree |= {"machine": {"extends": "dgx-h100", "nodes": 2, "scale_out": "ib-ndr400"}, "plan_reuse": True}
    return lambda: stepping.pricer(tree, "model.layers=4").routed._scattered


def test_an_exchange_is_a_function_of_the_tokens_alone(scattered):
    """Whatever is priced before it, and beside it."""
    random, turns = np.random.default_rng(1), np.arange(40)
    singles, chunked = random.integers(1, 40, (40, 16)), random.integers(0, 40, (40, 16))
    first, second = scattered(), scattered()
    together = np.array(first.price(singles, chunked, turns))
    backwards = [second.price(*(each[[turn]] for each in (singles, chunked, turns))) for turn in reversed(turns)]
    np.testing.assert_array_equal(together, np.concatenate(backwards[::-1], axis=2))


def test_more_tokens_on_the_busiest_rank_never_take_less(scattered):
    chunked = np.zeros((4, 16), dtype=np.int64)
    chunked[:, 3] = (64, 256, 1024, 4096)
    times = scattered().price(np.full((4, 16), 8), chunked, np.zeros(4, dtype=np.int64))
    assert (np.diff(times, axis=2) > 0).all()


def test_a_rank_with_many_tokens_is_bound_by_what_it_sends(scattered):
    """One rank with 20,000 tokens on two nodes of 8 sends 8 of 16 parts of its copies to the other node: 8 copies of
    2048 elements a token, over one NDR400 port."""
    exchange = scattered()
    lonely = np.zeros((1, 16), dtype=np.int64)
    lonely[0, 5] = 20_000
    _, combine = exchange.price(np.ones((1, 16), dtype=np.int64), lonely, np.zeros(1, dtype=np.int64))
    ports = exchange._exchange.stages[0].ports
    size = 20_000 * 8 * 8 / 16 * 2048 * 2
    assert combine[0, 0] / 1e12 / 4 == pytest.approx(size / ports.out_bandwidth[0], rel=0.02)
