"""A collective by itself at the three fidelities: where they agree, and where they must differ."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.fabric.carried import carry
from moesim.fabric.collectives import all_gather
from moesim.fabric.links import group_links
from moesim.fabric.network import TopologyFabric
from moesim.fabric.topology import Topology, star
from moesim.fabric.transfer import Transfer

from .shapes import grid, leaf_spine

B, A = 1e9, 1e-6


def switch(devices: int) -> Topology:
    return star(devices, B, A)


def seconds(transfer: Transfer, fidelity: str, chunk: float = np.inf) -> float:
    return carry(transfer, fidelity, chunk).picoseconds * 1e-12  # type: ignore[arg-type]


@pytest.mark.parametrize("fidelity", ["bound", "flow"])
def test_an_even_all_to_all_on_a_switch(fidelity: str) -> None:
    n, m = 8, 1e6
    moved = TopologyFabric(switch(n)).all_to_all(np.full((n, n), m), range(n))
    assert seconds(moved, fidelity) == pytest.approx(A + (n - 1) * m / B, rel=1e-9)


def test_store_and_forward_on_a_switch_takes_twice_as_long() -> None:
    """One message, stored at the switch as a whole: 2 S / B + a against S / B + a (both links have half of a)."""
    send = TopologyFabric(switch(2)).send(1e6, 0, 1)
    assert seconds(send, "flow") == pytest.approx(A + 1e6 / B)
    assert seconds(send, "chunk") == pytest.approx(A + 2 * 1e6 / B)
    assert seconds(send, "chunk", 1e6 / 4) == pytest.approx(A + 5 / 4 * 1e6 / B)  # (p + h - 1) chunks


def test_all_to_all_in_messages_takes_one_message_more() -> None:
    """n - 1 messages leave each device one after the other, and the last one is stored once: n m / B + a."""
    n, m = 8, 1e6
    moved = TopologyFabric(switch(n)).all_to_all(np.full((n, n), m), range(n))
    assert seconds(moved, "chunk") == pytest.approx(A + n * m / B)


@pytest.mark.parametrize("fidelity", ["bound", "flow", "chunk"])
def test_ring_all_reduce_between_neighbours(fidelity: str) -> None:
    n, size = 8, 8e6
    ring = TopologyFabric(grid(n, ring=True, bandwidth=B, latency=A))
    moved = ring.all_reduce(size, range(n), "ring")
    assert seconds(moved, fidelity) == pytest.approx(2 * (n - 1) * (A + size / n / B))


@given(st.sampled_from(["mesh", "torus", "tree"]), st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_flows_never_beat_the_bound(shape: str, seed: int) -> None:
    topology = {
        "mesh": grid(3, 3, bandwidth=B, latency=A),
        "torus": grid(4, 4, ring=True, bandwidth=B, latency=A),
        "tree": leaf_spine(3, 4, 2, host=B, uplink=B),
    }[shape]
    n = topology.endpoints
    draw = np.random.default_rng(seed)
    moved = TopologyFabric(topology).all_to_all(draw.gamma(0.3, 1e6, (n, n)), range(n))
    assert carry(moved, "flow").picoseconds >= carry(moved, "bound").picoseconds - 1


def test_bytes_times_hops_are_on_the_links() -> None:
    topology = grid(4, 4, bandwidth=B)
    traffic = np.random.default_rng(1).uniform(0, 1e6, (16, 16))
    places = topology.coordinates
    assert places is not None
    hops = np.abs(places[:, None] - places[None, :]).sum(axis=-1)
    moved = TopologyFabric(topology).all_to_all(traffic, range(16))
    assert carry(moved).load.sum() == pytest.approx((traffic * hops).sum())


def test_groups_beside_each_other_share_links() -> None:
    """Two groups over the same uplinks: both fidelities see twice the load there."""
    topology = leaf_spine(2, 2, 1, host=B, uplink=B)
    other = group_links(topology, [1, 3])
    alone, shared = group_links(topology, [0, 2]), group_links(topology, [0, 2], beside=(other,))
    size = np.full(2, 1e6)
    for fidelity in ("bound", "flow"):
        took = seconds(all_gather(size, alone, "ring"), fidelity), seconds(all_gather(size, shared, "ring"), fidelity)
        assert took == pytest.approx((1e6 / B, 2e6 / B))


def test_a_pipeline_adds_a_chunk_per_hop() -> None:
    """A chain of four on a switch streams: 3 hops, behind by 2 links and a chunk each, or a latency."""
    chain = TopologyFabric(switch(4)).broadcast(1e6, range(4), algorithm="ring")
    assert seconds(chain, "flow") == pytest.approx(3 * A + 1e6 / B)
    assert seconds(chain, "chunk", 1e5) == pytest.approx(3 * A + 1.1e6 / B + 2 * 2 * 1e5 / B)


def test_what_switches_add_up_takes_the_bound() -> None:
    fabric = TopologyFabric(star(4, B, A, reduces=True))
    moved = fabric.all_reduce(1e6, range(4), "sharp")
    took = [carry(moved, fidelity, 1e4).picoseconds for fidelity in ("bound", "flow", "chunk")]  # type: ignore[arg-type]
    assert took[0] == took[1] == took[2] == int(moved.picoseconds)
