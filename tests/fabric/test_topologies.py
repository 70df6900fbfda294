"""Generated topologies: connected, with the cables, degrees and bisections of their formulas."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.fabric.routes import shortest_routes
from moesim.spec.errors import MoesimError

from .generated import DIRECT, RATE, SHAPED, bisection, cables, degrees, hops, made


@settings(max_examples=40)
@given(st.sampled_from([*DIRECT, *SHAPED, "switch", "host-bridge"]), st.integers(2, 48))
def test_every_device_reaches_every_other_and_cables_work_both_ways(kind: str, devices: int) -> None:
    topology = made(kind, devices, per_node=8)
    ends = Counter(zip(topology.source.tolist(), topology.target.tolist(), topology.bandwidth.tolist(), strict=True))
    assert ends == Counter({(b, a, rate): count for (a, b, rate), count in ends.items()})
    pairs = [(0, i) for i in range(1, devices)] + [(i, 0) for i in range(1, devices)]
    routes = shortest_routes(topology, pairs)
    assert (routes.latency >= 1e-6 - 1e-18).all()
    into = np.bincount(topology.target, topology.bandwidth, topology.vertices)[:devices]
    assert (into <= RATE * (1 + 1e-9)).all()  # no device gets more than its port carries
    assert len(set(topology.vertex_name)) == topology.vertices


@given(st.integers(3, 30))
def test_lines_rings_and_full_meshes(n: int) -> None:
    line, ring, mesh = made("line", n), made("ring", n), made("full-mesh", n)
    assert (cables(line), cables(ring), cables(mesh)) == (n - 1, n, n * (n - 1) // 2)
    assert degrees(ring) == [2] * n
    assert degrees(mesh) == [n - 1] * n
    assert degrees(line) == [1, *[2] * (n - 2), 1]
    assert hops(ring, 0, n // 2) == n // 2
    assert hops(line, 0, n - 1) == n - 1
    assert bisection(ring, range(n // 2)) == 2 * RATE / 2
    assert bisection(mesh, range(n // 2)) == pytest.approx((n // 2) * (n - n // 2) * RATE / (n - 1))


@pytest.mark.parametrize("k", [3, 4, 5])
def test_squares_and_cubes(k: int) -> None:
    """k x k mesh: 2k(k-1) cables; torus: 2k^2; k^3 torus: 3k^3. Bisection of even k: k links, 2k, 2k^2."""
    mesh, torus, cube = made("mesh", k * k), made("torus", k * k), made("torus", k**3, dimensions=3)
    assert (cables(mesh), cables(torus), cables(cube)) == (2 * k * (k - 1), 2 * k * k, 3 * k**3)
    assert degrees(torus) == [4] * k**2
    assert degrees(cube) == [6] * k**3
    assert sorted(Counter(degrees(mesh)).items())[:2] == [(2, 4), (3, 4 * (k - 2))]
    assert hops(mesh, 0, k * k - 1) == 2 * (k - 1)
    assert hops(cube, 0, k**3 - 1) == 3
    if k % 2 == 0:
        half = range(k * k // 2)
        assert bisection(mesh, half) == k * RATE / 4
        assert bisection(torus, half) == 2 * k * RATE / 4
        assert bisection(cube, range(k**3 // 2)) == pytest.approx(2 * k**2 * RATE / 6)


def test_grids_say_where_devices_are_and_how_to_route() -> None:
    topology = made("mesh", 6, shape=[2, 3])
    assert topology.coordinates is not None
    assert topology.coordinates.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert topology.routing == "dimension-order"
    assert made("mesh", 6, shape=[2, 3], routing="valiant").routing == "valiant"


def test_a_torus_around_two_has_both_links() -> None:
    topology = made("torus", 8, shape=[2, 4])
    assert cables(topology) == 16
    assert degrees(topology) == [4] * 8
    assert bisection(topology, range(4)) == 8 * RATE / 4


def test_a_shape_that_the_devices_do_not_fill_is_refused() -> None:
    with pytest.raises(MoesimError, match="torus: a torus of 4 x 4 has 16 sites for 8 devices"):
        made("torus", 8, shape=[4, 4])


def test_holes_of_a_wafer_are_gone_and_spare_sites_pass_traffic_on() -> None:
    """A column of three whose middle is missing: around it, over sites without a device."""
    topology = made("wafer", 4, shape=[3, 2], holes=[[1, 0]])
    assert topology.vertices == 5
    assert topology.coordinates is not None
    assert topology.coordinates.tolist() == [[0, 0], [0, 1], [1, 1], [2, 0], [2, 1]]
    assert hops(topology, 0, 3) == 4
    assert cables(topology) == 4
    with pytest.raises(MoesimError, match="5 of the 6 sites of the wafer work, too few for 6 devices"):
        made("wafer", 6, shape=[3, 2], holes=[[1, 0]])


def test_drawn_defects_are_the_same_for_a_seed() -> None:
    one, same, other = (made("wafer", 40, shape=[10, 10], defects=0.2, seed=seed) for seed in (1, 1, 2))
    assert one.coordinates is not None
    assert one.coordinates.tolist() == same.coordinates.tolist()  # type: ignore[union-attr]
    assert one.coordinates.tolist() != other.coordinates.tolist()  # type: ignore[union-attr]
    assert 70 <= one.vertices <= 90


@given(st.integers(2, 60), st.integers(2, 8))
def test_trees(n: int, arity: int) -> None:
    """Every vertex but the root hangs on one cable."""
    topology = made("tree", n, arity=arity)
    assert cables(topology) == topology.vertices - 1
    assert degrees(topology) == [1] * n
    height = max(math.ceil(math.log(n, arity) - 1e-9), 1)
    assert max(hops(topology, 0, i) for i in (1, n - 1)) <= 2 * height


def test_a_network_on_package() -> None:
    """One root chiplet, four switches, sixteen leaves: four hops between leaves of two switches, two to the root."""
    topology = made("nop-tree", 17, root="device")
    assert (topology.vertices, cables(topology)) == (21, 20)
    assert (hops(topology, 0, 1), hops(topology, 1, 2), hops(topology, 1, 16)) == (2, 2, 4)
    assert topology.reduces is not None
    assert topology.reduces.tolist() == [True] + [False] * 16 + [True] * 4
    assert topology.passes.tolist() == [True] + [False] * 16 + [True] * 4
    by_switch = made("nop-tree", 16)
    assert by_switch.vertices == 16 + 5


def test_devices_behind_a_pcie_switch_share_its_uplink() -> None:
    topology = made("pcie-tree", 8, roots=2, root_link="20 GB/s", hop_latency="0.5 us")
    assert (topology.vertices, cables(topology)) == (8 + 2 + 2, 8 + 2 + 1)
    assert shortest_routes(topology, [(0, 3), (0, 4)]).latency.tolist() == pytest.approx([1e-6, 1e-6 + 3 * 0.5e-6])
    assert bisection(topology, [0, 1, 2, 3, topology.vertex_name.index("pcie-tree/switch0")]) == RATE
    half = [0, 1, 2, 3, *(topology.vertex_name.index(f"pcie-tree/{name}") for name in ("switch0", "root0"))]
    assert bisection(topology, half) == 20e9


@pytest.mark.parametrize(("over", "spines"), [(1.0, 4), (2.0, 2), (4.0, 1)])
def test_fat_trees_carry_up_what_they_carry_down_over_the_oversubscription(over: float, spines: int) -> None:
    topology = made("fat-tree", 16, oversubscription=over)
    leaves = [topology.vertex_name.index(f"fat-tree/leaf{i}") for i in range(4)]
    assert topology.vertices == 16 + 4 + spines
    assert cables(topology) == 16 + 4 * spines
    for number, leaf in enumerate(leaves):
        below = range(4 * number, 4 * number + 4)
        assert bisection(topology, [*below, leaf]) == pytest.approx(4 * RATE / over)


def test_a_third_tier_joins_pods_without_blocking() -> None:
    """Three tiers of switches with 8 ports: 16 pods of 4 leaves with 4 devices would need 16 cores per spine."""
    topology = made("fat-tree", 64, pod=4)
    inside = [v for v, name in enumerate(topology.vertex_name) if name.startswith("fat-tree/pod0")]
    pod = [*range(16), *inside, *(topology.vertex_name.index(f"fat-tree/leaf{i}") for i in range(4))]
    assert bisection(topology, pod) == pytest.approx(16 * RATE)
    assert (hops(topology, 0, 1), hops(topology, 0, 5), hops(topology, 0, 63)) == (2, 4, 6)
    assert topology.vertices == 64 + 16 + 4 * 4 + 4 * 4
    assert cables(topology) == 64 + 16 * 4 + 16 * 4


def test_rails_join_the_devices_of_one_index() -> None:
    topology = made("rail", 32, per_node=4, leaf=4)
    assert topology.routing == "rail-local"
    assert topology.vertices == 32 + 8 + 4  # 4 rails x 2 leaves, 4 spines
    assert (hops(topology, 0, 4), hops(topology, 0, 16), hops(topology, 0, 1)) == (2, 4, 4)
    apart = made("rail", 32, per_node=4, leaf=8, spines=0)
    assert apart.vertices == 32 + 4
    with pytest.raises(MoesimError, match="no path leads from gpu0 to gpu1"):
        shortest_routes(apart, [(0, 1)])


def test_planes_do_not_meet_unless_they_are_striped() -> None:
    apart, striped = (made("multi-plane", 16, per_node=4, planes=4, leaf=2, striped=each) for each in (False, True))
    with pytest.raises(MoesimError, match="no path"):
        shortest_routes(apart, [(0, 1)])
    assert hops(apart, 0, 12) == 4
    assert apart.routing == "rail-local"
    assert degrees(apart) == [1] * 16
    assert degrees(striped) == [4] * 16
    assert hops(striped, 0, 1) == 2
    route = shortest_routes(striped, [(0, 15)])
    assert route.fraction[np.isin(route.link, np.flatnonzero(striped.source == 0))].tolist() == [0.25] * 4


@given(st.integers(1, 3), st.integers(2, 4), st.integers(1, 3), st.data())
def test_dragonflies(hosts: int, routers: int, links: int, data: st.DataObject) -> None:
    """Groups are complete graphs of routers, and so is the graph of groups; no router has more than its links out."""
    groups = data.draw(st.integers(2, routers * links + 1))
    topology = made("dragonfly", groups * hosts * routers, hosts=hosts, routers=routers, global_links=links)
    copies = routers * links // (groups - 1)
    local, between = groups * math.comb(routers, 2), copies * math.comb(groups, 2)
    assert cables(topology) == groups * hosts * routers + local + between
    group = [name.partition("-")[0] for name in topology.vertex_name]
    n = topology.endpoints
    outside = [
        (u, v)
        for u, v in zip(topology.source.tolist(), topology.target.tolist(), strict=True)
        if u >= n and v >= n and group[u] != group[v]
    ]
    assert max(Counter(u for u, _ in outside).values()) <= links
    assert set(Counter((group[u], group[v]) for u, v in outside).values()) == {copies}
    assert max(hops(topology, 0, i) for i in range(1, n)) <= 5


def test_groups_that_cannot_reach_each_other_are_refused() -> None:
    with pytest.raises(MoesimError, match="80 devices make 10 groups of 8, and the 4 routers of a group have 8 links"):
        made("dragonfly", 80)


def test_energy_of_a_message_is_that_of_the_fabric() -> None:
    for kind in ("switch", "ring", "unified-bus"):
        assert shortest_routes(made(kind, 4), [(0, 1)]).energy[0] == pytest.approx(8e-12), kind
