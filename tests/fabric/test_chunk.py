"""Store and forward against its closed forms, queueing theory, a congestion-aware simulator, and the flow model."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.fabric.chunk import pieces, store_and_forward
from moesim.fabric.flow import Flows, along, coflow, simulate, together
from moesim.fabric.routes import shortest_routes
from moesim.fabric.topology import Topology, from_cables, star
from moesim.spec.errors import MoesimError

PS = 1e12
REFERENCE = Path(os.environ.get("MOESIM_DATA", "")) / "network" / "astrasim_reference_core.csv"
Pairs = tuple[tuple[int, int], ...]


def line(n: int, bandwidth: float = 50e9, latency: float = 0.5e-6) -> Topology:
    ends = [(i, i + 1) for i in range(n - 1)]
    return from_cables("line", n, [f"gpu{i}" for i in range(n)], ends, bandwidth=bandwidth, latency=latency)


def ring(n: int, bandwidth: float, latency: float) -> Topology:
    """The clockwise links first, so that they are taken where both ways are equally long."""
    at = np.arange(n)
    there = (at + 1) % n
    return Topology(
        "ring", n, n, np.concatenate([at, there]), np.concatenate([there, at]), np.full(2 * n, bandwidth),
        np.full(2 * n, latency), np.zeros(2 * n), ("scale_up",) * 2 * n, tuple(f"gpu{i}" for i in range(n)),
    )  # fmt: skip


def full_mesh(n: int, bandwidth: float, latency: float) -> Topology:
    ends = [(i, j) for i in range(n) for j in range(i)]
    return from_cables("mesh", n, [f"gpu{i}" for i in range(n)], ends, bandwidth=bandwidth, latency=latency)


@pytest.mark.parametrize(("hops", "chunks"), [(1, 1), (1, 16), (4, 1), (4, 16), (3, 100)])
def test_a_message_over_several_links(hops: int, chunks: int) -> None:
    """(p + h - 1) m_p / B, and the latency of each link."""
    topology, chunk = line(hops + 1), 1e5
    flows = along(shortest_routes(topology, [(0, hops)]), chunks * chunk)
    found = store_and_forward(flows, topology, chunk)
    assert found.end / PS == pytest.approx((chunks + hops - 1) * chunk / 50e9 + hops * 0.5e-6, rel=1e-9)
    assert found.events == hops * chunks


def test_the_last_piece_is_what_is_left() -> None:
    assert pieces(10.0, 4.0) == [4.0, 4.0, 2.0]
    assert pieces(8.0, 4.0) == [4.0, 4.0]
    assert pieces(3.0, np.inf) == [3.0]
    assert sum(pieces(1e9 / 3, 1000.0)) == pytest.approx(1e9 / 3, rel=1e-12)


def test_a_link_under_poisson_arrivals_of_equal_messages() -> None:
    """M/D/1: the mean time in the queue is rho / (2 mu (1 - rho)) (Pollaczek and Khinchine)."""
    count, load, service = 20_000, 0.6, 1e-6
    topology = line(2, bandwidth=1e9, latency=0.0)
    gaps = np.random.default_rng(3).exponential(service / load, count)
    arrivals = np.rint(np.cumsum(gaps) * PS).astype(np.int64)
    flows = Flows(
        pointer=np.arange(count + 1), link=np.zeros(count, dtype=np.int64), fraction=np.ones(count),
        size=np.full(count, 1e9 * service), latency=np.zeros(count), coflow=np.arange(count), start=arrivals,
        after=((),) * count,
    )  # fmt: skip
    found = store_and_forward(flows, topology, np.inf)
    waited = (found.flow - arrivals) / PS - service
    assert waited.mean() == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)


def reference(topology: str) -> list[dict[str, str]]:
    if not os.environ.get("MOESIM_DATA") or not REFERENCE.exists():
        pytest.skip("set MOESIM_DATA to the folder of reference results")
    with REFERENCE.open() as file:
        rows = [row for row in csv.DictReader(file) if (row["backend"], row["topology"]) == ("aware", topology)]
    assert rows
    return rows


def rounds(operation: str, algorithm: str, n: int, size: float) -> list[tuple[Pairs, float]]:
    """The pairs and bytes of each round, as the reference runs the algorithm: all messages of a round at once."""
    if algorithm == "direct":
        everyone = tuple((i, (i + away) % n) for away in range(1, n) for i in range(n))
        return [(everyone, size / n)] * (2 if operation == "all_reduce" else 1)
    if algorithm == "ring":
        # An all-to-all hands the message for distance d from neighbour to neighbour d times.
        steps = 2 * (n - 1) if operation == "all_reduce" else n * (n - 1) // 2
        return [(tuple((i, (i + 1) % n) for i in range(n)), size / n)] * steps
    halving = [(tuple((i, i ^ 2**k) for i in range(n)), size / 2 ** (k + 1)) for k in range(n.bit_length() - 1)]
    return halving + halving[::-1]


@pytest.mark.parametrize("kind", ["Ring", "Switch", "FullyConnected"])
def test_collectives_of_the_congestion_aware_reference(kind: str) -> None:
    for row in reference(kind):
        n, bandwidth = int(row["n_npus"]), float(row["bw_decimal_GBps_per_dim"]) * 1e9
        latency = float(row["latency_ns_per_dim"]) * 1e-9
        made = {"Ring": ring, "FullyConnected": full_mesh, "Switch": lambda n, b, a: star(n, b, 2 * a)}
        topology = made[kind](n, bandwidth, latency)
        steps = rounds(row["collective"], row["algorithm"], n, float(row["message_bytes"]))
        if len(steps) > 1000 and float(row["message_bytes"]) > 2**20:
            continue  # 2016 alike rounds, once
        made_once = {key: along(shortest_routes(topology, key[0], "lowest"), key[1]) for key in dict.fromkeys(steps)}
        parts = [made_once[step] for step in steps]
        flows = together(parts, [[k - 1] if k else [] for k in range(len(parts))])
        found = store_and_forward(flows, topology, np.inf)
        assert found.end / 1000 == pytest.approx(float(row["simulated_ns"]), rel=0.002), row


def test_a_switch_that_stores_takes_twice_as_long_as_one_that_cuts_through() -> None:
    topology = star(8, 50e9)
    flows = along(shortest_routes(topology, [(i, (i + 1) % 8) for i in range(8)]), 8e6)
    through = simulate(flows, topology.bandwidth).end
    assert store_and_forward(flows, topology, np.inf).end == pytest.approx(2 * through, rel=1e-9)
    assert store_and_forward(flows, topology, 8e6 / 64).end == pytest.approx(through * 65 / 64, rel=1e-9)


@pytest.mark.parametrize("topology", [star(8, 50e9, 1e-6), ring(8, 50e9, 0.5e-6), full_mesh(8, 64e9, 1e-6)])
def test_small_chunks_of_a_uniform_all_to_all_take_the_time_of_flows(topology: Topology) -> None:
    pairs = [(i, (i + away) % 8) for away in range(1, 8) for i in range(8)]
    flows = along(shortest_routes(topology, pairs), 1e6)
    exact, gaps = simulate(flows, topology.bandwidth).end, []
    for chunk in (1e6, 1e5, 1e4):
        found = store_and_forward(flows, topology, chunk)
        gaps.append(abs(found.end / exact - 1))
    assert found.carried == pytest.approx(flows.loads(topology.links))
    assert gaps[2] < 0.01
    assert gaps[2] <= gaps[0]


def test_flows_that_share_a_queue_evenly_end_as_fair_ones_do() -> None:
    """Incast of unequal messages: the shorter one ends first, at twice its time alone."""
    topology = star(3, 50e9)
    flows = along(shortest_routes(topology, [(0, 2), (1, 2)]), [2e6, 4e6])
    found = store_and_forward(flows, topology, 1e3)
    assert found.flow == pytest.approx(simulate(flows, topology.bandwidth).flow, rel=1e-3)


def test_a_split_message_sends_its_chunks_over_all_paths() -> None:
    names = ["gpu0", "gpu1", "spine0", "spine1"]
    topology = from_cables("two planes", 2, names, [(0, 2), (2, 1), (0, 3), (3, 1)], bandwidth=10e9)
    flows = along(shortest_routes(topology, [(0, 1)]), 1e6)
    found = store_and_forward(flows, topology, 1e4)
    assert found.carried[topology.source == 2].sum() == found.carried[topology.source == 3].sum() == 5e5
    assert found.end / PS == pytest.approx((50 + 1) * 1e4 / 10e9, rel=1e-9)


@settings(max_examples=30)
@given(st.integers(3, 7), st.data())
def test_no_chunk_beats_the_busiest_link_and_none_is_lost(n: int, data: st.DataObject) -> None:
    topology = data.draw(st.sampled_from([ring(n, 50e9, 1e-6), star(n, 40e9, 1e-6), line(n)]))
    pair = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda ends: ends[0] != ends[1])
    pairs = data.draw(st.lists(pair, min_size=1, max_size=12))
    sizes = data.draw(st.lists(st.sampled_from([0.0, 1e4, 3.3e4, 1e5]), min_size=len(pairs), max_size=len(pairs)))
    flows = along(shortest_routes(topology, pairs), sizes)
    found = store_and_forward(flows, topology, 1e4)
    load = flows.loads(topology.links)
    assert found.carried.sum() == pytest.approx(load.sum())
    assert found.end >= (found.carried / topology.bandwidth).max() * PS - 1


def test_nothing_to_move_takes_the_latency() -> None:
    found = store_and_forward(together([coflow([[0], []], 0.0, 2e-6), coflow([[0]], 1e6)], [[], [0]]), line(2), 1e6)
    assert found.finish.tolist() == [2_000_000, 2_000_000 + 20_000_000 + 500_000]


def test_chunks_too_small_are_refused() -> None:
    with pytest.raises(MoesimError, match=r"make them 50 times as large"):
        store_and_forward(coflow([[0]], 1e9), line(2), 1.0)
    with pytest.raises(MoesimError, match="chunks of 0 bytes"):
        store_and_forward(coflow([[0]], 1e9), line(2), 0.0)
