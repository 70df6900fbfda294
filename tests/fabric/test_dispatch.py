"""Dispatch and combine against published arithmetic, and against counting copies token by token."""

import numpy as np
import pytest

from moesim.fabric.carried import carry
from moesim.fabric.dispatch import FORMS, combine, dispatch, payload
from moesim.fabric.links import group_links
from moesim.fabric.tokens import ExactTokens, ExpectedTokens
from moesim.fabric.topology import from_cables, nest, star
from moesim.fabric.transfer import GroupPorts, Transfer
from moesim.spec.errors import MoesimError

B, A = 400e9, 2e-6


class Even:
    """Every rank sends so many copies to others, evenly."""

    def __init__(self, ranks: int, copies: float) -> None:
        self.copies = np.full((ranks, ranks), copies / (ranks - 1)) * ~np.eye(ranks, dtype=bool)

    def visits(self, sets: np.ndarray) -> np.ndarray:
        return self.copies @ sets.T


def seconds(transfer: Transfer) -> float:
    return float(transfer.picoseconds) / 1e12


@pytest.mark.parametrize(("port", "microseconds", "tokens_per_second"), [(50e9, 120.96, 67), (900e9, 6.72, 1200)])
def test_deepseek_v3(port: float, microseconds: float, tokens_per_second: float) -> None:
    """Insights into DeepSeek-V3 (arXiv 2505.09343), section 2.3.2: 32 tokens per device to 9 experts, 7K values, one
    byte there and two back; 61 layers of two micro-batches, each hidden behind the other's computation."""
    group = GroupPorts(np.arange(320), np.full(320, np.inf), np.full(320, port))
    tokens = Even(320, 32 * 9)
    there = dispatch(tokens, payload(7000, 1), group, "per-expert")
    back = combine(tokens, payload(7000, 2), group, "per-expert")
    both = seconds(there) + seconds(back)
    assert both == pytest.approx(microseconds * 1e-6, rel=1e-6)
    per_token = 61 * 2 * both
    assert per_token == pytest.approx(14.76e-3 if port == 50e9 else 0.82e-3, rel=1e-3)
    assert 1 / per_token == pytest.approx(tokens_per_second, rel=0.02)


def test_payloads() -> None:
    assert payload(7168, 2) == 14336
    assert payload(7168, 1, block=128) == 7168 + 56 * 4
    assert payload(7168, 1, block=128, header=16) == 7408
    assert payload(2880, 1, block=128) == 2880 + 23 * 4


def routed(
    ranks: int, count: int = 300, experts: int = 16, top_k: int = 4, seed: int = 3
) -> tuple[ExactTokens, np.ndarray]:
    draw = np.random.default_rng(seed)
    chosen = np.argsort(draw.random((count, experts)), axis=1)[:, :top_k]
    owner = np.arange(experts) * ranks // experts
    source = draw.integers(0, ranks, count)
    return ExactTokens(chosen, source, owner, ranks), np.stack([source, *owner[chosen].T], axis=1)


def two_levels(nodes: int, width: int) -> GroupPorts:
    node = np.repeat(np.arange(nodes), width)
    return GroupPorts(node, np.full(nodes * width, B), np.full(nodes * width, 50e9), A, 5e-6)


def test_copies_are_fewer_the_later_they_are_made() -> None:
    tokens, rows = routed(8)
    group = two_levels(2, 4)
    received = {form: dispatch(tokens, 1.0, group, form).received for form in ("per-expert", "per-device")}
    visits = np.zeros(8)
    pairs = np.zeros(8)
    for source, *ranks in rows.tolist():
        visits[[rank for rank in set(ranks) if rank != source]] += 1
        for rank in ranks:
            pairs[rank] += rank != source
    assert received["per-device"] == pytest.approx(visits)
    assert received["per-expert"] == pytest.approx(pairs)


@pytest.mark.parametrize("links", [False, True])
def test_one_copy_per_node_is_forwarded_there(links: bool) -> None:
    nodes, width = 3, 4
    ranks = nodes * width
    tokens, rows = routed(ranks, experts=24)
    group = two_levels(nodes, width)
    across, inside = np.zeros((2, ranks)), np.zeros((2, ranks))
    for source, *visited in rows.tolist():
        for node in {rank // width for rank in visited}:
            relay = node * width + source % width
            if node != source // width:
                across[0, source] += 1
                across[1, relay] += 1
            for rank in {rank for rank in visited if rank // width == node and rank != relay}:
                inside[0, relay] += 1
                inside[1, rank] += 1
    size = 1e5
    if links:
        outer = star(ranks, 50e9, 5e-6, name="spine", level="scale_out")
        topology = nest([star(width, B, A)] * nodes, outer)
        transfers = [
            move(tokens, size, group_links(topology, range(ranks)), "per-node") for move in (dispatch, combine)
        ]
    else:
        transfers = [move(tokens, size, group, "per-node") for move in (dispatch, combine)]
    expected = max(5e-6 + across.max() * size / 50e9, A + inside.max() * size / B)
    for transfer in transfers:
        assert seconds(transfer) == pytest.approx(expected, rel=1e-9)
    assert transfers[0].sent == pytest.approx((across[0] + inside[0]) * size)
    assert transfers[1].sent == pytest.approx((across[1] + inside[1]) * size)
    assert [phase.parallel for phase in transfers[0].phases] == [False, True]


def test_one_switch_multiplies_and_adds_up() -> None:
    """Out of a sender one message per token, into a device one per token that visits it; the other way round back."""
    tokens, rows = routed(8)
    ports = GroupPorts(np.zeros(8, dtype=np.int64), np.full(8, B), np.zeros(8), A, reduces=True)
    links = group_links(star(8, B, A, reduces=True), range(8))
    out, into = np.zeros(8), np.zeros(8)
    for source, *visited in rows.tolist():
        others = set(visited) - {source}
        out[source] += bool(others)
        into[list(others)] += 1
    for group in (ports, links):
        there, back = dispatch(tokens, 1e5, group, "in-network"), combine(tokens, 1e5, group, "in-network")
        assert there.sent == pytest.approx(out * 1e5)
        assert there.received == pytest.approx(into * 1e5)
        assert back.sent == pytest.approx(into * 1e5)
        assert back.received == pytest.approx(out * 1e5)
        assert seconds(there) == pytest.approx(A + max(out.max(), into.max()) * 1e5 / B)


def test_a_tree_of_switches_merges_on_every_level() -> None:
    """16 leaves, four to a switch, switches to a root: an edge carries one message per token with experts beyond."""
    names = [f"chiplet{i}" for i in range(16)] + [f"switch{i}" for i in range(4)] + ["root"]
    cables = [(i, 16 + i // 4) for i in range(16)] + [(16 + i, 20) for i in range(4)]
    tree = from_cables("tree", 16, names, cables, bandwidth=B, reduces=np.arange(21) >= 16)
    tokens, rows = routed(16, experts=32)
    transfer = dispatch(tokens, 1.0, group_links(tree, range(16)), "in-network")
    load = dict(zip((tree.link_name(link) for link in transfer.phases[0].links), transfer.phases[0].load, strict=True))
    up, down = sum(source // 4 == 1 and any(rank // 4 != 1 for rank in ranks) for source, *ranks in rows.tolist()), 0
    for source, *ranks in rows.tolist():
        down += source // 4 != 1 and any(rank // 4 == 1 for rank in ranks)
    assert load["switch1 -> root"] == up
    assert load["root -> switch1"] == down
    assert load["switch1 -> chiplet5"] == sum(source != 5 and 5 in ranks for source, *ranks in rows.tolist())
    assert load["chiplet5 -> switch1"] == sum(source == 5 and set(ranks) != {5} for source, *ranks in rows.tolist())
    assert transfer.at(()).joules.sum() == 0
    assert transfer.algorithm == "in-network"
    carried = carry(transfer, "flow")
    assert carried.picoseconds == transfer.picoseconds
    assert carried.load.sum() == transfer.phases[0].load.sum()


def test_layers_at_once() -> None:
    counts = np.random.default_rng(0).integers(0, 40, (5, 8, 32)).astype(float)
    owner = np.arange(32) // 4
    tokens = ExpectedTokens(counts, owner, 8, 4)
    topology = nest([star(4, B, A, reduces=True)] * 2, star(8, 50e9, 5e-6, name="spine", reduces=True))
    for form in FORMS:
        for group in (two_levels(2, 4), group_links(topology, range(8))):
            if form == "in-network" and isinstance(group, GroupPorts):
                continue
            moved = dispatch(tokens, 7168.0, group, form)
            assert moved.shape == (5,)
            for layer in range(5):
                alone = dispatch(ExpectedTokens(counts[layer], owner, 8, 4), 7168.0, group, form)
                assert moved.picoseconds[layer] == alone.picoseconds == moved.at(layer).picoseconds
                assert moved.sent[layer] == pytest.approx(alone.sent)


def test_bad_dispatches() -> None:
    tokens, _ = routed(8)
    group = two_levels(2, 4)
    with pytest.raises(MoesimError, match="there is no form 'per-rack' of dispatch; choose one of per-expert"):
        dispatch(tokens, 1.0, group, "per-rack")
    with pytest.raises(MoesimError, match="a copy of a token has nan bytes"):
        dispatch(tokens, float("nan"), group)
    with pytest.raises(MoesimError, match="an in-network combine needs a switch that adds up"):
        combine(tokens, 1.0, group, "in-network")
    uneven = GroupPorts(np.array([0, 0, 0, 1, 1, 1, 1, 1]), np.full(8, B), np.full(8, 50e9))
    with pytest.raises(MoesimError, match="as many devices of the group in each node; choose per-device"):
        dispatch(tokens, 1.0, uneven, "per-node")
    with pytest.raises(ValueError, match="tokens of 8 ranks do not fit 4 lanes"):
        dispatch(tokens, 1.0, two_levels(1, 4))
