"""Machines of the library under measured libraries."""

import numpy as np
import pytest

from moesim.fabric.library import CalibratedFabric, machine_expert_protocol, machine_protocol
from moesim.fabric.switch import SwitchFabric
from moesim.fabric.transfer import picoseconds
from moesim.hardware.machine import Machine, assemble
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
