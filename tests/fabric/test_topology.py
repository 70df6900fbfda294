"""Topologies: cables, stars, and nodes joined by NICs or through shared vertices."""

import numpy as np
import pytest

from moesim.fabric.topology import Topology, from_cables, nest, star
from moesim.spec.errors import MoesimError


def test_a_star_has_two_links_per_device() -> None:
    topology = star(3, [1e9, 2e9, 3e9], 2e-6, energy=4e-12)
    assert (topology.links, topology.vertices) == (6, 4)
    assert topology.link_name(2) == "gpu1 -> switch"
    assert topology.bandwidth.tolist() == [1e9, 1e9, 2e9, 2e9, 3e9, 3e9]
    assert topology.latency[0] + topology.latency[3] == 2e-6
    assert topology.passes.tolist() == [False, False, False, True]


def test_nodes_with_a_nic_per_device() -> None:
    joined = nest([star(2, 9e9)] * 2, star(4, 1e9, name="leaf", level="scale_out"), bandwidth=5e9)
    assert joined.endpoints == 4
    assert joined.vertices == 4 + 2 + 4 + 1
    assert joined.vertex_name[:6] == (
        "node0/gpu0",
        "node0/gpu1",
        "node1/gpu0",
        "node1/gpu1",
        "node0/switch",
        "node1/switch",
    )
    assert joined.links == 4 + 4 + 8 + 8
    nic = [joined.link_name(link) for link in range(joined.links) if joined.level[link] == "nic"]
    assert nic[:2] == ["node0/gpu0 -> gpu0", "gpu0 -> node0/gpu0"]
    assert joined.passes.tolist() == [False] * 4 + [True] * 7
    assert joined.node_of.tolist() == [0, 0, 1, 1]


def test_one_uplink_per_node_is_the_switch_itself() -> None:
    joined = nest([star(2, 9e9), star(3, 9e9)], star(2, 1e9, name="spine", level="scale_out"))
    assert joined.vertices == 5 + 2 + 1
    up = [joined.link_name(link) for link in range(joined.links) if joined.level[link] == "scale_out"]
    assert up[0] == "node0/switch -> spine"
    assert joined.passes.tolist() == [False] * 5 + [True] * 3


def test_a_nic_that_two_devices_share() -> None:
    joined = nest([star(2, 9e9)] * 2, star(2, 1e9), attach=[(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1)], bandwidth=5e9)
    assert joined.links == 8 + 4 + 8


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"bandwidth": 0.0}, "link gpu0 -> switch has no bandwidth"),
        ({"bandwidth": float("nan")}, "link gpu0 -> switch has no bandwidth"),
        ({"latency": -1.0}, "no valid latency"),
        ({"energy": float("inf")}, "no valid energy"),
        ({"ends": [(1, 1)]}, "link switch -> switch joins a vertex to itself"),
    ],
)
def test_bad_links_are_named(change: dict[str, object], line: str) -> None:
    links: dict[str, object] = {"ends": [(0, 1)], "bandwidth": 1e9} | change
    with pytest.raises(MoesimError, match=line):
        from_cables("broken", 1, ["gpu0", "switch"], **links)  # type: ignore[arg-type]


def test_endpoints_without_an_attachment_are_refused() -> None:
    with pytest.raises(MoesimError, match="3 endpoints for 2 nodes with 4 devices"):
        nest([star(2, 1e9)] * 2, star(3, 1e9))
    with pytest.raises(MoesimError, match="endpoint 1 has nothing attached"):
        nest([star(2, 1e9)], star(2, 1e9), attach=[(0, 0, 0)])


def test_a_topology_without_links_is_one_device() -> None:
    empty = np.zeros(0)
    alone = Topology("one", 1, 1, empty.astype(np.int64), empty.astype(np.int64), empty, empty, empty, (), ("gpu0",))
    assert alone.links == 0
