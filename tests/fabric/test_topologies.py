"""Generated topologies: connected, with the cables, degrees and bisections of their formulas; whole machines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.fabric.links import group_links
from moesim.fabric.network import TopologyFabric
from moesim.fabric.routes import shortest_routes
from moesim.fabric.topologies import endpoints, fabric_topology, machine_routing, machine_topology
from moesim.fabric.topology import Topology
from moesim.hardware.machine import Machine, assemble
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import Library
from moesim.spec.fabric import FabricSpec
from moesim.spec.hardware import DeviceSpec, SystemSpec
from moesim.spec.loading import list_descriptors, load_descriptor, load_system

RATE = 100e9
DIRECT = ["full-mesh", "ring", "line", "mesh", "torus"]
SHAPED = {
    "wafer": {"shape": [8, 8]},
    "tree": {"arity": 3},
    "nop-tree": {"arity": 4},
    "pcie-tree": {"arity": 4},
    "fat-tree": {"leaf": 4},
    "rail": {"leaf": 2},
    "multi-plane": {"leaf": 4, "planes": 2, "striped": True},
    "dragonfly": {"hosts": 2, "routers": 4, "global_links": 2},
    "unified-bus": {"planes": 7},
}


def spec(kind: str, **fields: object) -> FabricSpec:
    common = {"name": kind, "kind": kind, "link": "x", "latency": "1 us", "energy": "8 pJ/byte"}
    return FabricSpec.model_validate(common | SHAPED.get(kind, {}) | fields)


def made(kind: str, devices: int, per_node: int | None = None, **fields: object) -> Topology:
    return fabric_topology(spec(kind, **fields), endpoints(np.full(devices, RATE), per_node))


def cables(topology: Topology) -> int:
    return topology.links // 2


def degrees(topology: Topology) -> list[int]:
    """Cables at each device."""
    return np.bincount(topology.source, minlength=topology.vertices)[: topology.endpoints].tolist()


def bisection(topology: Topology, half: Sequence[int]) -> float:
    """Bytes/s from one set of vertices to all others."""
    inside = np.zeros(topology.vertices, dtype=bool)
    inside[list(half)] = True
    return float(topology.bandwidth[inside[topology.source] & ~inside[topology.target]].sum())


def hops(topology: Topology, one: int, other: int) -> float:
    return float(shortest_routes(topology, [(one, other)]).hops[0])


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
    assert topology.reduces.tolist() == [False] * 17 + [True] * 4
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


# Whole machines


def machine(fabric: dict[str, object] | None, out: dict[str, object], nodes: int, gpus: int, **more: object) -> Machine:
    memory = [{"tier": "hbm", "capacity": "80 GB", "bandwidth": "3 TB/s"}]
    gpu = {"name": "gpu", "kind": "gpu", "family": "hopper", "memory": memory, "links": {"up": "400 GB/s"}}
    slow = {**gpu, "name": "slow", "links": {"up": "100 GB/s"}}
    fabrics = {}
    for name, described in (("inner", fabric), ("outer", out)):
        if described is not None:
            fields = {"name": name, "link": "up" if name == "inner" else "ib", "latency": "1 us", **described}
            fabrics[name] = FabricSpec.model_validate(fields)
    tree = {"devices": {"gpu": gpus}, "nodes": nodes, "nic": "50 GB/s", "scale_out": "outer", **more}
    if fabric is not None:
        tree["fabric"] = "inner"
    library = {each["name"]: DeviceSpec.model_validate(each) for each in (gpu, slow)}
    return assemble(SystemSpec.model_validate(tree), Library.model_construct(devices=library, fabrics=fabrics))


def test_a_machine_of_switches() -> None:
    built = machine(
        {"kind": "switch", "efficiency": 0.5}, {"kind": "switch", "latency": "3 us", "efficiency": 0.8}, 4, 8
    )
    topology = machine_topology(built)
    assert topology.endpoints == 32
    assert topology.vertex_name[:32] == tuple(device.name for device in built.devices)
    assert topology.node_of.tolist() == [device.node for device in built.devices]
    routes = shortest_routes(topology, [(0, 1), (0, 8)])
    assert routes.latency.tolist() == pytest.approx([1e-6, 3e-6])
    assert topology.bandwidth[routes.link[:2]].tolist() == pytest.approx([200e9] * 2)
    assert topology.bandwidth[routes.link[2:]].tolist() == pytest.approx([40e9] * 2)
    assert {topology.level[link] for link in routes.link[2:]} == {"scale_out"}


def test_a_call_within_a_node_does_not_pay_for_the_network() -> None:
    inner, outer = {"kind": "switch", "overhead": "5 us"}, {"kind": "switch", "overhead": "30 us"}
    topology = machine_topology(machine(inner, outer, 2, 4))
    assert group_links(topology, range(4)).overhead == pytest.approx(5e-6)
    assert group_links(topology, range(8)).overhead == pytest.approx(30e-6)
    assert group_links(machine_topology(machine(inner, outer, 1, 4)), range(4)).overhead == pytest.approx(5e-6)


def test_nics_of_several_speeds_in_one_machine() -> None:
    built = machine(
        {"kind": "switch"}, {"kind": "switch"}, 2, 2, devices={"gpu": 1, "slow": 1},
        nic={"gpu": "50 GB/s", "slow": "25 GB/s"},
    )  # fmt: skip
    topology = machine_topology(built)
    routes = shortest_routes(topology, [(0, 2), (1, 3), (0, 1)])
    assert topology.bandwidth[routes.link].tolist() == pytest.approx([50e9, 50e9, 25e9, 25e9, 400e9, 100e9])


def test_rails_over_nodes_are_reached_by_way_of_the_own_node() -> None:
    built = machine({"kind": "switch"}, {"kind": "rail", "leaf": 4, "spines": 0}, 4, 8)
    topology = machine_topology(built)
    assert topology.routing == "rail-local"
    route = machine_routing(built, topology).routes(topology, [(0, 9)])
    assert route.hops[0] == 4  # over the node's switch to device 1, then on its rail
    assert route.latency[0] == pytest.approx(2e-6)


def test_a_unified_bus_shares_the_devices_ports_between_both_levels() -> None:
    inner = {"kind": "unified-bus", "planes": 7, "latency": "0.7 us", "efficiency": 0.8}
    outer = {"kind": "unified-bus", "planes": 7, "switches": 16, "latency": "2.1 us", "efficiency": 0.4}
    topology = machine_topology(machine(inner, outer, 6, 8))
    assert topology.vertices == 48 + 6 * 7 + 7 * 16
    assert cables(topology) == 48 * 7 + 6 * 7 * 16
    routes = shortest_routes(topology, [(0, 1), (0, 8)])
    assert routes.latency.tolist() == pytest.approx([0.7e-6, 2.1e-6])
    node = [*range(8), *(topology.vertex_name.index(f"node0/inner/plane{plane}") for plane in range(7))]
    assert bisection(topology, node) == pytest.approx(8 * 400e9 * 0.4)
    assert bisection(topology, [0]) == pytest.approx(400e9 * 0.8)


def test_a_unified_bus_over_other_nodes_is_refused() -> None:
    outer = {"kind": "unified-bus", "planes": 7}
    with pytest.raises(
        MoesimError, match="outer joins the switches of 7 planes, but inner within the nodes has a switch"
    ):
        machine_topology(machine({"kind": "switch"}, outer, 2, 8))


def test_dies_of_a_package_have_a_link_of_their_own() -> None:
    inner = {"kind": "unified-bus", "planes": 7, "dies": 2, "die_bandwidth": "210 GB/s", "die_latency": "0.2 us"}
    topology = machine_topology(machine(inner, {"kind": "switch"}, 1, 8))
    routes = shortest_routes(topology, [(0, 1), (1, 2)])
    assert routes.hops.tolist() == pytest.approx([1, 2])
    assert routes.latency.tolist() == pytest.approx([0.2e-6, 1e-6])


def test_nodes_of_one_device_need_no_fabric_and_may_form_a_torus() -> None:
    topology = machine_topology(machine(None, {"kind": "torus", "link": "ib"}, 9, 1))
    assert cables(topology) == 18
    assert hops(topology, 0, 4) == 2
    boxes = machine_topology(machine({"kind": "switch"}, {"kind": "ring"}, 4, 2))
    assert 2 <= hops(boxes, 0, 2) <= 3  # by way of device 1, or of the switch to it


@pytest.mark.parametrize("kind", [*DIRECT, *SHAPED])
def test_the_machines_graph_shows_every_form(kind: str) -> None:
    built = machine({"kind": kind, **SHAPED.get(kind, {})}, {"kind": "switch"}, 2, 8)
    direct = kind in DIRECT or kind == "wafer"
    graph = built.graph
    assert all(built.reachable(a, b) for a in built.devices for b in built.devices)
    joined = [(u, v) for u, v in graph.edges if {graph.nodes[u]["kind"], graph.nodes[v]["kind"]} == {"device"}]
    assert bool(joined) == direct
    assert ("node0/inner" in graph) != direct


# The library


@pytest.mark.parametrize("name", list_descriptors("systems"))
def test_every_device_of_a_system_reaches_every_other(name: str) -> None:
    built = assemble(*load_system(name))
    topology = machine_topology(built)
    assert topology.vertex_name[: topology.endpoints] == tuple(device.name for device in built.devices)
    others = np.unique(np.linspace(1, topology.endpoints - 1, 20).astype(int)) if topology.endpoints > 1 else []
    pairs = [(0, int(other)) for other in others] + [(int(other), 0) for other in others]
    if pairs:
        routes = machine_routing(built, topology).routes(topology, pairs)
        assert (routes.latency > 0).all()
        assert (routes.hops >= 1).all()


def test_each_of_seven_links_of_a_full_mesh() -> None:
    """MI300X: 64 GB/s to each other device, so that 2, 4, 8 devices gather at 1 : 3 : 7 times a link."""
    topology = machine_topology(assemble(*load_system("mi300x-8")))
    efficiency = load_descriptor("fabrics", "xgmi-mesh").efficiency
    assert (topology.bandwidth / efficiency).tolist() == pytest.approx([64e9] * 56)
    for n, links in ((2, 1), (4, 3), (8, 7)):
        assert np.count_nonzero((topology.target == 0) & (topology.source < n)) == links


def test_published_sizes_of_machines() -> None:
    """CloudMatrix384: 48 x 7 switches in nodes and 7 x 16 above (arXiv 2506.12708). 2048 devices on rails: 8 rails x 8
    leaves of 32 ports down, 32 spines. A slice of TPU v5p: 3 cables per chip."""
    matrix = machine_topology(assemble(*load_system("cloudmatrix384")))
    assert matrix.vertices - matrix.endpoints == 48 * 7 + 7 * 16
    rails = machine_topology(assemble(*load_system("h800-rail-2048")))
    assert rails.vertices - rails.endpoints == 256 + 64 + 32
    planes = machine_topology(assemble(*load_system("h800-planes-2048")))
    assert planes.vertices - planes.endpoints == 256 + 8 * (8 + 32)
    cube = machine_topology(assemble(*load_system("tpu-v5p-64")))
    assert cables(cube) == 3 * 64
    assert degrees(cube) == [6] * 64


def test_more_devices_than_links_in_a_full_mesh_are_refused() -> None:
    with pytest.raises(MoesimError, match="each of 9 devices has 7 links, too few to reach all others; use at most 8"):
        assemble(*load_system("mi300x-8", ["devices.mi300x=9"]))


def test_an_all_reduce_on_a_full_mesh_takes_what_was_measured() -> None:
    """RCCL, 8 MiB over eight MI300X: 91.1 us."""
    topology = machine_topology(assemble(*load_system("mi300x-8")))
    taken = TopologyFabric(topology).all_reduce(8 * 2**20, range(8))
    assert int(taken.picoseconds) / 1e6 == pytest.approx(91.1, rel=0.01)
