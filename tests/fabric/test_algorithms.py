"""Every algorithm against its closed form, on the ports of a switch and on the links of the same switch."""

from dataclasses import replace
from math import ceil, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.fabric import algorithms, collectives
from moesim.fabric.links import group_links
from moesim.fabric.topology import nest, star
from moesim.fabric.transfer import Group, GroupPorts, Transfer
from moesim.spec.errors import MoesimError

from .shapes import grid, leaf_spine

B, A = 400e9, 2e-6
SIZE = np.array([0.0, 1e3, 1e6, 64e6])


def switches(n: int, reduces: bool = False) -> list[Group]:
    node = np.zeros(n, dtype=np.int64)
    ports = GroupPorts(node, np.full(n, B), np.zeros(n), A, reduces=reduces)
    return [ports, group_links(star(n, B, A, reduces=reduces), range(n))]


def seconds(transfer: Transfer) -> np.ndarray:
    return transfer.picoseconds / 1e12


def close(transfer: Transfer, expected: np.ndarray) -> bool:
    return bool(seconds(transfer) == pytest.approx(expected, rel=1e-9, abs=1e-10))


@pytest.mark.parametrize("n", [2, 4, 8, 32])
def test_all_reduce(n: int) -> None:
    steps, share = log2(n), (n - 1) / n * SIZE / B
    expected = {
        "ring": 2 * (n - 1) * A + 2 * share,
        "bidirectional-ring": 2 * (n - 1) * A + 2 * share,
        "direct": 2 * A + 2 * share,
        "halving-doubling": 2 * steps * A + 2 * share,
        "tree": 2 * steps * (A + SIZE / B),
        "nvls": A + (n + 1) / n * SIZE / B,
        "sharp": A + SIZE / B,
        "write-accumulate": 2 * (A + SIZE / B),
    }
    for group in switches(n, reduces=True):
        for algorithm, value in expected.items():
            assert close(collectives.all_reduce(SIZE, group, algorithm), value), algorithm


@pytest.mark.parametrize("n", [2, 3, 4, 7, 8, 16, 33, 128])
def test_double_binary_tree(n: int) -> None:
    """At most 2 S per port; the latency of going up and down a binary tree."""
    for group in switches(n):
        transfer = collectives.all_reduce(SIZE, group, "double-binary-tree")
        busiest = max(transfer.sent.max(), transfer.received.max()) / SIZE.max()
        assert busiest <= 2
        depth = (seconds(transfer) - busiest * SIZE / B) / A
        assert depth == pytest.approx(np.full(4, 2 * ceil(log2(n))), abs=2.001)


def test_two_trees_share_no_inner_place() -> None:
    for n in (2, 6, 8, 30, 64):
        edges, depth = algorithms.two_trees(n)
        for tree in (edges[: n - 1], edges[n - 1 :]):
            assert sorted(child for _, child in tree) == sorted(set(range(n)) - {tree_root(tree)})
        inner = [{parent for parent, _ in tree} - {tree_root(tree)} for tree in (edges[: n - 1], edges[n - 1 :])]
        assert not inner[0] & inner[1]
        assert depth <= ceil(log2(n))


def tree_root(tree: list[tuple[int, int]]) -> int:
    (root,) = {parent for parent, _ in tree} - {child for _, child in tree}
    return root


@pytest.mark.parametrize("n", [2, 4, 16])
def test_all_gather_and_reduce_scatter(n: int) -> None:
    chunk = SIZE / n
    chunks = np.repeat(chunk[:, None], n, axis=1)
    expected = {
        "ring": (n - 1) * (A + chunk / B),
        "direct": A + (n - 1) * chunk / B,
        "halving-doubling": log2(n) * A + (n - 1) * chunk / B,
        "bruck": log2(n) * A + (n - 1) * chunk / B,
        "sharp": A + (n - 1) * chunk / B,
        "nvls": A + n * chunk / B,
        "write-accumulate": 2 * A + n * chunk / B,
    }
    for group in switches(n, reduces=True):
        for algorithm, value in expected.items():
            gathered = collectives.all_gather(chunks, group, algorithm)
            scattered = collectives.reduce_scatter(chunks, group, algorithm)
            assert close(gathered, value), algorithm
            if algorithm != "write-accumulate":  # writes n chunks, reads one
                assert close(scattered, value), algorithm
                assert scattered.sent == pytest.approx(gathered.received)


@pytest.mark.parametrize("n", [3, 5, 6, 12])
def test_bruck_gathers_any_number_of_chunks(n: int) -> None:
    for group in switches(n):
        gathered = collectives.all_gather(np.full(n, 1e6), group, "bruck")
        assert gathered.received == pytest.approx(np.full(n, (n - 1) * 1e6))
        assert seconds(gathered) == pytest.approx(ceil(log2(n)) * A + (n - 1) * 1e6 / B)


@pytest.mark.parametrize(("n", "root"), [(2, 1), (8, 3), (6, 5)])
def test_broadcast(n: int, root: int) -> None:
    expected = {
        "ring": (n - 1) * A + SIZE / B,
        "tree": ceil(log2(n)) * (A + SIZE / B),
        "direct": A + (n - 1) * SIZE / B,
        "sharp": A + SIZE / B,
    }
    for group in switches(n, reduces=True):
        for algorithm, value in expected.items():
            transfer = collectives.broadcast(SIZE, group, root, algorithm)
            assert close(transfer, value), algorithm
            received = np.delete(transfer.received[-1], root)
            assert received == pytest.approx(np.full(n - 1, 64e6))
            assert transfer.received[-1, root] == 0


def test_multicast_and_gather() -> None:
    for group in switches(6, reduces=True):
        copies = collectives.multicast(SIZE, group, 2, [0, 1, 5])
        assert close(copies, A + 3 * SIZE / B)
        assert copies.received[-1].tolist() == [64e6, 64e6, 0, 0, 0, 64e6]
        assert close(collectives.multicast(SIZE, group, 2, [0, 1, 5], "sharp"), A + SIZE / B)
        chunks = np.array([1e6, 2e6, 3e6, 4e6, 5e6, 6e6])
        incast = collectives.gather(chunks, group, 3)
        assert seconds(incast) == pytest.approx(A + 17e6 / B)
        assert incast.sent.tolist() == [1e6, 2e6, 3e6, 0, 5e6, 6e6]


@pytest.mark.parametrize("n", [2, 4, 8])
def test_all_to_all(n: int) -> None:
    block = SIZE / n
    traffic = np.broadcast_to(block[:, None, None], (4, n, n))
    for group in switches(n):
        expected = {
            "direct": A + (n - 1) * block / B,
            "pairwise": (n - 1) * (A + block / B),
            "bruck": log2(n) * (A + SIZE / (2 * B)),
        }
        for algorithm, value in expected.items():
            assert close(collectives.all_to_all(traffic, group, algorithm), value), algorithm


def test_uneven_all_to_all_is_bound_by_its_busiest_port() -> None:
    """max over ranks of max(sum out, sum in) / B; k senders to one receiver: k m / B."""
    traffic = np.random.default_rng(1).uniform(0, 1e7, (5, 6, 6))
    apart = traffic * ~np.eye(6, dtype=bool)
    expected = A + np.maximum(apart.sum(axis=2), apart.sum(axis=1)).max(axis=1) / B
    for group in switches(6):
        assert close(collectives.all_to_all(traffic, group), expected)
        back = collectives.all_to_all(traffic, group, back=True)
        assert close(back, expected)
        assert back.sent == pytest.approx(apart.sum(axis=1))
        incast = np.zeros((6, 6))
        incast[[0, 1, 4], 3] = 1e7
        assert seconds(collectives.all_to_all(incast, group)) == pytest.approx(A + 3e7 / B)


def two_levels(nodes: int, width: int) -> Group:
    """Ports of 50 GB/s out of each device, beside 400 GB/s inside the node."""
    outer = star(nodes * width, 50e9, 5e-6, name="spine", level="scale_out")
    return group_links(nest([star(width, B, A)] * nodes, outer), range(nodes * width))


@pytest.mark.parametrize(("nodes", "width"), [(2, 8), (4, 4), (3, 2)])
def test_two_level_all_reduce(nodes: int, width: int) -> None:
    group = two_levels(nodes, width)
    bytes_ = 2 * (width - 1) / width * SIZE / B + 2 * (nodes - 1) / nodes * (SIZE / width) / 50e9
    expected = bytes_ + 2 * (width - 1) * A + 2 * (nodes - 1) * 5e-6
    assert close(collectives.all_reduce(SIZE, group, "hierarchical"), expected)


def test_two_level_all_to_all_sends_one_message_per_node_and_rail() -> None:
    nodes, width = 3, 4
    group = two_levels(nodes, width)
    traffic = np.random.default_rng(0).uniform(0, 1e6, (2, 12, 12))
    transfer = collectives.all_to_all(traffic, group, "hierarchical")
    split = traffic.reshape(2, nodes, width, nodes, width)
    inside = split.sum(axis=-2)
    inside[..., np.arange(width), np.arange(width)] = 0
    across = split.sum(axis=-3)  # [size, node, node, lane]
    across[:, np.arange(nodes), np.arange(nodes)] = 0
    up = np.maximum(inside.sum(axis=-1), inside.sum(axis=-2)).max(axis=(1, 2))
    out = np.maximum(across.sum(axis=2), across.sum(axis=1)).max(axis=(1, 2))
    assert close(transfer, A + up / B + 5e-6 + out / 50e9)
    back = collectives.all_to_all(traffic, group, "hierarchical", back=True)
    assert back.sent == pytest.approx(transfer.received)


@pytest.mark.parametrize("k", [2, 4])
def test_multi_dimensional_all_reduce_on_a_torus(k: int) -> None:
    """Rings of k along each dimension, of S, S / k, ..., half each way round, over neighbours."""
    for dimensions in (2, 3):
        group = group_links(grid(*[k] * dimensions, ring=True, bandwidth=1e9, latency=1e-6), range(k**dimensions))
        transfer = collectives.all_reduce(64e6, group, "multi-dimensional")
        sizes = [64e6 / k**level for level in range(dimensions)]
        # Two devices are joined by two cables, and their two rings use both.
        assert seconds(transfer) == pytest.approx(sum(2 * (k - 1) * (1e-6 + size / k / 2e9) for size in sizes))


def test_a_serpentine_ring_has_only_neighbours() -> None:
    group = group_links(grid(4, 4, latency=1e-6), range(16))
    ring = collectives.all_reduce(16e6, group, "ring")
    assert ring.phases[0].latency == pytest.approx(3e-6)  # the way back, along the first column
    assert ring.phases[0].load.max() == pytest.approx(1e6)


def test_sums_inside_a_tree_of_switches() -> None:
    """16 devices under 4 leaves: a leaf that adds up sends one stream up, one that does not sends four."""
    tree = leaf_spine(4, 4, 1)
    reduces = np.arange(tree.vertices) >= 16
    whole = replace(tree, reduces=reduces)
    only_spine = replace(tree, reduces=np.arange(tree.vertices) == 20)
    merged = collectives.all_reduce(1e6, group_links(whole, range(16)), "sharp")
    assert seconds(merged) == pytest.approx(1e6 / 1e9)
    assert merged.phases[0].load.max() == pytest.approx(1e6)
    unmerged = collectives.all_reduce(1e6, group_links(only_spine, range(16)), "sharp")
    assert seconds(unmerged) == pytest.approx(4e6 / 1e9)
    gathered = collectives.all_gather(np.full(16, 1e6), group_links(whole, range(16)), "sharp")
    assert seconds(gathered) == pytest.approx(15e6 / 1e9)
    scattered = collectives.reduce_scatter(np.full(16, 1e6), group_links(whole, range(16)), "sharp")
    assert scattered.sent == pytest.approx(gathered.received)


def test_bus_bandwidth_inside_a_switch() -> None:
    """(n-1)/(n+1) of both directions of a port, for large sizes."""
    for n in (4, 8, 72):
        for group in switches(n, reduces=True):
            size = 1e12
            time = seconds(collectives.all_reduce(size, group, "nvls"))
            bus = 2 * (n - 1) / n * size / time
            assert bus / (2 * B) == pytest.approx((n - 1) / (n + 1), rel=1e-5)


def test_groups_that_an_algorithm_cannot_serve() -> None:
    for group in switches(6):
        with pytest.raises(
            MoesimError, match="halving-doubling serves a power of two of devices, the group has 6; choose ring"
        ):
            collectives.all_reduce(1e6, group, "halving-doubling")
        with pytest.raises(MoesimError, match="a hierarchical collective needs several nodes"):
            collectives.all_gather(np.ones(6), group, "hierarchical")
        with pytest.raises(MoesimError, match="a hierarchical all-to-all needs several nodes"):
            collectives.all_to_all(np.ones((6, 6)), group, "hierarchical")
        with pytest.raises(MoesimError, match="a multi-dimensional collective needs devices that fill a grid"):
            collectives.all_reduce(1e6, group, "multi-dimensional")
        with pytest.raises(MoesimError, match="nvls needs a switch that adds up"):
            collectives.all_reduce(1e6, group, "nvls")
        with pytest.raises(MoesimError, match="there is no 'rings' algorithm for all_reduce; did you mean 'ring'"):
            collectives.all_reduce(1e6, group, "rings")
        with pytest.raises(MoesimError, match="has no lane 6"):
            collectives.broadcast(1e6, group, 6)
        with pytest.raises(MoesimError, match="twice"):
            collectives.multicast(1e6, group, 0, [1, 1])


every = st.sampled_from(["ring", "bidirectional-ring", "direct", "halving-doubling", "tree", "double-binary-tree"])


@given(every, st.sampled_from([2, 4, 8]), st.integers(0, 9))
def test_bytes_sent_are_bytes_received(algorithm: str, n: int, seed: int) -> None:
    devices = np.random.default_rng(seed).permutation(16)[:n]
    for topology in (grid(4, 4, ring=True), leaf_spine(4, 4, 2)):
        transfer = collectives.all_reduce(SIZE, group_links(topology, devices.tolist()), algorithm)
        assert transfer.sent.sum(axis=-1) == pytest.approx(transfer.received.sum(axis=-1))
        assert (transfer.sent[-1] >= 64e6 * (n - 1) / n).all() or algorithm in ("tree", "double-binary-tree")
        assert (np.diff(transfer.picoseconds) > 0).all()
