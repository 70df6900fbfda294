"""The switch fabric on assembled machines: ports, caps, efficiencies, and groups inside and across nodes."""

import numpy as np
import pytest

from moesim.fabric.switch import SwitchFabric, group_ports
from moesim.hardware.machine import Machine, assemble
from moesim.spec.experiment import Library
from moesim.spec.hardware import DeviceSpec, FabricSpec, SystemSpec


def machine(nodes: int = 2) -> Machine:
    memory = [{"tier": "hbm", "capacity": "80 GB", "bandwidth": "3 TB/s"}]
    common = {"kind": "gpu", "family": "hopper", "memory": memory}
    devices = {
        "big": DeviceSpec.model_validate({"name": "big", "links": {"nvlink": "450 GB/s"}, **common}),
        "small": DeviceSpec.model_validate({"name": "small", "links": {"nvlink": "100 GB/s"}, **common}),
    }
    up = {"name": "up", "kind": "switch", "link": "nvlink", "bandwidth": "400 GB/s", "efficiency": 0.5}
    up |= {"latency": "2 us", "overhead": "1 us", "energy": "10 pJ/byte"}
    out = {"name": "out", "kind": "switch", "link": "ib", "latency": "5 us", "overhead": "3 us", "efficiency": 0.8}
    fabrics = {"up": FabricSpec.model_validate(up), "out": FabricSpec.model_validate(out)}
    system = {"devices": {"big": 1, "small": 1}, "fabric": "up", "nodes": nodes, "nic": "50 GB/s", "scale_out": "out"}
    library = Library.model_construct(devices=devices, fabrics=fabrics)
    return assemble(SystemSpec.model_validate(system), library)


def test_ports_are_capped_by_the_fabric_and_derated_by_its_efficiency() -> None:
    ports = group_ports(machine(), (0, 1))
    assert ports.up_bandwidth.tolist() == pytest.approx([200e9, 50e9])
    assert (ports.up_latency, ports.overhead, ports.up_energy) == pytest.approx((2e-6, 1e-6, 1e-11))
    assert not ports.several_nodes
    assert ports.out_bandwidth.tolist() == [0, 0]


def test_ports_of_a_group_over_nodes() -> None:
    ports = group_ports(machine(), (0, 1, 2, 3))
    assert ports.node.tolist() == [0, 0, 1, 1]
    assert ports.out_bandwidth.tolist() == pytest.approx([40e9] * 4)
    assert (ports.out_latency, ports.overhead) == pytest.approx((5e-6, 3e-6))
    alone = group_ports(machine(), (1, 3))
    assert np.isinf(alone.up_bandwidth).all()


def test_collectives_between_devices() -> None:
    fabric = SwitchFabric(machine())
    inside = fabric.all_reduce(8e6, (0, 1)).picoseconds
    assert inside / 1e12 == pytest.approx(1e-6 + 2 * (2e-6 + 4e6 / 50e9))
    across = fabric.send(8e6, 1, 2).picoseconds
    assert across / 1e12 == pytest.approx(3e-6 + 5e-6 + 8e6 / 40e9)
    traffic = np.zeros((4, 4))
    traffic[0, 1], traffic[0, 2] = 1e6, 2e6
    both = fabric.all_to_all(traffic, (0, 1, 2, 3)).picoseconds
    assert both / 1e12 == pytest.approx(3e-6 + max(2e-6 + 1e6 / 50e9, 5e-6 + 2e6 / 40e9))


def test_a_shuffled_group_takes_as_long_as_a_sorted_one() -> None:
    fabric = SwitchFabric(machine())
    chunks = np.array([1e6, 2e6, 3e6, 4e6])
    order = [2, 0, 3, 1]
    sorted_, shuffled = fabric.all_gather(chunks, range(4)), fabric.all_gather(chunks[order], order)
    assert sorted_.picoseconds == shuffled.picoseconds
    direct = SwitchFabric(machine(), "direct")
    sorted_, shuffled = direct.all_gather(chunks, range(4)), direct.all_gather(chunks[order], order)
    assert shuffled.sent[[1, 3, 0, 2]] == pytest.approx(sorted_.sent)


def test_ports_are_resolved_once() -> None:
    fabric = SwitchFabric(machine())
    assert fabric.ports([0, 1]) is fabric.ports((0, 1))
