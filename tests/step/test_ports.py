"""Forms of dispatch: what they put on ports, against the flows of moesim.fabric.dispatch, which know every pair of
lanes; and which ranks and nodes the tokens of a step visit, against counting them one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.fabric.dispatch import combine, dispatch, expert_load
from moesim.fabric.tokens import ExactTokens, ExpectedTokens
from moesim.fabric.transfer import GroupPorts
from moesim.placement.base import whole
from moesim.routing.drawn import Drawn
from moesim.routing.synthetic import CountRouting
from moesim.spec.errors import MoesimError
from moesim.spec.model import MoeSpec
from moesim.step.layout import ReplicaLayout
from moesim.step.ports import stage_ports
from moesim.step.tokens import ExpertPlaces, LaneTokens, RoutedTokens, expert_places

#: DP ranks, tp, expert ranks, nodes of equal size.
SHAPES = [(4, 1, 4, 1), (8, 1, 8, 2), (4, 2, 8, 2), (4, 2, 4, 2), (4, 2, 2, 4), (6, 1, 6, 3), (2, 4, 8, 2)]
FORMS = ["per-expert", "per-device", "per-node", "in-network"]
EXPERTS, TOP_K, LAYERS = 24, 3, 2


def group(lanes, nodes):
    node = np.arange(lanes) // (lanes // nodes)
    rates = np.ones(lanes)
    return GroupPorts(node=node, up_bandwidth=rates, out_bandwidth=rates * (nodes > 1), reduces=True)


def chosen(ranks, expert_ranks, seed):
    """Random choices of a few tokens of every DP rank, and where the experts are."""
    rng = np.random.default_rng(seed)
    source = np.repeat(np.arange(ranks), rng.integers(0, 9, ranks))
    ids = rng.random((LAYERS, len(source), EXPERTS)).argsort(axis=2)[:, :, :TOP_K].transpose(2, 0, 1)
    owner = np.stack([rng.permutation(EXPERTS) % expert_ranks for _ in range(LAYERS)])
    return Drawn.of_choices(ids.astype(np.uint16), source, ranks, EXPERTS), ExpertPlaces(owner, expert_ranks, TOP_K)


def on_ports(transfer):
    """[4, ...] sums of a transfer's phases: sent and received towards the own node, then towards others."""
    zero = np.zeros((LAYERS, transfer.ports.lanes))
    sums = {"scale_up": [zero, zero], "scale_out": [zero, zero]}
    for phase in transfer.phases:
        sums[phase.port] = [phase.sent, phase.received]
    return [*sums["scale_up"], *sums["scale_out"]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_ports_carry_what_flows_between_lanes_do(shape, form, seed):
    ranks, tp, expert_ranks, nodes = shape
    layout = ReplicaLayout(np.arange(ranks * tp).reshape(1, ranks, tp), expert_ranks)
    if form == "in-network" and (nodes > 1 or layout.expert_tp > 1):
        return
    ports = group(ranks * tp, nodes)
    tokens = RoutedTokens(*chosen(ranks, expert_ranks, seed))
    lanes = LaneTokens(tokens, layout)
    sums = stage_ports(ports, layout, form, work=True).of_tokens(tokens)
    for found, wanted in zip(sums, on_ports(dispatch(lanes, 1.0, ports, form)), strict=False):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-9)
    back = sums[1], sums[0], sums[3], sums[2]
    for found, wanted in zip(back, on_ports(combine(lanes, 1.0, ports, form)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-9)
    if form != "in-network":
        load = expert_load(lanes, ports, form)
        np.testing.assert_allclose(np.maximum(sums[4], sums[5]).max(axis=-1), load.copies)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_expected_sums_are_those_of_tokens_that_are_all_alike(shape, form):
    ranks, tp, expert_ranks, nodes = shape
    if form == "in-network" and nodes > 1:
        return
    layout = ReplicaLayout(np.arange(ranks * tp).reshape(1, ranks, tp), expert_ranks)
    rng = np.random.default_rng(ranks)
    share = rng.dirichlet(np.full(EXPERTS, 5.0), LAYERS) * TOP_K
    places = ExpertPlaces(np.stack([rng.permutation(EXPERTS) % expert_ranks] * LAYERS), expert_ranks, TOP_K)
    count = rng.integers(0, 50, ranks)
    at = stage_ports(group(ranks * tp, nodes), layout, form, work=True)
    found = at.expected(count, at.towards(places.expected(share[:, None])))
    wanted = at.of_tokens(places.expected(count[:, None] * share[:, None]))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.broadcast_to(one, other.shape), other, rtol=1e-9, atol=1e-9)


def test_senders_are_the_tokens_behind_a_port():
    """Two nodes of two ranks. A device gets from its node its own index forwards, from the other node its own index."""
    layout = ReplicaLayout(np.arange(4).reshape(1, 4, 1), 4)
    at = stage_ports(group(4, 2), layout, "per-node", work=True)
    tokens = np.array([1, 2, 30, 40])
    assert [part[0].tolist() for part in at.senders(tokens)] == [
        [15.5, 21.0, 15.5, 21.0],  # forwarded: ranks 0 and 2 by the first of each node, 1 and 3 by the second
        [21.0, 15.5, 21.0, 15.5],  # received inside the node from those of the other index
        [1.0, 2.0, 30.0, 40.0],
        [30.0, 40.0, 1.0, 2.0],
        [1.0, 2.0, 30.0, 40.0],
        [18.25] * 4,
    ]


@given(ranks=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_visits_of_known_choices_are_counted(ranks, seed):
    drawn, places = chosen(ranks, 6, seed)
    tokens = RoutedTokens(drawn, places)
    sets = np.random.default_rng(seed).random((9, 6)) < 0.4
    for layer in range(LAYERS):
        ids = drawn.picks[:, layer].T.astype(np.int64)
        exact = ExactTokens(ids, drawn.source, places.owner[layer], 6)
        np.testing.assert_array_equal(tokens.visits(sets)[layer], exact.visits(sets)[:ranks])
        np.testing.assert_array_equal(tokens.copies[layer], exact.copies[:ranks])


def test_visits_of_drawn_counts_are_close_to_those_of_tokens_one_by_one():
    """8 of 64 experts on 8 ranks: a token misses a rank of 8 experts with C(56, 8) / C(64, 8) = 0.3210."""
    seeds = np.random.SeedSequence(3).spawn(1)
    routing = CountRouting(40, 64, 8, seed=seeds[0])
    owner = np.tile(np.arange(64) // 8, (40, 1))
    rng, each = np.random.default_rng(5), np.eye(8, dtype=bool)
    few, many = (
        RoutedTokens(routing.choose(np.full(8, tokens), np.zeros(8, dtype=np.int64), rng), ExpertPlaces(owner, 8, 8))
        for tokens in (30, 4000)
    )
    assert not len(few.drawn.summed)
    assert len(many.drawn.summed) == 8
    for tokens, count in ((few, 30), (many, 4000)):
        assert tokens.visits(each).mean() / count == pytest.approx(1 - 0.3210, rel=0.005)


def test_groups_of_experts_limit_the_nodes_that_tokens_visit():
    """DeepSeek-V3: 8 of 256 experts within 4 of 8 groups; a group per node means at most 4 nodes."""
    moe = MoeSpec(experts=256, top_k=8, width=1, groups=8, top_groups=4)
    places = expert_places(whole(np.tile(np.arange(256) // 4, (1, 1))), 64, moe, limited=True)
    assert places.limit == 4
    tokens = places.expected(np.full((1, 1, 256), 8 / 256))
    nodes = np.arange(64)[None, :] // 8 == np.arange(8)[:, None]
    assert 3.5 < tokens.visits(nodes).sum() <= 4.0
    free = places._replace(group=None, limit=None).expected(np.full((1, 1, 256), 8 / 256))
    assert free.visits(nodes).sum() > 5
    # Ranks whose experts are of several groups know no limit.
    assert expert_places(whole(np.arange(256)[None] % 64), 64, moe, limited=True).limit is None
    assert expert_places(whole(np.tile(np.arange(256) // 4, (1, 1))), 64, moe, limited=False).limit is None


def test_forms_that_a_group_cannot_serve():
    layout = ReplicaLayout(np.arange(3).reshape(1, 3, 1), 3)
    uneven = GroupPorts(node=np.array([0, 0, 1]), up_bandwidth=np.ones(3), out_bandwidth=np.ones(3))
    with pytest.raises(MoesimError, match="as many devices"):
        stage_ports(uneven, layout, "per-node", work=False)
    with pytest.raises(MoesimError, match="adds up"):
        stage_ports(uneven, layout, "in-network", work=False)


def test_expected_tokens_take_leading_axes():
    counts = np.full((2, 1, 6), 0.5)
    owner = np.stack([np.arange(6) // 2, np.arange(6) % 3])
    assert ExpectedTokens(counts, owner, 3, 3).copies.tolist() == [[[1.0, 1.0, 1.0]]] * 2
