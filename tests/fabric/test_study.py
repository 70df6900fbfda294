"""One collective, size by size: bandwidths as measurement tools count them, the busiest link, skew."""

import numpy as np
import pytest

from moesim.fabric.network import TopologyFabric
from moesim.fabric.study import Study, bus_factor, popularity
from moesim.fabric.topology import star
from moesim.spec.errors import MoesimError

from .shapes import grid, leaf_spine

B, A = 100e9, 1e-6


@pytest.mark.parametrize(
    ("collective", "algorithm", "seconds", "bus"),
    [
        # Of the bandwidth of a port, where latency is left out, all of it: 2 (n-1)/n S, (n-1)/n S, S bytes cross each.
        ("all-reduce", "ring", 14 * (A + 1e-5), 2 * 7 / 8 * 8e6 / (14 * (A + 1e-5))),
        ("all-gather", "ring", 7 * (A + 1e-5), 7 / 8 * 8e6 / (7 * (A + 1e-5))),
        ("reduce-scatter", "ring", 7 * (A + 1e-5), 7 / 8 * 8e6 / (7 * (A + 1e-5))),
        ("all-to-all", "direct", A + 7e-5, 7 / 8 * 8e6 / (A + 7e-5)),
        ("broadcast", "tree", 3 * (A + 8e-5), 8e6 / (3 * (A + 8e-5))),
    ],
)
def test_time_and_bus_bandwidth(collective: str, algorithm: str, seconds: float, bus: float) -> None:
    study = Study(TopologyFabric(star(8, B, A)), collective, range(8), algorithm)  # type: ignore[arg-type]
    (answer,) = study.answers([8e6])
    assert answer.seconds == pytest.approx(seconds)
    assert answer.algorithm_bandwidth == pytest.approx(8e6 / seconds)
    assert answer.bus_bandwidth == pytest.approx(bus)
    assert answer.bus_bandwidth <= B
    assert answer.algorithm == algorithm
    assert answer.distance >= 1


def test_factors_of_bus_bandwidth() -> None:
    assert (bus_factor("all-reduce", 4), bus_factor("all-to-all", 4), bus_factor("send", 2)) == (1.5, 0.75, 1.0)


def test_the_busiest_link_is_the_oversubscribed_uplink() -> None:
    """Two leaves of four with one spine: 4 x 4 of 8 x 8 messages go up each uplink, 7 of 8 out of each port."""
    study = Study(TopologyFabric(leaf_spine(2, 4, 1, host=B, uplink=B)), "all-to-all", range(8))
    (answer,) = study.answers([8e6])
    assert answer.busiest == "leaf0 -> spine0"
    assert answer.alike == 3
    assert answer.seconds == pytest.approx(16e6 / B)
    assert answer.utilisation == pytest.approx(1.0)


def test_auto_says_what_it_took() -> None:
    """Few bytes go in a tree, many in a ring: on 64 devices a ring pays 126 latencies."""
    study = Study(TopologyFabric(star(64, B, A)), "all-reduce", range(64))
    few, many = study.answers([1e3, 1e9])
    assert (few.algorithm, many.algorithm) == ("double-binary-tree", "ring")


def test_a_skewed_all_to_all_waits_for_the_popular_port() -> None:
    shares = popularity(8, 3.0)
    assert shares.max() * 8 == pytest.approx(3.0)
    assert shares.sum() == pytest.approx(1.0)
    assert (np.diff(shares) < 0).all()
    study = Study(TopologyFabric(star(8, B)), "all-to-all", range(8), shares=shares)
    (answer,) = study.answers([8e6])
    assert answer.seconds == pytest.approx(7 * 3e6 / B)  # seven others send 3/8 of 8 MB each
    assert answer.busiest == "switch -> gpu0"


def test_no_skew_is_even() -> None:
    assert popularity(8, 1.0) == pytest.approx(np.full(8, 1 / 8), rel=1e-6)


@pytest.mark.parametrize("skew", [0.5, 8.0, float("nan")])
def test_a_skew_that_cannot_be(skew: float) -> None:
    with pytest.raises(MoesimError, match="a skew of"):
        popularity(8, skew)


def test_finer_fidelities() -> None:
    """On a line the middle carries floor(n/2) ceil(n/2) messages; on a switch a chunk is stored once."""
    line = Study(TopologyFabric(grid(8, bandwidth=B, latency=A)), "all-to-all", range(8), "direct", "flow")
    assert line.answers([8e6])[0].seconds == pytest.approx(7 * A + 16e6 / B)
    switch = Study(TopologyFabric(star(8, B, A)), "all-to-all", range(8), "direct", "chunk", chunk=1e5)
    assert switch.answers([8e6])[0].seconds == pytest.approx(A + 7e6 / B + 1e5 / B)


def test_too_many_flows_are_refused() -> None:
    study = Study(TopologyFabric(star(400, B)), "all-to-all", range(400), fidelity="flow")
    with pytest.raises(MoesimError, match="159,600 flows; take fewer, or bound"):
        study.answers([1e6])


def test_a_send_joins_two() -> None:
    with pytest.raises(MoesimError, match="a send joins two devices, not 3"):
        Study(TopologyFabric(star(4, B)), "send", [0, 1, 2]).answers([1e6])
    (answer,) = Study(TopologyFabric(star(4, B, A)), "send", [0, 3]).answers([1e6])
    assert answer.seconds == pytest.approx(A + 1e6 / B)
