"""Collectives against closed forms; S bytes per lane, n lanes, B bytes/s per port and direction, latency a."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.fabric import collectives
from moesim.fabric.transfer import GroupPorts, Transfer, collective
from moesim.spec.errors import MoesimError

B, B2, A, A2 = 400e9, 50e9, 2e-6, 5e-6


def switch(lanes: int, overhead: float = 0.0) -> GroupPorts:
    node = np.zeros(lanes, dtype=np.int64)
    return GroupPorts(node, np.full(lanes, B), np.zeros(lanes), A, 0.0, overhead, 1e-11)


def two_level(*counts: int) -> GroupPorts:
    node = np.repeat(np.arange(len(counts)), counts)
    up = np.where(np.array(counts)[node] > 1, B, np.inf)
    return GroupPorts(node, up, np.full(len(node), B2), A, A2, 0.0, 1e-11, 2e-11)


def seconds(transfer: Transfer) -> np.ndarray:
    return transfer.picoseconds / 1e12


@pytest.mark.parametrize("n", [2, 3, 8, 64])
def test_ring_all_reduce(n: int) -> None:
    size = np.array([0.0, 1e3, 1e6, 123456789.0])
    expected = 2 * (n - 1) * A + 2 * (n - 1) / n * size / B
    assert seconds(collectives.all_reduce(size, switch(n))) == pytest.approx(expected, abs=n * 1e-12)


@pytest.mark.parametrize("n", [2, 5, 16])
def test_bus_bandwidth_factors(n: int) -> None:
    """Bytes through the busiest port per byte of the operation's size, as nccl-tests define them."""
    size = 1e9
    chunks = np.full(n, size / n)
    traffic = np.full((n, n), size / n)
    factors = {
        "all_reduce": (collectives.all_reduce(size, switch(n)), 2 * (n - 1) / n),
        "direct all_reduce": (collectives.all_reduce(size, switch(n), "direct"), 2 * (n - 1) / n),
        "all_gather": (collectives.all_gather(chunks, switch(n)), (n - 1) / n),
        "reduce_scatter": (collectives.reduce_scatter(chunks, switch(n)), (n - 1) / n),
        "all_to_all": (collectives.all_to_all(traffic, switch(n)), (n - 1) / n),
    }
    for name, (transfer, factor) in factors.items():
        assert transfer.sent.max() / size == pytest.approx(factor), name
        rounds = sum(phase.rounds for phase in transfer.phases)
        assert seconds(transfer) - rounds * A == pytest.approx(factor * size / B, rel=1e-9), name


def test_direct_collectives_pay_one_latency_per_pass() -> None:
    n, size = 8, 1e6
    direct = seconds(collectives.all_reduce(size, switch(n), "direct"))
    assert direct == pytest.approx(2 * A + 2 * (n - 1) / n * size / B, abs=1e-11)
    chunks = np.array([1e6, 3e6, 2e6])
    gather = collectives.all_gather(chunks, switch(3), "direct")
    assert gather.sent.tolist() == [2e6, 6e6, 4e6]
    assert gather.received.tolist() == [5e6, 3e6, 4e6]
    assert seconds(gather) == pytest.approx(A + 6e6 / B, abs=1e-11)


@pytest.mark.parametrize(("g", "nodes"), [(8, 2), (4, 4), (2, 3), (1, 4)])
def test_two_level_all_reduce(g: int, nodes: int) -> None:
    size = 64e6
    transfer = 2 * (g - 1) / g * size / B + 2 * (nodes - 1) / nodes * (size / g) / B2
    latency = 2 * (g - 1) * A + 2 * (nodes - 1) * A2
    ports = two_level(*[g] * nodes)
    assert seconds(collectives.all_reduce(size, ports)) == pytest.approx(transfer + latency, abs=1e-10)


def test_two_level_all_gather() -> None:
    """Columns over the network first (N-1 chunks), then N chunks of each of the other g-1 lanes over the switch."""
    g, nodes, chunk = 4, 2, 1e6
    gathered = collectives.all_gather(np.full(g * nodes, chunk), two_level(g, g))
    expected = (nodes - 1) * (A2 + chunk / B2) + (g - 1) * (A + nodes * chunk / B)
    assert seconds(gathered) == pytest.approx(expected, abs=1e-11)
    assert gathered.sent.tolist() == [(g * nodes - 1) * chunk] * (g * nodes)
    scattered = collectives.reduce_scatter(np.full(g * nodes, chunk), two_level(g, g))
    assert seconds(scattered) == pytest.approx(expected, abs=1e-11)
    assert [phase.port for phase in scattered.phases] == ["scale_up", "scale_out"]


def test_ring_over_nodes_of_different_sizes_is_bound_by_the_scale_out_ports() -> None:
    size, n = 60e6, 6
    transfer = collectives.all_reduce(size, two_level(4, 2))
    assert seconds(transfer) == pytest.approx(2 * (n - 1) * (A2 + size / n / B2), abs=1e-10)
    assert transfer.sent == pytest.approx(np.full(n, 2 * (n - 1) / n * size))
    reduce_scatter = collectives.reduce_scatter(np.full(n, size / n), two_level(4, 2))
    assert 2 * reduce_scatter.picoseconds == transfer.picoseconds


def test_uneven_gather_is_bound_by_the_largest_chunk() -> None:
    chunks = np.array([[1e6, 5e6, 2e6, 0.0], [1e6, 1e6, 1e6, 1e6]])
    expected = 3 * (A + np.array([5e6, 1e6]) / B)
    assert seconds(collectives.all_gather(chunks, switch(4))) == pytest.approx(expected, abs=1e-11)


def test_all_to_all_v_on_a_switch_and_incast() -> None:
    """max over ranks of max(sum out, sum in) / B; incast of k senders: k m / B; the diagonal is free."""
    m, k = 1e6, 5
    incast = np.zeros((6, 6))
    incast[1:, 0] = m
    assert seconds(collectives.all_to_all(incast, switch(6))) == pytest.approx(A + k * m / B, abs=1e-11)
    assert seconds(collectives.all_to_all(incast.T, switch(6))) == pytest.approx(A + k * m / B, abs=1e-11)
    assert seconds(collectives.all_to_all(np.eye(6) * 1e9, switch(6))) == pytest.approx(A)


def test_all_to_all_over_nodes_uses_both_kinds_of_port_at_once() -> None:
    m, g, nodes = 1e6, 4, 2
    transfer = collectives.all_to_all(np.full((8, 8), m), two_level(g, g))
    up, out = A + (g - 1) * m / B, A2 + (nodes - 1) * g * m / B2
    assert seconds(transfer) == pytest.approx(max(up, out), abs=1e-11)
    assert transfer.joules[0] == pytest.approx(3e6 * 1e-11 + 4e6 * 2e-11)
    local = np.kron(np.eye(2), np.full((4, 4), 1e9))
    assert seconds(collectives.all_to_all(local, two_level(g, g))) == pytest.approx(A + 3e9 / B, abs=1e-11)


def test_exchange_is_the_all_to_all_of_its_port_sums() -> None:
    traffic = np.random.default_rng(1).uniform(0, 1e6, (3, 8, 8))
    ports = two_level(4, 4)
    inside = np.kron(np.eye(2), np.ones((4, 4))) - np.eye(8)
    outside = 1 - np.kron(np.eye(2), np.ones((4, 4)))
    sums = [(traffic * mask).sum(axis) for mask in (inside, outside) for axis in (-1, -2)]
    by_sums = collectives.exchange(*sums, ports=ports)
    assert by_sums.picoseconds.tolist() == collectives.all_to_all(traffic, ports).picoseconds.tolist()


def test_the_slowest_port_bounds_a_group() -> None:
    ports = GroupPorts(np.zeros(3, dtype=np.int64), np.array([100e9, 50e9, 400e9]), np.zeros(3))
    assert seconds(collectives.all_reduce(3e9, ports)) == pytest.approx(4 * 1e9 / 50e9)
    traffic = np.array([[0, 1e9, 0], [0, 0, 0], [4e9, 0, 0]])  # 4e9 into the first lane at 100e9
    assert seconds(collectives.all_to_all(traffic, ports)) == pytest.approx(0.04)


def test_send_and_overhead() -> None:
    ports = switch(2, overhead=3e-6)
    transfer = collectives.send(np.array([0.0, 4e6]), ports)
    assert seconds(transfer) == pytest.approx([3e-6 + A, 3e-6 + A + 1e-5])
    assert transfer.sent[1].tolist() == [4e6, 0]
    assert transfer.received[1].tolist() == [0, 4e6]
    assert seconds(collectives.send(4e6, two_level(1, 1))) == pytest.approx(A2 + 4e6 / B2, abs=1e-11)


def test_a_lane_alone_makes_no_call() -> None:
    ports = switch(1, overhead=1e-3)
    assert collectives.all_reduce(np.ones(4), ports).picoseconds.tolist() == [0] * 4
    assert collectives.all_to_all(np.ones((4, 1, 1)), ports).picoseconds.tolist() == [0] * 4
    assert collectives.all_gather(np.ones((4, 1)), ports).sent.tolist() == [[0]] * 4


def test_collective_of_a_row_picks_one_size_per_communicator() -> None:
    transfers = [collectives.all_reduce(np.array([1e6, 4e6]), switch(2)) for _ in range(2)]
    row = collective([(0, 2), (1, 3)], transfers, 1)
    assert row.sent(5).tolist() == [4e6, 4e6, 4e6, 4e6, 0]
    assert [t.picoseconds for t in row.transfers] == [t.picoseconds[1] for t in transfers]
    with pytest.raises(ValueError, match="as many lanes"):
        collective([(0, 1, 2)], transfers[:1])


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_bytes_must_be_counts(bad: float) -> None:
    with pytest.raises(MoesimError, match=f"{bad} bytes, a negative or undefined number"):
        collectives.all_reduce(bad, switch(2))
    with pytest.raises(MoesimError, match="transfer of lane 2 has"):
        collectives.all_gather(np.array([1.0, 1.0, bad]), switch(3))
    with pytest.raises(MoesimError, match="transfer of lane 0 -> lane 1 has"):
        collectives.all_to_all(np.array([[0, bad], [bad, 0]]), switch(2))


groups = st.lists(st.integers(1, 4), min_size=1, max_size=4).filter(lambda counts: sum(counts) > 1)
algorithms = st.sampled_from(["ring", "direct"])


def every(counts: list[int], algorithm: str, scale: float, seed: int) -> list[Transfer]:
    ports, n = two_level(*counts), sum(counts)
    draw = np.random.default_rng(seed)
    chunks = draw.uniform(0, 1e6, (2, n)) * scale
    return [
        collectives.all_reduce(chunks[:, 0], ports, algorithm),
        collectives.all_gather(chunks, ports, algorithm),
        collectives.reduce_scatter(chunks, ports, algorithm),
        collectives.all_to_all(draw.uniform(0, 1e6, (2, n, n)) * scale, ports),
    ]


@given(groups, algorithms, st.integers(0, 99))
def test_bytes_sent_are_bytes_received(counts: list[int], algorithm: str, seed: int) -> None:
    for transfer in every(counts, algorithm, 1.0, seed):
        assert transfer.sent.sum(axis=-1) == pytest.approx(transfer.received.sum(axis=-1))
        for phase in transfer.phases:
            assert phase.sent.sum() == pytest.approx(phase.received.sum())


@given(groups, algorithms, st.integers(0, 99), st.floats(1, 10))
def test_more_bytes_never_take_less_time(counts: list[int], algorithm: str, seed: int, factor: float) -> None:
    for less, more in zip(every(counts, algorithm, 1.0, seed), every(counts, algorithm, factor, seed), strict=True):
        assert (more.picoseconds >= less.picoseconds).all()


@given(groups, algorithms, st.integers(0, 99))
def test_vectorised_sizes_equal_single_ones(counts: list[int], algorithm: str, seed: int) -> None:
    for transfer in every(counts, algorithm, 1.0, seed):
        singles = [transfer.at(i) for i in range(2)]
        assert [int(single.picoseconds) for single in singles] == transfer.picoseconds.tolist()
        assert np.allclose([single.sent for single in singles], transfer.sent)


@given(groups, st.integers(0, 99))
def test_every_byte_of_an_all_to_all_crosses_one_port(counts: list[int], seed: int) -> None:
    n = sum(counts)
    traffic = np.random.default_rng(seed).uniform(0, 1e6, (n, n))
    sent = collectives.all_to_all(traffic, two_level(*counts)).sent
    assert sent == pytest.approx(traffic.sum(axis=1) - np.diagonal(traffic))
