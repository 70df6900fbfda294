"""Transfers on the clock: the same arrivals as all at once, one solve per instant, and what others notice of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moesim.engine.clock import Clock
from moesim.fabric.flow import Flows, along, coflow, simulate, together
from moesim.fabric.live import LiveFlows
from moesim.fabric.routes import shortest_routes
from moesim.fabric.topology import FloatArray, star
from moesim.spec.errors import MoesimError

B = 10e9  # 1 MB takes 100 us


def at(clock: Clock, time: int, action: Callable[[], object]) -> None:
    clock.call_at(time, lambda: (action(), None)[1])


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[tuple[int, Flows]], FloatArray]:
    """Up to five transmissions of flows over up to six links, and when each is sent (picoseconds)."""
    links = draw(st.integers(1, 6))
    sent = []
    for _ in range(draw(st.integers(1, 5))):
        path = st.lists(st.integers(0, links - 1), min_size=1, max_size=links, unique=True)
        paths = draw(st.lists(path, min_size=1, max_size=5))
        size = draw(arrays(float, len(paths), elements=st.sampled_from([0.0, 1e6, 2e6, 1.3e6])))
        latency = draw(st.sampled_from([0.0, 2e-6]))
        sent.append((draw(st.sampled_from([0, 0, 100_000_000, 150_000_000])), coflow(paths, size, latency)))
    return sent, draw(arrays(float, links, elements=st.sampled_from([B, 2 * B, 3 * B])))


@given(networks())
def test_transmissions_arrive_as_they_do_when_all_is_known_beforehand(
    network: tuple[list[tuple[int, Flows]], FloatArray],
) -> None:
    sent, bandwidth = network
    clock, seen = Clock(), {}
    live = LiveFlows(clock, bandwidth, "numpy")
    for index, (start, flows) in enumerate(sent):
        at(clock, start, partial(live.send, flows, lambda index=index: seen.setdefault(index, clock.now)))
    clock.run()
    parts = [coflow(_paths(f), f.size, f.latency, start=start) for start, f in sent]
    known = simulate(together(parts), bandwidth, "numpy")
    assert [seen[index] for index in range(len(sent))] == pytest.approx(known.finish.tolist(), abs=len(known.flow))
    assert live.carried == pytest.approx(known.carried, rel=1e-9, abs=1.0)
    assert live.used() == pytest.approx(0.0)


def _paths(flows: Flows) -> list[list[int]]:
    return [flows.link[flows.pointer[i] : flows.pointer[i + 1]].tolist() for i in range(len(flows))]


def test_all_changes_of_an_instant_make_one_solve() -> None:
    clock = Clock()
    live = LiveFlows(clock, np.array([B]))
    sent = [live.send(coflow([[0]], 1e6)) for _ in range(5)]
    clock.run()
    assert {each.finish for each in sent} == {500_000_000}
    assert live.solves == 1


def test_what_follows_at_once_is_in_the_same_solve() -> None:
    """The second transfer is sent when the first arrives, without latency: the third shares with either."""
    clock = Clock()
    live = LiveFlows(clock, np.array([B]))
    second = []
    live.send(coflow([[0]], 1e6), lambda: second.append(live.send(coflow([[0]], 1e6))))
    third = live.send(coflow([[0]], 2e6))
    clock.run()
    assert second[0].start == 200_000_000
    assert (second[0].finish, third.finish) == (400_000_000, 400_000_000)
    assert live.solves == 2


def test_coflows_of_a_transmission_wait_for_each_other() -> None:
    """Rounds of a ring, sent when the clock already runs."""
    n, clock = 4, Clock()
    live = LiveFlows(clock, np.full(n, B))
    rounds = [coflow([[i] for i in range(n)], 1e6, 1e-6) for _ in range(3)]
    sent = []
    at(clock, 7_000_000, lambda: sent.append(live.send(together(rounds, [[], [0], [1]]))))
    clock.run()
    assert sent[0].finish == 7_000_000 + 3 * 101_000_000
    assert live.carried.tolist() == pytest.approx([3e6] * n)


def test_a_later_start_is_counted_from_the_sending() -> None:
    clock = Clock()
    live, sent = LiveFlows(clock, np.array([B])), []
    at(clock, 1_000, lambda: sent.append(live.send(coflow([[0]], 1e6, start=5_000))))
    clock.run()
    assert sent[0].finish == 100_006_000


def test_a_transfer_that_is_cancelled_leaves_its_bandwidth_to_others() -> None:
    clock = Clock()
    live = LiveFlows(clock, np.array([B]))
    arrived = []
    gone = live.send(coflow([[0]], 5e6), lambda: arrived.append("gone"))
    kept = live.send(coflow([[0]], 1e6), lambda: arrived.append("kept"))
    at(clock, 100_000_000, lambda: live.cancel(gone))
    clock.run()
    assert kept.finish == 150_000_000
    assert arrived == ["kept"]
    assert gone.finish is None
    assert live.carried.tolist() == pytest.approx([1.5e6])
    live.cancel(kept)
    assert kept.finish == 150_000_000


def test_others_see_the_load_of_the_links() -> None:
    clock, seen = Clock(), {}
    topology = star(3, B)
    live = LiveFlows(clock, topology.bandwidth)
    live.send(along(shortest_routes(topology, [(0, 2), (1, 2)]), [1e6, 2e6]))
    for time in (50_000_000, 250_000_000, 350_000_000):
        clock.call_at(time, lambda time=time: seen.setdefault(time, live.used().sum()))
    clock.run()
    assert list(seen.values()) == pytest.approx([4 * B / 2, 2 * B, 0.0])


def test_no_path_takes_the_latency() -> None:
    clock = Clock()
    sent = LiveFlows(clock, np.array([B])).send(coflow([[], [0]], [1e6, 0.0], 3e-6))
    clock.run()
    assert sent.finish == 3_000_000


def test_a_circle_is_refused_when_it_is_sent() -> None:
    with pytest.raises(MoesimError, match="coflow 0 never starts"):
        LiveFlows(Clock(), np.array([B])).send(together([coflow([[0]], 1.0)] * 2, [[1], [0]]))
