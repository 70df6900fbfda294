"""Topologies of whole machines: nodes and what joins them, and those of the library."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.fabric.links import group_links
from moesim.fabric.network import TopologyFabric
from moesim.fabric.routes import shortest_routes
from moesim.fabric.topologies import machine_routing, machine_topology
from moesim.hardware.machine import Machine, assemble
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import Library
from moesim.spec.fabric import FabricSpec
from moesim.spec.hardware import DeviceSpec, SystemSpec
from moesim.spec.loading import list_descriptors, load_descriptor, load_system

from .generated import DIRECT, SHAPED, bisection, cables, degrees, hops


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
