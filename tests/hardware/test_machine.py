"""Machines assembled from descriptors: what is in the graph, how fast its ports are, and what cannot be built."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.hardware.machine import Machine, assemble
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import Library
from moesim.spec.hardware import DeviceSpec, FabricSpec, SystemSpec


@pytest.fixture(scope="session")
def library(devices: dict[str, DeviceSpec], fabrics: dict[str, FabricSpec]) -> Library:
    return Library(devices=devices, fabrics=fabrics)


def build(library: Library, **system: object) -> Machine:
    return assemble(SystemSpec.model_validate(system), library)


@pytest.fixture(scope="session")
def mixed(library: Library) -> Machine:
    """Two nodes, each with GPUs of two kinds, a drive that computes, a host and a drive."""
    return build(
        library,
        devices={"h200-sxm": 2, "rtx-pro-6000": 1, "inst-csd": 1},
        fabric="pcie5-host",
        host={"xeon-8480-plus": 1},
        storage={"samsung-pm9a3": 2},
        nodes=2,
        scale_out="ib-ndr400",
        nic="50 GB/s",
    )


def test_rank_order_is_node_major_and_as_listed(mixed: Machine) -> None:
    assert [device.name for device in mixed.devices] == [
        "node0/h200-sxm0", "node0/h200-sxm1", "node0/rtx-pro-6000-0", "node0/inst-csd0",
        "node1/h200-sxm0", "node1/h200-sxm1", "node1/rtx-pro-6000-0", "node1/inst-csd0",
    ]  # fmt: skip
    assert [device.index for device in mixed.devices] == list(range(8))
    assert [device.node for device in mixed.devices] == [0] * 4 + [1] * 4
    assert mixed.devices_of(1) == mixed.devices[4:]
    assert len(mixed.hosts) == 2
    assert len(mixed.storage) == 4


def test_graph_holds_every_part(mixed: Machine) -> None:
    kinds = [data["kind"] for _, data in mixed.graph.nodes(data=True)]
    # Per node: h200 has HBM, rtx GDDR, csd flash, the host DDR, each drive flash: 2 + 1 + 1 + 1 + 2 tiers.
    expected = {"device": 8, "host": 2, "storage": 4, "memory": 14, "host-bridge": 2, "switch": 1, "nic": 8}
    assert {kind: kinds.count(kind) for kind in set(kinds)} == expected
    data = mixed.graph.nodes["node0/h200-sxm0"]
    assert [engine.kind for engine in data["engines"]] == ["compute", "copy", "copy"]
    assert [tier.tier for tier in data["tiers"]] == ["hbm"]
    assert data["subject"] is mixed.devices[0]
    assert not any(engine.kind == "compute" for engine in mixed.storage[0].engines)


def test_edges_carry_what_the_descriptors_say(mixed: Machine) -> None:
    edges = mixed.graph.edges
    assert edges["node0/h200-sxm0/hbm", "node0/h200-sxm0"]["bandwidth"] == 4.8e12
    assert edges["node0/samsung-pm9a3-0/flash", "node0/samsung-pm9a3-0"]["bandwidth"] == 6.9e9
    assert edges["node0/samsung-pm9a3-0", "node0/samsung-pm9a3-0/flash"]["bandwidth"] == pytest.approx(4.1e9)
    way = ["node0/h200-sxm0", "node0/pcie5-host", "node0/rtx-pro-6000-0"]
    hops = [edges[pair] for pair in pairwise(way)]
    assert sum(hop["latency"] for hop in hops) == pytest.approx(1.5e-6)
    assert sum(hop["energy"] for hop in hops) == pytest.approx(5.5e-12 * 8)


def test_every_pair_of_devices_hosts_and_drives_is_connected(mixed: Machine) -> None:
    parts = [*mixed.devices, *mixed.hosts, *mixed.storage]
    assert all(mixed.reachable(a, b) for a in parts for b in parts)


def test_a_path_between_nodes_leads_over_the_network(mixed: Machine) -> None:
    import networkx as nx

    path = nx.shortest_path(mixed.graph, "node0/h200-sxm1", "node1/h200-sxm0")
    assert path == ["node0/h200-sxm1", "node0/h200-sxm1/nic", "ib-ndr400", "node1/h200-sxm0/nic", "node1/h200-sxm0"]


def test_ports_are_capped_by_device_fabric_and_efficiency(library: Library) -> None:
    h800 = build(
        library, devices={"h800-sxm": 8}, fabric="nvlink4-switch", nodes=2, scale_out="ib-ndr400", nic="100 GB/s"
    )
    efficiency = library.fabrics["nvlink4-switch"].efficiency
    assert h800.port_bandwidth(h800.devices[0], "scale_up") == pytest.approx(200e9 * efficiency)  # not 450
    assert h800.port_bandwidth(h800.devices[0], "scale_out") == pytest.approx(50e9 * 0.8)  # not 100
    cheap = build(library, devices={"l40s": 8}, fabric="pcie4-host", nodes=2, scale_out="ib-ndr400", nic="50 GB/s")
    assert cheap.port_bandwidth(cheap.devices[0], "scale_out") == pytest.approx(31.5e9 * 0.8, rel=0.001)  # PCIe 4.0
    processor = build(library, devices={"rtx4090": 1, "xeon-8480-plus": 1}, fabric="pcie4-host")
    slot = processor.port_bandwidth(processor.devices[1], "scale_up")
    assert slot == processor.port_bandwidth(processor.devices[0], "scale_up")  # x16, not the 80 lanes of the socket


def test_own_ports_lead_out_where_there_is_no_nic(library: Library) -> None:
    pods = build(library, devices={"ascend-910c": 8}, fabric="ub-node", nodes=3, scale_out="ub-supernode")
    assert pods.port_bandwidth(pods.devices[0], "scale_out") == pytest.approx(392e9 * 0.77)
    assert pods.reachable(pods.devices[0], pods.devices[-1])


def test_narrow_dtypes_run_in_the_next_wider_one(library: Library) -> None:
    a100 = build(library, devices={"a100-80-sxm": 1}).devices[0]
    assert a100.peak("fp16") == a100.peak("bf16") == 312e12
    assert a100.peak("fp8") == 312e12  # int8 units are no help to floating point
    assert a100.peak("int4") == 624e12
    assert a100.runs_as["fp8"] == "bf16"
    b200 = build(library, devices={"b200-sxm": 1}).devices[0]
    assert b200.peak("fp4") == 9000e12
    h200 = build(library, devices={"h200-sxm": 1}).devices[0]
    assert h200.peak("fp4") == 1979e12
    assert h200.energy_per_flop("fp4") == h200.energy_per_flop("fp8")
    milan = build(library, devices={"epyc-7763": 1}).devices[0]
    assert milan.peak("bf16") == 5.0e12  # fp32, no matrix units


def test_gaps_are_filled_from_the_family(library: Library) -> None:
    h200 = build(library, devices={"h200-sxm": 1}).devices[0]
    assert h200.idle_power == pytest.approx(0.105 * 700)
    assert h200.memory.energy == pytest.approx(13.4e-12 * 8)
    h100 = build(library, devices={"h100-sxm": 1}).devices[0]
    assert h100.idle_power == 75
    bank = build(library, devices={"duplex-bank-pim": 1}).devices[0]
    assert bank.memory.energy == pytest.approx(0.55e-12 * 8)
    assert bank.memory.compute_bandwidth == pytest.approx(16 * 670.4e9, rel=0.001)


def test_weights_live_beside_the_scratchpad(library: Library) -> None:
    assert build(library, devices={"sn40l": 1}).devices[0].memory.tier == "hbm"
    assert build(library, devices={"wse-3": 1}).devices[0].memory.tier == "sram"


@pytest.mark.parametrize(
    ("system", "said"),
    [
        ({"devices": {"rtx-pro-6000": 2}}, ["rtx-pro-6000", "2 devices and no fabric", "(pcie)"]),
        (
            {"devices": {"h200-sxm": 4, "rtx-pro-6000": 1}, "fabric": "nvlink4-switch"},
            ["rtx-pro-6000", "'nvlink4'", "only pcie", "choose a fabric on a port that all devices have (pcie)"],
        ),
        ({"devices": {"wse-3": 1, "h200-sxm": 1}, "fabric": "pcie5-host"}, ["wse-3", "no ports", "leave it out"]),
        ({"devices": {"wse-3": 2}}, ["wse-3", "give the devices a common port"]),
        (
            {"devices": {"h200-sxm": 8}, "fabric": "nvlink4-switch", "nodes": 2},
            ["2 nodes", "node1/h200-sxm", "scale_out"],
        ),
        (
            {"devices": {"h200-sxm": 1}, "nodes": 2, "scale_out": "ib-ndr400"},
            ["h200-sxm", "'ib'", "add nic"],
        ),
        ({"devices": {"h200-sxm": 1}, "storage": {"micron-9550": 1}}, ["micron-9550", "add a host"]),
        (
            {"devices": {"wse-3": 1}, "host": {"epyc-9654": 1}},
            ["epyc-9654", "choose another host, or leave it out, or give a device a pcie link"],
        ),
        ({"devices": {"h300": 1}}, ["'h300'"]),
    ],
)  # fmt: skip
def test_what_no_link_reaches_is_refused(library: Library, system: dict[str, object], said: list[str]) -> None:
    with pytest.raises(MoesimError) as error:
        build(library, **system)
    assert all(part in str(error.value) for part in said), str(error.value)


def test_a_machine_without_a_fabric_has_no_such_port(library: Library) -> None:
    single = build(library, devices={"h200-sxm": 1})
    assert single.scale_up(0) is None
    assert single.scale_out is None
    with pytest.raises(MoesimError, match="no scale_out port"):
        single.port_bandwidth(single.devices[0], "scale_out")
    with pytest.raises(MoesimError, match="no node 1"):
        single.scale_up(1)


def test_an_unknown_family_is_named(library: Library) -> None:
    odd = library.devices["h200-sxm"].model_copy(update={"family": "hoper"})
    with pytest.raises(MoesimError, match=r"'hoper', of device h200-sxm; did you mean 'hopper'"):
        assemble(SystemSpec(devices={"h200-sxm": 1}), Library(devices={"h200-sxm": odd}))


PLUGGED = ["h200-sxm", "b200-sxm", "rtx-pro-6000", "l40s", "mi300x", "gaudi-3", "xeon-8480-plus", "inst-csd"]


@settings(max_examples=25, deadline=None)
@given(
    counts=st.dictionaries(st.sampled_from(PLUGGED), st.integers(1, 4), min_size=1, max_size=4),
    nodes=st.integers(1, 3),
    hosts=st.integers(0, 2),
)
def test_any_mix_on_a_common_bus_is_connected(
    library: Library, counts: dict[str, int], nodes: int, hosts: int
) -> None:
    machine = build(
        library, devices=counts, fabric="pcie5-host", nodes=nodes, scale_out="ib-ndr400", nic="50 GB/s",
        host={"epyc-9654": hosts} if hosts else {},
    )  # fmt: skip
    assert len(machine.devices) == nodes * sum(counts.values())
    assert len(machine.hosts) == nodes * hosts
    assert [device.index for device in machine.devices] == list(range(len(machine.devices)))
    import networkx as nx

    assert nx.is_strongly_connected(machine.graph)
    for device in machine.devices:
        own = device.spec.links["pcie"]
        assert 0 < machine.port_bandwidth(device, "scale_up") <= own
        assert 0 < machine.port_bandwidth(device, "scale_out") <= min(own, 50e9)
