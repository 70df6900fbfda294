"""Machines of the library under measured libraries."""

import numpy as np
import pytest

from moesim.fabric.expert_protocol import ExpertLoad
from moesim.fabric.library import (
    CalibratedFabric,
    expert_kernels,
    library_fabric,
    machine_expert_protocol,
    machine_protocol,
)
from moesim.fabric.machines import machine_fabric
from moesim.fabric.scaled import scaled_experts, scaled_fabric
from moesim.fabric.switch import SwitchFabric
from moesim.fabric.transfer import picoseconds
from moesim.hardware.machine import Machine, assemble
from moesim.spec.dispatch import DispatchSpec
from moesim.spec.loading import load_system


def machine(name: str, *overrides: str) -> Machine:
    return assemble(*load_system(name, overrides))


def test_calls_within_a_node_take_what_was_measured_and_others_what_the_closed_form_says() -> None:
    two = machine("dgx-h100", "nodes=2")
    protocol = machine_protocol(two)
    assert protocol is not None
    plain = SwitchFabric(two)
    fabric = CalibratedFabric(plain, protocol)
    node, sizes = tuple(range(8)), np.array([1e3, 1e6, 1e9])
    chunks = np.repeat(sizes[:, None] / 8, 8, axis=1)
    for found, operation in (
        (fabric.all_reduce(sizes, node), "all_reduce"),
        (fabric.all_gather(chunks, node), "all_gather"),
        (fabric.reduce_scatter(chunks, node), "reduce_scatter"),
        (fabric.all_to_all(chunks[:, None, :].repeat(8, axis=1), node), "all_to_all"),
        (fabric.send(sizes, 0, 1), "send"),
    ):
        expected = picoseconds(protocol.seconds(operation, sizes, 8))
        np.testing.assert_allclose(found.picoseconds, expected, rtol=1e-9)
    both = tuple(range(16))
    assert fabric.all_reduce(1e6, both).picoseconds == plain.all_reduce(1e6, both).picoseconds
    assert fabric.ports(node) is plain.ports(node)
    assert fabric.origin == "nccl-2.29.2 measured on h100-sxm"


def test_machines_that_nothing_was_measured_on() -> None:
    assert machine_protocol(machine("mi300x-8")) is None
    assert machine_protocol(machine("gh200-1")) is None
    assert machine_expert_protocol(machine("mi300x-8")) is None


def test_ports_of_the_machine_are_those_of_the_protocol() -> None:
    """H800: the H100's terms on 200 GB/s of NVLink and 50 GB/s of InfiniBand."""
    protocol = machine_protocol(machine("hgx-h800"))
    assert protocol is not None
    assert protocol.port == pytest.approx(200e9)
    assert "taken over from h" in protocol.origin
    experts = machine_expert_protocol(machine("hgx-h800"))
    assert experts is not None
    assert (experts.port, experts.nic) == pytest.approx((200e9, 50e9))


def test_algorithms_chosen_size_by_size_are_paced_too() -> None:
    """On a tree of PCIe switches `auto` takes another algorithm for other sizes; measured calls take their own time."""
    tree = machine("l40s-8-switched")
    protocol = machine_protocol(tree)
    assert protocol is not None
    sizes = np.array([1e3, 1e6, 1e9])
    paced = CalibratedFabric(machine_fabric(tree), protocol).all_reduce(sizes, range(8))
    np.testing.assert_allclose(paced.picoseconds, picoseconds(protocol.seconds("all_reduce", sizes, 8)), rtol=1e-9)
    assert int(paced.at(1).picoseconds) == int(paced.picoseconds[1])
    assert paced.at(1).algorithm == protocol.library


def test_the_summary_says_which_library_or_why_none() -> None:
    said = {
        "dgx-h100": "collectives: nccl-2.29.2 measured on h100-sxm",
        "mi300x-8": "collectives: closed forms, as nccl was not measured over xgmi",
        "gh200-1": "collectives: closed forms, as a node holds one device",
    }
    for name, sentence in said.items():
        one = machine(name)
        assert library_fabric(one, machine_fabric(one), ("nccl",), within_a_node=True)[1].startswith(sentence)
    one = machine("dgx-h100")
    plain = machine_fabric(one)
    assert library_fabric(one, plain, (), within_a_node=True) == (
        plain, "collectives: closed forms, as the engine names no library",
    )  # fmt: skip
    assert "span several nodes" in library_fabric(one, plain, ("nccl",), within_a_node=False)[1]


def test_kernels_that_dispatch_by_form_and_span() -> None:
    one, two = machine("dgx-h100"), machine("dgx-h100", "nodes=2", "scale_out=ib-ndr400")
    asked = {form: DispatchSpec(form=form, library="deepep") for form in ("per-expert", "per-node", "per-device")}
    kernels, said = expert_kernels(one, asked["per-expert"], several_nodes=False)
    assert kernels is not None
    assert kernels.mode == "low_latency"
    assert "low-latency mode of deepep" in said
    kernels, _ = expert_kernels(two, asked["per-node"], several_nodes=True)
    assert kernels is not None
    assert kernels.mode == "normal"
    assert said.endswith(kernels.protocol.origin)
    assert kernels.protocol.scattered_origin != kernels.protocol.origin
    load = ExpertLoad(128.0, 1024.0, 448.0, 512.0)
    there, back = kernels.both_ways(load, (7168.0, 14336.0), experts=256, nodes=2)
    assert there == kernels.protocol.seconds("dispatch", load, 7168.0, experts=256, nodes=2)
    assert back == kernels.protocol.seconds("combine", load, 14336.0, experts=256, nodes=2)
    assert expert_kernels(two, asked["per-device"], several_nodes=True)[0] is None
    assert expert_kernels(one, DispatchSpec(), several_nodes=False) == (None, "dispatch: per-expert, by closed form")
    assert "not measured over xgmi" in expert_kernels(machine("mi300x-8"), asked["per-node"], several_nodes=False)[1]


def test_launches_and_rounds_of_a_library_are_scaled_and_nothing_else() -> None:
    """Twice of them add one launch and n - 1 rounds to every call within a node, whatever its size."""
    one = machine("dgx-h100")
    protocol = machine_protocol(one)
    assert protocol is not None
    fabric, node = CalibratedFabric(SwitchFabric(one), protocol), tuple(range(8))
    twice = scaled_fabric(fabric, {}, launch=2.0)
    added = twice.all_reduce([1e3, 1e6, 1e9], node).picoseconds - fabric.all_reduce([1e3, 1e6, 1e9], node).picoseconds
    terms = protocol.of("all_reduce")
    np.testing.assert_allclose(added, picoseconds(terms.launch + 7 * terms.round), atol=2)
    assert scaled_fabric(fabric, {}) is fabric


def test_launches_and_hops_of_expert_kernels_are_scaled_and_nothing_else() -> None:
    kernels, _ = expert_kernels(machine("dgx-h100"), DispatchSpec(form="per-device", library="deepep"), False)
    assert kernels is not None
    load = ExpertLoad(tokens=4096.0, copies=20000.0, up=15000.0)
    twice = scaled_experts(kernels, {}, launch=2.0)
    assert twice is not None
    both = [each.both_ways(load, (7168.0, 14336.0), experts=256, nodes=1) for each in (kernels, twice)]
    launches = [kernels.protocol.terms["normal", way].launch for way in ("dispatch", "combine")]
    np.testing.assert_allclose(both[1] - both[0], launches, rtol=1e-6)
    assert scaled_experts(kernels, {}) is kernels
