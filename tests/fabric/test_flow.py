"""Max-min flows against exact fractions, closed forms, the definition of fairness, and their two kernels."""

from __future__ import annotations

import ast
import csv
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moesim import accelerate
from moesim.fabric.flow import Flows, along, coflow, simulate, together
from moesim.fabric.maxmin import KernelName, max_min_rates
from moesim.fabric.routes import shortest_routes
from moesim.fabric.topology import FloatArray, Topology, from_cables, star
from moesim.spec.errors import MoesimError

PS = 1e12
CASES = Path(os.environ.get("MOESIM_DATA", "")) / "network" / "closed_forms_a2a_maxmin.csv"
KERNELS = ["numpy", pytest.param("numba", marks=pytest.mark.skipif(not accelerate.HAVE_NUMBA, reason="no numba"))]


def rates(paths: dict[str, list[str]], capacity: dict[str, float], kernel: KernelName) -> dict[str, float]:
    """Max-min rates of named flows over named links."""
    names = list(capacity)
    flows = coflow([[names.index(link) for link in path] for path in paths.values()], 1.0)
    found = max_min_rates(flows.pointer, flows.link, flows.fraction, np.array(list(capacity.values())), kernel)
    return dict(zip(paths, found.tolist(), strict=True))


@pytest.mark.parametrize("kernel", KERNELS)
def test_rates_of_textbook_cases(kernel: KernelName) -> None:
    """Bertsekas and Gallager, Data Networks, section 6.5.2, and cases worked out by hand in fractions."""
    parking_lot = {"long": ["x", "y", "z"], "one": ["x"], "two": ["y"], "three": ["z"]}
    assert set(rates(parking_lot, dict.fromkeys("xyz", 1.0), kernel).values()) == {0.5}
    two = rates({"a": ["x", "y"], "b": ["x"], "c": ["y"]}, {"x": 1.0, "y": 2.0}, kernel)
    assert two == pytest.approx({"a": 1 / 2, "b": 1 / 2, "c": 3 / 2}, rel=1e-12)
    levels = {"a": ["1", "2"], "b": ["1", "3"], "c": ["1"], "d": ["2"], "e": ["3"]}
    three = rates(levels, {"1": 3.0, "2": 1.0, "3": 10.0}, kernel)
    assert three == pytest.approx({"a": 1 / 2, "d": 1 / 2, "b": 5 / 4, "c": 5 / 4, "e": 35 / 4}, rel=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_rates_of_the_reference_cases(kernel: KernelName) -> None:
    if not os.environ.get("MOESIM_DATA") or not CASES.exists():
        pytest.skip("set MOESIM_DATA to the folder of reference results")
    with CASES.open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        capacity = {link: float(Fraction(each)) for link, each in ast.literal_eval(row["capacities"]).items()}
        exact = {flow: float(Fraction(each)) for flow, each in ast.literal_eval(row["rates"]).items()}
        assert rates(ast.literal_eval(row["flows"]), capacity, kernel) == pytest.approx(exact, rel=1e-6), row["case"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_two_flows_on_one_link(kernel: KernelName) -> None:
    """t1 = 2 S1 / C, t2 = (S1 + S2) / C."""
    found = simulate(coflow([[0], [0]], [3e6, 5e6], 1e-6), np.array([10e9]), kernel)
    assert found.flow.tolist() == [1_000_000 + 600_000_000, 1_000_000 + 800_000_000]
    assert found.events == 2


def test_a_flow_that_starts_late_shares_from_then_on() -> None:
    late = together([coflow([[0]], 4e6), coflow([[0]], 1e6, start=200_000_000)])
    found = simulate(late, np.array([10e9]))
    # 2 MB alone in 200 us, then 1 MB each in 200 us, then the last 1 MB in 100 us.
    assert found.flow.tolist() == [500_000_000, 400_000_000]


def test_a_split_flow_uses_each_path_with_its_share() -> None:
    """Half of the bytes over a slow link: the slow half decides, and leaves room on the other link."""
    pointer, link = np.array([0, 2, 3]), np.array([0, 1, 0])
    found = max_min_rates(pointer, link, np.array([0.5, 0.5, 1.0]), np.array([10.0, 2.0]))
    assert found.tolist() == pytest.approx([4.0, 8.0], rel=1e-12)


def test_coflows_wait_for_each_other() -> None:
    """A ring all-reduce, 2 (n-1) rounds of S/n: 2 (n-1) a + 2 (n-1)/n S/B."""
    n, size, bandwidth, latency = 8, 8e6, 50e9, 0.5e-6
    rounds = [coflow([[i] for i in range(n)], size / n, latency) for _ in range(2 * (n - 1))]
    ring = together(rounds, [[k - 1] if k else [] for k in range(len(rounds))])
    found = simulate(ring, np.full(n, bandwidth))
    assert found.end / PS == pytest.approx(2 * (n - 1) * latency + 2 * (n - 1) / n * size / bandwidth, rel=1e-9)
    assert found.start[1:].tolist() == found.finish[:-1].tolist()
    assert found.carried == pytest.approx(2 * (n - 1) / n * size)
    busy = 2 * (n - 1) / n * size / bandwidth
    assert found.utilisation(np.full(n, bandwidth)) == pytest.approx(busy / (found.end / PS))


def test_nothing_to_move_takes_the_latency() -> None:
    both = together([coflow([[0], []], [0.0, 5e6], 2e-6), coflow([[0]], 1e6)], [[], [0]])
    found = simulate(both, np.array([1e9]))
    assert found.finish.tolist() == [2_000_000, 1_002_000_000]
    assert found.carried.tolist() == [1e6]


def ring(n: int) -> Topology:
    names = [f"gpu{i}" for i in range(n)]
    return from_cables("ring", n, names, [(i, (i + 1) % n) for i in range(n)], bandwidth=50e9, latency=0.5e-6)


def all_pairs(n: int) -> np.ndarray:
    return np.array([(i, j) for i in range(n) for j in range(n) if i != j])


@pytest.mark.parametrize(("n", "busiest"), [(8, 8.0), (7, 6.0)])
def test_all_to_all_on_a_ring(n: int, busiest: float) -> None:
    """The busiest link carries n^2/8 (even n, ties split) or (n^2-1)/8 messages, and by symmetry never rests."""
    topology, message = ring(n), 1e6
    found = simulate(along(shortest_routes(topology, all_pairs(n)), message), topology.bandwidth)
    assert found.end / PS == pytest.approx(n // 2 * 0.5e-6 + busiest * message / 50e9, rel=1e-6)


def test_incast_on_a_switch() -> None:
    """k senders to one receiver: k m / B."""
    topology = star(5, 50e9, 1e-6)
    found = simulate(along(shortest_routes(topology, [(i, 4) for i in range(4)]), 1e6), topology.bandwidth)
    assert found.flow.tolist() == [81_000_000] * 4


def test_oversubscription_slows_the_flows_that_cross() -> None:
    """Two leaves of four hosts, a spine of 16 for 40; what stays under a leaf gets what the crossing ones leave."""
    names = [*(f"host{i}" for i in range(8)), "leaf0", "leaf1"]
    ends = [*((i, 8 + i // 4) for i in range(8)), (8, 9)]
    topology = from_cables("leaves", 8, names, ends, bandwidth=[10.0] * 8 + [16.0])
    pairs = [(0, 4), (1, 5), (2, 6), (3, 7), (0, 1)]
    flows = along(shortest_routes(topology, pairs), 1.0)
    found = max_min_rates(flows.pointer, flows.link, flows.fraction, topology.bandwidth)
    assert found.tolist() == pytest.approx([4.0, 4.0, 4.0, 4.0, 6.0], rel=1e-12)


@pytest.mark.parametrize("size", [-1.0, np.nan, np.inf])
def test_bytes_that_are_none_are_refused(size: float) -> None:
    with pytest.raises(MoesimError, match=r"flow 1 has .* bytes"):
        coflow([[0], [0]], [1.0, size])


def test_a_circle_of_coflows_is_refused() -> None:
    circle = together([coflow([[0]], 1.0)] * 3, [[], [2], [1]])
    with pytest.raises(MoesimError, match="coflow 1 never starts"):
        simulate(circle, np.array([1.0]))


@st.composite
def networks(draw: st.DrawFn) -> tuple[Flows, FloatArray]:
    """Flows in up to four coflows over up to eight links, some split, of sizes and capacities with many ties."""
    links, flows = draw(st.integers(1, 8)), draw(st.integers(1, 24))
    paths = draw(st.lists(st.sets(st.integers(0, links - 1), min_size=1), min_size=flows, max_size=flows))
    pointer = np.concatenate([[0], np.cumsum([len(path) for path in paths])])
    share = draw(
        st.lists(st.sampled_from([1.0, 0.5, 0.25, 1 / 3]), min_size=int(pointer[-1]), max_size=int(pointer[-1]))
    )
    coflows = draw(st.integers(1, 4))
    return Flows(
        pointer=pointer,
        link=np.array([link for path in paths for link in sorted(path)]),
        fraction=np.array(share),
        size=draw(arrays(float, flows, elements=st.sampled_from([0.0, 1e6, 2e6, 3e6, 1.7e6]))),
        latency=np.full(flows, 1e-6),
        coflow=np.array(draw(st.lists(st.integers(0, coflows - 1), min_size=flows, max_size=flows))),
        start=np.array(draw(st.lists(st.sampled_from([0, 50_000_000]), min_size=coflows, max_size=coflows))),
        after=tuple(tuple(draw(st.sets(st.integers(0, c - 1)))) if c else () for c in range(coflows)),
    ), draw(arrays(float, links, elements=st.sampled_from([1e9, 2e9, 3e9, 7e9])))


@given(networks())
def test_rates_are_max_min_fair(network: tuple[Flows, FloatArray]) -> None:
    """No link is overbooked, and every flow has a full link on which none is faster: the definition."""
    flows, capacity = network
    rate = max_min_rates(flows.pointer, flows.link, flows.fraction, capacity, "numpy")
    used = np.bincount(flows.link, flows.fraction * np.repeat(rate, np.diff(flows.pointer)), len(capacity))
    assert (used <= capacity * (1 + 1e-9)).all()
    fastest = np.zeros(len(capacity))
    np.maximum.at(fastest, flows.link, np.repeat(rate, np.diff(flows.pointer)))
    for flow, speed in enumerate(rate):
        path = flows.link[flows.pointer[flow] : flows.pointer[flow + 1]]
        assert any(used[j] >= capacity[j] * (1 - 1e-9) and fastest[j] <= speed * (1 + 1e-9) for j in path)


@given(networks())
def test_flows_never_beat_the_busiest_link(network: tuple[Flows, FloatArray]) -> None:
    flows, capacity = network
    found = simulate(flows, capacity, "numpy")
    tolerance = 2 * len(flows)  # each end is rounded to the picosecond
    for index in range(len(flows.start)):
        alone = np.where(flows.coflow == index, flows.size, 0.0)
        load = np.bincount(flows.link, flows.fraction * np.repeat(alone, np.diff(flows.pointer)), len(capacity))
        bound = (load / capacity).max() * PS + (1e6 if (flows.coflow == index).any() else 0)
        assert found.finish[index] - found.start[index] >= bound - tolerance
        assert found.start[index] >= max([found.finish[b] for b in flows.after[index]] + [flows.start[index]])
    # What was integrated over time is what was to be moved, but for the roundings.
    assert found.carried == pytest.approx(flows.loads(len(capacity)), rel=1e-9, abs=7e9 * tolerance / PS)


@pytest.mark.skipif(not accelerate.HAVE_NUMBA, reason="no numba")
@given(networks())
def test_both_kernels_give_the_same_bytes(network: tuple[Flows, FloatArray]) -> None:
    one, other = (simulate(*network, kernel) for kernel in ("numpy", "numba"))
    assert one.flow.tobytes() == other.flow.tobytes()
    assert one.carried.tobytes() == other.carried.tobytes()
    assert one.events == other.events


@pytest.mark.skipif(not accelerate.HAVE_NUMBA, reason="no numba")
def test_both_kernels_agree_where_many_links_tie() -> None:
    """A uniform all-to-all on a torus, thinned out: shares that are equal as fractions but not as bytes."""
    k = 4
    place = np.arange(k * k).reshape(k, k)
    cables = [
        (place[x, y], n) for x in range(k) for y in range(k) for n in (place[(x + 1) % k, y], place[x, (y + 1) % k])
    ]
    topology = from_cables("torus", k * k, [f"chip{i}" for i in range(k * k)], cables, bandwidth=50e9)
    pairs = all_pairs(k * k)
    for keep in np.random.default_rng(1).random((20, len(pairs))) < 0.6:
        flows = along(shortest_routes(topology, pairs[keep]), 1e6)
        columns = flows.pointer, flows.link, flows.fraction, topology.bandwidth
        assert max_min_rates(*columns, "numpy").tobytes() == max_min_rates(*columns, "numba").tobytes()


def test_links_at_relays_pass_on_what_they_get() -> None:
    """Bytes into a vertex that is no device equal bytes out of it; a device keeps what is for it."""
    topology = star(6, [10e9, 20e9, 30e9, 40e9, 50e9, 60e9], 1e-6)
    pairs = all_pairs(6)
    traffic = np.random.default_rng(0).lognormal(13, 1, len(pairs))
    found = simulate(along(shortest_routes(topology, pairs), traffic), topology.bandwidth)
    into = np.bincount(topology.target, found.carried, topology.vertices)
    out = np.bincount(topology.source, found.carried, topology.vertices)
    assert into[6] == pytest.approx(out[6], rel=1e-9)
    assert into[:6] == pytest.approx(np.bincount(pairs[:, 1], traffic), rel=1e-6)
    assert out[:6] == pytest.approx(np.bincount(pairs[:, 0], traffic), rel=1e-6)
