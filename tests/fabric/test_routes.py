"""Routes: link loads of a uniform all-to-all against closed forms, and properties of every policy."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.fabric.distance import UNREACHABLE, path_costs
from moesim.fabric.policies import RoutingOptions, make_routing
from moesim.fabric.propagation import Propagation
from moesim.fabric.routes import path_links, shortest_routes
from moesim.fabric.routing import DimensionOrder, PairLoads, RailLocal, Routing, Shortest, Valiant
from moesim.fabric.single_paths import Explicit, MinimalSplit
from moesim.fabric.topology import Topology, from_cables, nest, star
from moesim.spec.errors import MoesimError

from .shapes import all_pairs, grid, leaf_spine


def busiest(topology: Topology, routing: Routing) -> float:
    """Bytes on the busiest link when every device sends one byte to every other."""
    pairs = all_pairs(topology.endpoints)
    loads = [
        make.loads(np.ones(len(pairs))) for make in (routing.routes(topology, pairs), routing.loads(topology, pairs))
    ]
    assert loads[0] == pytest.approx(loads[1])
    return float(loads[0].max())


@pytest.mark.parametrize("n", [2, 4, 8, 14])
def test_even_ring_with_split_ties(n: int) -> None:
    """A ring of two has two cables."""
    assert busiest(grid(n, ring=True), Shortest()) == pytest.approx(n * n / 8)


@pytest.mark.parametrize("n", [3, 5, 9, 15])
def test_odd_ring(n: int) -> None:
    assert busiest(grid(n, ring=True), Shortest()) == pytest.approx((n * n - 1) / 8)


@pytest.mark.parametrize("n", [2, 5, 8])
def test_line(n: int) -> None:
    assert busiest(grid(n), Shortest()) == pytest.approx((n // 2) * ((n + 1) // 2))


@pytest.mark.parametrize("k", [2, 4, 8])
def test_mesh_with_dimension_order(k: int) -> None:
    assert busiest(grid(k, k), DimensionOrder()) == pytest.approx(k**3 / 4)


@pytest.mark.parametrize(("dimensions", "k"), [(2, 4), (2, 8), (3, 4)])
def test_torus(dimensions: int, k: int) -> None:
    torus = grid(*[k] * dimensions, ring=True)
    assert busiest(torus, DimensionOrder()) == pytest.approx(k ** (dimensions + 1) / 8)
    if dimensions == 2:
        assert busiest(torus, Shortest()) == pytest.approx(k**3 / 8)


@pytest.mark.parametrize(("leaves", "hosts", "spines"), [(4, 4, 4), (4, 4, 2), (3, 6, 2), (2, 8, 1)])
def test_fat_tree_with_oversubscription(leaves: int, hosts: int, spines: int) -> None:
    """max(n - 1, f (n - p)) with f = hosts / spines, uplinks as fast as ports."""
    n = leaves * hosts
    expected = max(n - 1, hosts / spines * (n - hosts))
    assert busiest(leaf_spine(leaves, hosts, spines), Shortest()) == pytest.approx(expected)


def test_switch_loads_are_port_sums() -> None:
    traffic = np.arange(16.0).reshape(4, 4)
    routes = Shortest().routes(star(4, 1e9), all_pairs(4))
    loads = routes.loads(traffic.ravel())
    np.fill_diagonal(traffic, 0)
    assert loads[0::2] == pytest.approx(traffic.sum(axis=1))
    assert loads[1::2] == pytest.approx(traffic.sum(axis=0))


def test_lowest_and_hashed_ties_are_single_paths() -> None:
    topology, pairs = leaf_spine(4, 4, 4), all_pairs(16)
    for ties in ("lowest", "hash"):
        routes = shortest_routes(topology, pairs, ties, seed=3)
        assert set(routes.fraction) == {1.0}
        assert routes.hops == pytest.approx(shortest_routes(topology, pairs).hops)
    lowest = shortest_routes(topology, pairs, "lowest")
    assert "leaf0 -> spine0" in dict(lowest.path(4))
    assert not any(name.endswith("spine1") for pair in range(len(pairs)) for name, _ in lowest.path(pair))
    first, again, other = (shortest_routes(topology, pairs, "hash", seed).link.tolist() for seed in (0, 0, 1))
    assert first == again != other


@given(st.integers(2, 4), st.integers(1, 5), st.integers(1, 5))
def test_minimal_splitting_is_as_good_as_packet_spraying(leaves: int, hosts: int, spines: int) -> None:
    """Maximum load exact in rational arithmetic: of spraying hosts^2 / spines per pair of leaves on every uplink."""
    topology = leaf_spine(leaves, hosts, spines)
    pairs = all_pairs(leaves * hosts)
    single = MinimalSplit().routes(topology, pairs)
    load = [Fraction(0)] * topology.links
    for link, fraction in zip(single.link.tolist(), single.fraction.tolist(), strict=True):
        load[link] += Fraction(fraction).limit_denominator(spines)
    uplinks = [
        load[link] for link in range(topology.links) if topology.target[link] >= len(set(topology.vertex_name)) - spines
    ]
    assert set(uplinks) == {Fraction(hosts * hosts * (leaves - 1), spines)}
    split = np.diff(single.pointer) > shortest_routes(topology, pairs, "lowest").hops
    assert split.sum() <= leaves * (leaves - 1) * (hosts * hosts % spines)
    spread = Shortest().routes(topology, pairs).loads(np.ones(len(pairs)))
    assert float(max(load)) == pytest.approx(spread.max())


def test_hashed_paths_collide_where_spraying_does_not() -> None:
    topology = leaf_spine(8, 8, 8)
    assert busiest(topology, Shortest("hash")) > 1.2 * busiest(topology, Shortest())


def test_dimension_order_turns_once() -> None:
    topology = grid(4, 4, latency=1e-6)
    routes = DimensionOrder().routes(topology, [(0, 15)])
    assert "gpu3-0 -> gpu3-1" in dict(routes.path(0))
    backwards = DimensionOrder(order=(1, 0)).routes(topology, [(0, 15)])
    assert "gpu0-3 -> gpu1-3" in dict(backwards.path(0))
    assert routes.latency == pytest.approx([6e-6])
    assert routes.hops == pytest.approx([6])


def test_dimension_order_walks_round_holes() -> None:
    """A 3 x 3 wafer without its centre: the corner of (1, 0) -> (0, 1) is there, that of (1, 0) -> (2, 1) by way of
    (2, 0) too, while (0, 1) -> (1, 2) by the missing (1, 1) takes the shortest way."""
    places = [(x, y) for x in range(3) for y in range(3) if (x, y) != (1, 1)]
    cables = [
        (i, j)
        for i, a in enumerate(places)
        for j, b in enumerate(places[:i])
        if abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1
    ]
    names = [f"die{x}{y}" for x, y in places]
    wafer = from_cables("wafer", 8, names, cables, bandwidth=1e9, coordinates=np.array(places))
    routes = DimensionOrder().routes(wafer, [(names.index("die01"), names.index("die12"))])
    assert dict(routes.path(0)) == {"die01 -> die02": 1.0, "die02 -> die12": 1.0}


def test_no_coordinates() -> None:
    with pytest.raises(MoesimError, match="no coordinates to route by; choose the routing 'shortest'"):
        DimensionOrder().routes(star(4, 1e9), [(0, 1)])


def rails(nodes: int, devices: int) -> Topology:
    """A leaf switch per rail: device i of every node."""
    names = [f"nic{node}-{rail}" for node in range(nodes) for rail in range(devices)] + [
        f"rail{i}" for i in range(devices)
    ]
    cables = [(node * devices + rail, nodes * devices + rail) for node in range(nodes) for rail in range(devices)]
    outer = from_cables("rails", nodes * devices, names, cables, bandwidth=1e9, level="scale_out")
    return nest([star(devices, 9e9)] * nodes, outer, bandwidth=5e9)


def test_rail_local_crosses_the_node_first() -> None:
    topology = rails(3, 4)
    routes = RailLocal().routes(topology, [(0, 6), (0, 4), (0, 2)])
    way = ["node0/gpu0", "node0/switch", "node0/gpu2", "nic0-2", "rail2", "nic1-2", "node1/gpu2"]
    assert dict(routes.path(0)) == {f"{here} -> {there}": 1.0 for here, there in pairwise(way)}
    assert routes.hops == pytest.approx([6, 4, 2])


def test_without_rail_local_other_rails_are_out_of_reach() -> None:
    """The rails meet nowhere, and devices pass nothing on by themselves."""
    with pytest.raises(MoesimError, match="no path leads from node0/gpu0 to node1/gpu2; add a link between them"):
        Shortest().routes(rails(3, 4), [(0, 6)])


def test_valiant_spreads_over_all_devices() -> None:
    """All to all among n devices of a full mesh by way of each other: 2 (n-1)^2 / n^2 hops of a byte on average."""
    n = 4
    mesh = from_cables("mesh", n, list("abcd"), [(i, j) for i in range(n) for j in range(i)], bandwidth=1e9)
    routes = Valiant().routes(mesh, [(0, 1)])
    assert routes.hops == pytest.approx([(1 + 1 + 2 + 2) / 4])
    assert dict(routes.path(0))["a -> b"] == pytest.approx(0.5)
    drawn = Valiant(relays=2, seed=1).routes(grid(6, 6), [(0, 35)])
    assert drawn.loads([1.0]).sum() == pytest.approx(drawn.hops[0])


def test_paths_by_hand() -> None:
    topology = grid(4, ring=True, latency=1e-6)
    routing = Explicit({(0, 1): [(0, 3, 2, 1), (0, 1)]})
    routes = routing.routes(topology, [(0, 1), (1, 2)])
    assert dict(routes.path(0))["gpu0 -> gpu3"] == 0.5
    assert routes.latency == pytest.approx([3e-6, 1e-6])
    assert routing.loads(topology, [(0, 1)]).loads([2.0]).tolist() == [1.0] * 4
    with pytest.raises(MoesimError, match="no link leads from gpu0 to gpu2"):
        Explicit({(0, 1): [(0, 2, 1)]}).routes(topology, [(0, 1)])
    with pytest.raises(MoesimError, match="begins or ends elsewhere"):
        Explicit({(0, 1): [(0, 3)]}).routes(topology, [(0, 1)])
    along = [topology.link_name(link) for link in path_links(topology, [0, 1, 2])]
    assert along == ["gpu0 -> gpu1", "gpu1 -> gpu2"]


def test_disconnected_devices_are_named() -> None:
    apart = from_cables("two islands", 4, list("abcd"), [(0, 1), (2, 3)], bandwidth=1e9)
    for routing in (Shortest(), Shortest("hash")):
        with pytest.raises(MoesimError, match="two islands: no path leads from b to c"):
            routing.routes(apart, [(0, 1), (1, 2)])
    with pytest.raises(MoesimError, match="no path leads from b to c"):
        Propagation(apart, np.array([(0, 1), (1, 2)]), split=True)
    assert path_costs(apart, np.array([3]))[:, 0].tolist() == [UNREACHABLE, UNREACHABLE, 1, 0]


def test_cheaper_links_are_taken_though_they_are_more() -> None:
    ring = grid(4, ring=True)
    dear = replace(ring, cost=np.where(np.isin(np.arange(8) // 2, [0]), 4, 1))  # gpu0 - gpu1
    routes = shortest_routes(dear, [(0, 1)])
    assert set(dict(routes.path(0))) == {"gpu0 -> gpu3", "gpu3 -> gpu2", "gpu2 -> gpu1"}
    assert path_costs(dear, np.array([1]))[:, 0].tolist() == [3, 0, 1, 2]
    with pytest.raises(MoesimError, match="link gpu0 -> gpu1 costs nothing to shortest routing"):
        replace(ring, cost=np.zeros(8, dtype=np.int64))


def test_devices_of_a_node_never_talk_over_its_network() -> None:
    """Through the network it would be as near: two links to the switch of the node, two to the spine."""
    for inner in (star(8, 9e9), grid(8, ring=True)):
        joined = nest([inner, inner], star(16, 1e9, name="spine", level="scale_out"))
        routes = shortest_routes(joined, [(0, 4), (4, 1), (0, 8)])
        assert all("spine" not in name for pair in (0, 1) for name, _ in routes.path(pair))
        assert dict(routes.path(2)) == {"node0/gpu0 -> spine": 1.0, "spine -> node1/gpu0": 1.0}


def test_ten_thousand_devices() -> None:
    """Any pair is answered without tables of all."""
    tree = leaf_spine(250, 40, 20)
    routes = Shortest().routes(tree, [(0, 9999), (9999, 3), (0, 1)])
    assert routes.hops.tolist() == pytest.approx([4, 4, 2])
    wafer = grid(100, 100)
    assert DimensionOrder().routes(wafer, [(0, 9999)]).hops == pytest.approx([198])
    counts = path_costs(wafer, np.arange(0, 10_000, 1111))
    assert counts[9999, 0] == 198
    assert counts.dtype == np.uint16


def test_more_destinations_than_fit_one_word() -> None:
    torus = grid(9, 15, ring=True)
    counts = path_costs(torus, np.arange(135))
    x, y = (np.abs(c[:, None] - c[None]) for c in np.divmod(np.arange(135), 15))
    assert (counts == np.minimum(x, 9 - x) + np.minimum(y, 15 - y)).all()


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(MoesimError, match="there is no routing policy 'valliant'; did you mean 'valiant'"):
        make_routing("valliant")


POLICIES = ["shortest", "dimension-order", "rail-local", "valiant", "minimal-split"]


@given(st.sampled_from(POLICIES), st.sampled_from(["split", "lowest", "hash"]), st.integers(0, 99))
def test_bytes_in_are_bytes_out_everywhere(name: str, ties: str, seed: int) -> None:
    topology, pairs = grid(3, 4, ring=True, latency=1e-6), all_pairs(12)
    draw = np.random.default_rng(seed)
    traffic = draw.uniform(0, 1e6, (2, len(pairs)))
    routing = make_routing(name, RoutingOptions(ties=ties, seed=seed))  # type: ignore[arg-type]
    folded: PairLoads = routing.loads(topology, pairs)
    loads = np.zeros((2, topology.links))
    loads[:, folded.used] = folded.loads(traffic)
    balance = np.zeros((2, topology.vertices))
    for link in range(topology.links):
        balance[:, topology.source[link]] += loads[:, link]
        balance[:, topology.target[link]] -= loads[:, link]
    for (source, destination), size in zip(pairs, traffic.T, strict=True):
        balance[:, source] -= size
        balance[:, destination] += size
    assert np.abs(balance).max() < 1e-3
    assert loads.sum(axis=1) == pytest.approx(traffic @ folded.hops)
    assert (folded.latency >= folded.hops * 1e-6 - 1e-12).all()


@given(st.booleans(), st.integers(0, 99))
def test_folded_routes_equal_spelled_out_ones(split: bool, seed: int) -> None:
    draw = np.random.default_rng(seed)
    base = grid(4, 5, ring=True)
    seconds, joules = draw.uniform(0, 1, (2, base.links))
    cost = np.repeat(draw.integers(1, 4, base.links // 2), 2)
    topology = replace(base, latency=seconds, energy=joules, cost=cost)
    pairs = draw.integers(0, 20, (60, 2))
    spelled, folded = (
        shortest_routes(topology, pairs, "split" if split else "lowest"),
        Propagation(topology, pairs, split=split),
    )
    traffic = draw.uniform(0, 1, (3, 60))
    assert folded.used.tolist() == spelled.used.tolist()
    assert folded.loads(traffic) == pytest.approx(spelled.loads(traffic))
    for column in ("latency", "energy", "hops"):
        assert getattr(folded, column) == pytest.approx(getattr(spelled, column))
