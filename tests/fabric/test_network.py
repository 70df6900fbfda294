"""The fabric of a topology: any group of its devices, the same answers as a switch where it is one, uneven traffic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.fabric import collectives
from moesim.fabric.auto import ChosenTransfer, candidates
from moesim.fabric.links import group_links
from moesim.fabric.network import TopologyFabric
from moesim.fabric.policies import RoutingOptions
from moesim.fabric.topology import from_cables, nest, star
from moesim.fabric.transfer import GroupPorts
from moesim.spec.errors import MoesimError

from .shapes import grid, leaf_spine

B, A = 100e9, 1e-6


@given(st.integers(2, 9), st.integers(0, 99))
def test_a_star_is_a_switch(n: int, seed: int) -> None:
    """To the picosecond: port sums and link loads are the same sums, in another order."""
    draw = np.random.default_rng(seed)
    rates = draw.choice([50e9, 100e9, 400e9], n)
    ports = GroupPorts(np.zeros(n, dtype=np.int64), rates, np.zeros(n), A, overhead=2e-6)
    links = group_links(star(n, rates, A, overhead=2e-6), range(n))
    traffic, chunks = draw.uniform(0, 1e7, (3, n, n)), draw.uniform(0, 1e7, (3, n))
    for one, other in (
        (collectives.all_to_all(traffic, ports), collectives.all_to_all(traffic, links)),
        (collectives.all_reduce(chunks[:, 0], ports), collectives.all_reduce(chunks[:, 0], links)),
        (collectives.all_gather(chunks, ports), collectives.all_gather(chunks, links)),
        (collectives.gather(chunks, ports, 1), collectives.gather(chunks, links, 1)),
    ):
        assert np.abs(one.picoseconds - other.picoseconds).max() <= sum(phase.rounds for phase in one.phases)
        assert one.sent == pytest.approx(other.sent)
        assert one.received == pytest.approx(other.received)


def test_a_group_is_some_devices_in_any_order() -> None:
    fabric = TopologyFabric(leaf_spine(4, 4, 1), algorithm="ring")
    near, far = fabric.send(1e6, 0, 1), fabric.send(1e6, 0, 4)
    assert near.phases[0].load.tolist() == [1e6] * 2
    assert far.phases[0].load.tolist() == [1e6] * 4
    across = fabric.all_reduce(16e6, [0, 1, 4, 5])
    shuffled = fabric.all_reduce(16e6, [4, 0, 1, 5])
    assert across.picoseconds / 1e12 == pytest.approx(6 * 4e6 / 1e9)
    assert shuffled.picoseconds > across.picoseconds / 2
    assert fabric.ports([0, 1]) is fabric.ports((0, 1))


def test_oversubscription_bounds_an_all_to_all() -> None:
    """16 hosts under 4 leaves with one uplink each, as fast as a port: f (n - p) m / B with f = 4."""
    fabric = TopologyFabric(leaf_spine(4, 4, 1))
    time = fabric.all_to_all(np.full((16, 16), 1e6), range(16)).picoseconds / 1e12
    assert time == pytest.approx(4 * 12 * 1e6 / 1e9)


@given(st.integers(0, 99), st.sampled_from(["shortest", "dimension-order", "valiant"]))
def test_an_all_to_all_takes_no_less_than_any_cut_allows(seed: int, routing: str) -> None:
    """T >= bytes across a cut / its capacity, and T >= sum(bytes x hops) / sum(B)."""
    draw = np.random.default_rng(seed)
    topology = grid(4, 4, ring=bool(seed % 2))
    traffic = draw.uniform(0, 1e6, (16, 16)) * draw.integers(0, 2, (16, 16))
    fabric = TopologyFabric(topology, routing, options=RoutingOptions(ties="split", seed=seed))
    transfer = fabric.all_to_all(traffic, range(16))
    time = transfer.picoseconds / 1e12 + 1e-12
    left = draw.integers(0, 2, 16).astype(bool)
    crossing = left[topology.source] & ~left[topology.target]
    capacity = topology.bandwidth[crossing].sum()
    across = traffic[left][:, ~left].sum()
    assert time * capacity >= across * (1 - 1e-9)
    links = transfer.phases[0].load.sum()
    assert time * topology.bandwidth.sum() >= links * (1 - 1e-9)
    places = topology.coordinates
    apart = np.abs(places[:, None] - places[None])
    hops = (np.minimum(apart, 4 - apart) if seed % 2 else apart).sum(axis=-1)
    assert links >= (traffic * hops).sum() * (1 - 1e-9)
    if routing != "valiant":
        assert links == pytest.approx((traffic * hops).sum())


def test_groups_of_experts_share_the_uplinks() -> None:
    """Four groups of one host under each of four leaves: every uplink carries the traffic of its four hosts."""
    topology = leaf_spine(4, 4, 2)
    group = group_links(topology, range(16))
    members = np.arange(16).reshape(4, 4).T
    traffic = np.random.default_rng(0).uniform(0, 1e6, (3, 4, 4, 4))
    moved = collectives.all_to_alls(traffic, group, members)
    apart = traffic * ~np.eye(4, dtype=bool)
    uplink = np.maximum(apart.sum(axis=(1, 3)), apart.sum(axis=(1, 2))).max(axis=-1) / 2
    port = np.maximum(apart.sum(axis=3), apart.sum(axis=2)).max(axis=(1, 2))
    assert moved.picoseconds / 1e12 == pytest.approx(np.maximum(uplink, port) / 1e9, rel=1e-6)
    back = collectives.all_to_alls(traffic, group, members, back=True)
    assert back.sent == pytest.approx(moved.received)
    whole = np.zeros((3, 16, 16))
    for part, lanes in enumerate(members):
        whole[:, lanes[:, None], lanes] = traffic[:, part]
    assert collectives.all_to_all(whole, group).picoseconds.tolist() == moved.picoseconds.tolist()
    with pytest.raises(MoesimError, match="a group names gpu0 twice"):
        collectives.all_to_alls(np.ones((2, 2, 2)), group, [[0, 1], [2, 0]])


def test_energy_is_paid_per_link_and_byte() -> None:
    line = from_cables("line", 3, list("abc"), [(0, 1), (1, 2)], bandwidth=1e9, energy=[1e-12, 3e-12])
    traffic = np.zeros((2, 3, 3))
    traffic[0, 0, 2], traffic[1, 2, 1], traffic[1, 0, 1] = 1e6, 2e6, 5e6
    joules = TopologyFabric(line).all_to_all(traffic, range(3)).joules
    assert joules.ravel().tolist() == pytest.approx([4e-6, 0, 0, 5e-6, 0, 6e-6])
    ring = TopologyFabric(line).all_reduce(3e6, range(3), "ring")
    assert ring.joules.sum() == pytest.approx(4 * 1e6 * 2 * (1e-12 + 3e-12))


def test_groups_side_by_side_slow_each_other() -> None:
    """Four pairs across one link: each gets a quarter of it. A ring of neighbours beside is not in the way."""
    trunk = leaf_spine(2, 4, 1)
    pairs = [group_links(trunk, [i, 4 + i]) for i in range(4)]
    together = group_links(trunk, [0, 4], beside=tuple(pairs[1:]))
    assert collectives.all_reduce(1e6, pairs[0]).picoseconds / 1e12 == pytest.approx(1e6 / 1e9)
    assert collectives.all_reduce(1e6, together).picoseconds / 1e12 == pytest.approx(4e6 / 1e9)
    apart = group_links(trunk, [0, 1], beside=(group_links(trunk, [2, 3]),))
    assert collectives.all_reduce(1e6, apart).picoseconds / 1e12 == pytest.approx(1e6 / 1e9)
    assert collectives.all_reduce(1e6, together).sent.tolist() == [1e6, 1e6]


def test_auto_takes_the_shortest_for_each_size() -> None:
    sizes = np.array([1e3, 1e5, 1e7, 1e9])
    outer = star(32, 50e9, 5e-6, name="spine", level="scale_out")
    fabric = TopologyFabric(nest([star(8, 450e9, 2e-6)] * 4, outer, bandwidth=60e9))
    chosen = fabric.all_reduce(sizes, range(32))
    assert isinstance(chosen, ChosenTransfer)
    assert chosen.algorithms.tolist() == ["double-binary-tree"] * 2 + ["hierarchical"] * 2
    single = [fabric.all_reduce(sizes, range(32), name) for name in candidates("all_reduce", fabric.ports(range(32)))]
    assert chosen.picoseconds.tolist() == np.min([each.picoseconds for each in single], axis=0).tolist()
    for index, size in enumerate(sizes):
        alone = fabric.all_reduce(size, range(32))
        assert (alone.algorithm, int(alone.picoseconds)) == (chosen.algorithms[index], chosen.picoseconds[index])
        assert chosen.at(index).algorithm == alone.algorithm
        assert chosen.sent[index] == pytest.approx(alone.sent)
        assert chosen.joules[index] == pytest.approx(alone.joules)
    table = fabric.all_reduce(sizes.reshape(2, 2), range(32))
    assert table.at(1).picoseconds.tolist() == chosen.picoseconds[2:].tolist()
    assert table.at((1, 0)).algorithm == "hierarchical"


def test_auto_reduces_in_switches_that_can() -> None:
    fabric = TopologyFabric(star(8, 450e9, 2e-6, reduces=True))
    assert fabric.all_reduce(1e9, range(8)).algorithm == "nvls"
    assert TopologyFabric(star(8, 450e9, 2e-6)).all_reduce(1e3, range(8)).algorithm == "direct"
    torus = TopologyFabric(grid(4, 4, ring=True, latency=1e-6))
    assert torus.all_reduce(1e9, range(16)).algorithm == "multi-dimensional"
    assert torus.all_reduce(1e9, [0, 1, 2]).algorithm in ("ring", "direct")


def test_bad_groups_are_named() -> None:
    fabric = TopologyFabric(star(4, B))
    for group, line in (
        ([0, 1, 1], "a group names gpu1 twice; name every device once"),
        ([0, 4], "there is no device 4; the devices count from 0 to 3"),
        ([2], "a collective over gpu2 alone moves nothing"),
        ([], "a group has no devices"),
    ):
        with pytest.raises(MoesimError, match=line):
            fabric.all_reduce(1e6, group)
    with pytest.raises(MoesimError, match=r"a transfer of gpu3 -> gpu0 has -1\.0 bytes"):
        fabric.all_to_all(np.array([[0.0, 0], [-1, 0]]), [0, 3])
    with pytest.raises(MoesimError, match="a transfer of gpu2 has inf bytes"):
        fabric.all_gather([1.0, np.inf], [0, 2])
    islands = TopologyFabric(from_cables("islands", 4, list("abcd"), [(0, 1), (2, 3)], bandwidth=1e9))
    assert islands.all_reduce(1e6, [0, 1]).picoseconds > 0
    with pytest.raises(MoesimError, match="islands: no path leads from b to c"):
        islands.all_reduce(1e6, [0, 1, 2], "ring")


def test_ten_thousand_devices() -> None:
    """Only the pairs in use are routed."""
    fabric = TopologyFabric(grid(100, 100), "dimension-order")
    assert fabric.send(1e6, 0, 9999).phases[0].load.sum() == pytest.approx(198e6)
    corner = fabric.all_reduce(1e9, [0, 1, 100, 101], "multi-dimensional")
    assert corner.picoseconds / 1e12 == pytest.approx(2 * (1 / 2 + 1 / 4))
