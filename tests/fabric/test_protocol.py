"""Calibrated protocol terms: bus bandwidth factors, physical bounds, published bandwidths, transfers that they pace."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.fabric.calibrated import calibrated, collective_protocol, expert_protocol, paced, slack
from moesim.fabric.collectives import all_gather, all_reduce, all_to_all
from moesim.fabric.expert_protocol import ExpertLoad, ExpertTerms, low_latency_units, norm, uniform_load
from moesim.fabric.protocol import CollectiveProtocol, CollectiveTerms, port_bytes, smaller
from moesim.fabric.transfer import GroupPorts, picoseconds
from moesim.spec.calibration import load_collective_calibrations

WIRE = CollectiveTerms(launch=0.0, round=0.0, efficiency=1.0)
SIZES = st.floats(1.0, 1e10)
RANKS = st.integers(2, 16)
OPERATIONS = st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
TERMS = st.builds(
    CollectiveTerms,
    launch=st.floats(1e-6, 1e-4),
    round=st.floats(0, 1e-5),
    efficiency=st.floats(0.05, 1),
    local=st.floats(0.1, 100),
    ramp=st.floats(0, 1e-4),
    exponent=st.floats(0.15, 0.8),
    contention=st.floats(0, 0.8),
    direct=st.sampled_from([0.0, 0.3, 1.0]),
    staging=st.floats(0, 1e-5),
    in_switch=st.sampled_from([0.0, 0.7, 1.0]),
)


def nccl(device: str, family: str, link: str, port: float, *libraries: str) -> CollectiveProtocol:
    found = collective_protocol(device, family=family, link=link, port=port, libraries=libraries or ("nccl",))
    assert found is not None
    return found


def ports(lanes: int, nodes: int = 1) -> GroupPorts:
    return GroupPorts(
        node=np.arange(lanes) * nodes // lanes,
        up_bandwidth=np.full(lanes, 300e9),
        out_bandwidth=np.full(lanes, 50e9 if nodes > 1 else 0.0),
        up_latency=1e-6,
        overhead=5e-6,
        up_energy=1e-11,
    )


@pytest.mark.parametrize(
    ("operation", "factor"),
    [("all_reduce", 2 * 7 / 8), ("all_gather", 7 / 8), ("reduce_scatter", 7 / 8), ("all_to_all", 7 / 8)],
)
def test_bus_bandwidth_factors_of_nccl_tests(operation: str, factor: float) -> None:
    assert WIRE.seconds(operation, 1e9, 8, 100e9) == pytest.approx(factor * 1e9 / 100e9)  # type: ignore[arg-type]


def test_reduction_in_the_switch_moves_a_buffer_and_one_part() -> None:
    terms = replace(WIRE, efficiency=0.5, in_switch=1.0)
    assert terms.seconds("all_reduce", 8e9, 8, 100e9) == pytest.approx(9e9 / 100e9, rel=0.03)
    assert terms.seconds("all_reduce", 8e9, 4, 100e9) == pytest.approx(2 * 2 * 6e9 / 100e9)  # too few ranks for it


@given(TERMS, OPERATIONS, SIZES, RANKS)
def test_no_call_beats_its_ports(terms: CollectiveTerms, operation: str, size: float, ranks: int) -> None:
    took = terms.seconds(operation, size, ranks, 100e9)  # type: ignore[arg-type]
    least = port_bytes(operation, np.float64(size), np.float64(ranks))  # type: ignore[arg-type]
    if terms.in_switch and ranks >= terms.switch_ranks:
        least = min(least, size * (ranks + 1) / ranks)
    assert took >= least / 100e9 * (1 - 1e-12)


@given(TERMS, OPERATIONS, SIZES, st.floats(1.0, 1e3), RANKS)
def test_larger_buffers_never_take_less(
    terms: CollectiveTerms, operation: str, size: float, times: float, ranks: int
) -> None:
    small, large = terms.seconds(operation, [size, size * times], ranks, 100e9)  # type: ignore[arg-type]
    assert large >= small * (1 - 1e-12)


@given(TERMS, OPERATIONS, SIZES, RANKS)
def test_units_scale(terms: CollectiveTerms, operation: str, size: float, ranks: int) -> None:
    """Twice the time unit: half the rate, twice each second."""
    twice = replace(
        terms, launch=2 * terms.launch, round=2 * terms.round, ramp=2 * terms.ramp, staging=2 * terms.staging
    )
    took = terms.seconds(operation, size, ranks, 100e9)  # type: ignore[arg-type]
    assert twice.seconds(operation, size, ranks, 50e9) == pytest.approx(2 * took, rel=1e-12)  # type: ignore[arg-type]


@given(st.floats(1e-9, 1.0), st.floats(1e-9, 1.0))
def test_smooth_minimum(one: float, other: float) -> None:
    found = float(smaller(np.float64(one), np.float64(other)))
    assert min(one, other) * 2 ** (-1 / 4) * (1 - 1e-9) <= found <= min(one, other)
    assert found == float(smaller(np.float64(other), np.float64(one)))


def test_a_rank_alone_makes_no_call() -> None:
    assert CollectiveTerms(1e-5, 1e-6, 0.8).seconds("all_reduce", 1e6, 1, 100e9) == 0.0


def test_published_bus_bandwidths() -> None:
    """NVIDIA's own figures for eight GPUs: DGX A100 230 GB/s (ring), DGX H100 about 480 GB/s with NVLink SHARP."""
    ring = nccl("a100-80-sxm", "ampere", "nvlink3", 300e9)
    reduced = nccl("h100-sxm", "hopper", "nvlink4", 450e9)
    assert float(ring.bus_bandwidth("all_reduce", 4e9, 8)) / 1e9 == pytest.approx(230, rel=0.05)
    assert float(reduced.bus_bandwidth("all_reduce", 4e9, 8)) / 1e9 == pytest.approx(480, rel=0.05)


def test_shipped_calibrations_grow_with_size_and_respect_ports() -> None:
    sizes = np.geomspace(64, 4e9, 200)
    for calibration in load_collective_calibrations():
        protocol = collective_protocol(
            calibration.devices[0], family=calibration.family, link=calibration.link, port=calibration.port
        )
        assert protocol is not None
        for operation, element in protocol.terms:
            for ranks in (2, 4, 8):
                took = protocol.seconds(operation, sizes, ranks, element)
                assert (np.diff(took) > 0).all()
                if not (operation == "all_reduce" and ranks >= 8):
                    assert (protocol.bus_bandwidth(operation, sizes, ranks, element) <= calibration.port).all()


def test_each_operation_comes_from_the_first_library_that_has_it() -> None:
    both = nccl("h200-sxm", "hopper", "nvlink4", 450e9, "vllm-graph", "nccl")
    plain = nccl("h200-sxm", "hopper", "nvlink4", 450e9)
    assert both.seconds("all_gather", 1e6, 8) == plain.seconds("all_gather", 1e6, 8)
    assert both.seconds("all_reduce", 1e4, 8) < plain.seconds("all_reduce", 1e4, 8)
    assert "nccl-2.29.2 measured on h200-sxm" in both.origin


def test_a_version_can_be_named() -> None:
    assert nccl("h200-sxm", "hopper", "nvlink4", 450e9, "nccl-2.26").library == "nccl-2.26.2"


def test_uncalibrated_devices_take_over_terms_and_say_so() -> None:
    taken = nccl("h800-sxm", "hopper", "nvlink4", 200e9)
    assert "taken over from h" in taken.origin
    assert "same family and link nvlink4" in taken.origin
    assert (taken.bus_bandwidth("all_gather", np.geomspace(1e3, 1e10, 50), 8) <= 200e9).all()
    assert "same link pcie" in nccl("rtx4090", "ada-geforce", "pcie", 31.5e9).origin
    assert collective_protocol("mi300x", family="cdna3", link="xgmi", port=64e9) is None


def test_operations_that_were_not_measured() -> None:
    protocol = nccl("h200-sxm", "hopper", "nvlink4", 450e9, "vllm-graph")
    assert "all_reduce" in protocol
    assert "all_gather" not in protocol
    assert "send" not in protocol
    with pytest.raises(KeyError, match="all_gather"):
        protocol.seconds("all_gather", 1e6, 4)


def test_terms_for_other_topologies_rebuild_the_call() -> None:
    protocol = nccl("h100-sxm", "hopper", "nvlink4", 450e9)
    size, ranks = 4e6, 4
    moving = size * 3 / 4 / (450e9 * protocol.efficiency("all_gather", size, ranks))
    rebuilt = protocol.overhead("all_gather") + 3 * protocol.latency("all_gather") + moving
    assert rebuilt == pytest.approx(float(protocol.seconds("all_gather", size, ranks)), rel=1e-12)
    rounds = 6 * protocol.latency("all_reduce")
    assert rounds == pytest.approx(3 * protocol.of("all_reduce").round)


# -- transfers ---------------------------------------------------------------------------------------------------------


def test_a_calibrated_transfer_takes_the_library_s_time_and_moves_the_same_bytes() -> None:
    protocol, sizes = nccl("h100-sxm", "hopper", "nvlink4", 450e9), np.array([0.0, 1e4, 1e8])
    plain = all_reduce(sizes, ports(8))
    found = calibrated(plain, protocol)
    assert found.picoseconds.tolist() == picoseconds(protocol.seconds("all_reduce", sizes, 8)).tolist()
    np.testing.assert_allclose(found.sent, plain.sent)
    np.testing.assert_allclose(found.received, plain.received)
    np.testing.assert_allclose(found.joules, plain.joules)
    assert found.algorithm == protocol.library
    assert (slack(found) == found.picoseconds - (plain.picoseconds - picoseconds(5e-6))).all()


def test_an_uneven_exchange_takes_as_long_as_the_even_one_with_its_busiest_port() -> None:
    protocol = nccl("h100-sxm", "hopper", "nvlink4", 450e9)
    traffic = np.zeros((4, 4))
    traffic[0, 1], traffic[2, 1], traffic[3, 2] = 2e6, 1e6, 5e5
    found = calibrated(all_to_all(traffic, ports(4)), protocol)
    assert int(found.picoseconds) == int(picoseconds(protocol.seconds("all_to_all", 3e6 * 4 / 3, 4)))


def test_operation_by_operation_execution_holds_each_port_for_the_whole_call() -> None:
    protocol = nccl("h100-sxm", "hopper", "nvlink4", 450e9)
    one = calibrated(all_gather(np.full((3, 4), 1e6), ports(4)), protocol).at(1)
    uses = one.phases[0].uses(one.ports, (4, 5, 6, 7))
    assert {use.duration for use in uses} == {int(one.picoseconds)}
    assert len({use.resource for use in uses}) == len(uses) == 8
    nothing = calibrated(all_gather(np.zeros(4), ports(4)), protocol)
    assert nothing.phases[0].uses(nothing.ports, (0, 1, 2, 3)) == []
    assert nothing.phases[0].pause(nothing.ports) == int(nothing.picoseconds) > 0


def test_what_no_library_speaks_for_stays_as_it_is() -> None:
    protocol = nccl("h100-sxm", "hopper", "nvlink4", 450e9, "vllm-graph")
    for transfer in (
        all_reduce(1e6, ports(8, nodes=2)),
        all_reduce(1e6, ports(1)),
        all_gather(np.full(4, 1e6), ports(4)),
    ):
        assert calibrated(transfer, protocol) is transfer
    assert paced(all_reduce(1e6, ports(1)), np.float64(1.0), "any").picoseconds == 0


# -- dispatch and combine ----------------------------------------------------------------------------------------------


def test_ranks_that_a_token_reaches() -> None:
    """DeepSeek-V3 on eight ranks: 8 (1 - C(224, 8) / C(256, 8)) = 5.29 of them, 7/8 of these over the port."""
    load = uniform_load(1000.0, experts=256, top_k=8, ranks=8)
    expected = 8000 * (1 - math.comb(224, 8) / math.comb(256, 8))
    assert load.copies == pytest.approx(expected)
    assert load.up == pytest.approx(expected * 7 / 8)
    assert load.out == 0.0
    assert uniform_load(1.0, experts=8, top_k=2, ranks=8).copies == pytest.approx(2.0)
    assert uniform_load(1.0, experts=8, top_k=8, ranks=4).copies == pytest.approx(4.0)


def test_node_limited_routing_sends_to_no_more_nodes() -> None:
    free = uniform_load(1.0, experts=256, top_k=8, ranks=64, ranks_per_node=8)
    limited = uniform_load(1.0, experts=256, top_k=8, ranks=64, ranks_per_node=8, node_limit=4)
    assert float(limited.out) < float(free.out)  # type: ignore[arg-type]
    assert float(limited.out) * 8 / 7 <= 4.0  # type: ignore[arg-type]


def test_low_latency_sends_a_copy_per_expert() -> None:
    load = uniform_load(128.0, experts=256, top_k=8, ranks=32, mode="low_latency", ranks_per_node=8)
    assert (load.copies, load.up, load.out) == (1024.0, 1024 * 7 / 32, 1024 * 24 / 32)


def test_low_latency_kernels_give_each_sm_the_same_experts() -> None:
    assert low_latency_units([8, 128, 256, 384, 512], 132).tolist() == [8, 128, 128, 128, 128]


@given(st.floats(1.0, 8.0), st.floats(1e-9, 1e-2), st.floats(1e-9, 1e-2), st.floats(0.0, 1e-2))
def test_norm_lies_between_the_largest_and_the_sum(power: float, a: float, b: float, c: float) -> None:
    found = float(norm((np.float64(a), np.float64(b), np.float64(c)), power))
    assert max(a, b, c) * (1 - 1e-9) <= found <= (a + b + c) * (1 + 1e-9)


@given(st.floats(1.0, 1e5), st.floats(1.0, 10.0), st.floats(1.0, 8.0))
def test_expert_kernels_grow_with_tokens_and_respect_ports(tokens: float, times: float, power: float) -> None:
    terms = ExpertTerms(1e-5, 1.0, fill=1e-5, fill_tokens=5.0, copy_time=1e-8, copy_rate=4e10, sharpness=power)
    held = np.array([tokens, tokens * times])
    load = ExpertLoad(held, 5 * held, 4 * held)
    took = terms.seconds(load, 7168.0, units=20.0, port=450e9)
    assert took[1] >= took[0]
    assert (took >= 4 * held * 7168 / 450e9).all()


def test_deepseek_s_published_low_latency_times_on_a_device_that_was_never_fitted() -> None:
    """DeepEP's README, H800: 128 tokens, hidden 7168, top-8 of 256, fp8: microseconds by ranks over several nodes."""
    protocol = expert_protocol("h800-sxm", family="hopper", link="nvlink4", port=200e9, units=132, nic=50e9)
    assert protocol is not None
    for ranks, published in {16: 118, 32: 155, 64: 173, 128: 192, 256: 194}.items():
        load = uniform_load(128.0, experts=256, top_k=8, ranks=ranks, mode="low_latency", ranks_per_node=8)
        took = protocol.seconds(
            "dispatch", load, 7168 * (1 + 4 / 128) + 16, experts=256, mode="low_latency", nodes=ranks // 8
        )
        assert float(took) * 1e6 == pytest.approx(published, rel=0.15)


def test_expert_kernels_that_were_not_measured() -> None:
    protocol = expert_protocol("gb200-gpu", family="blackwell", link="nvlink5", port=900e9, units=148)
    assert protocol is not None
    load = uniform_load(128.0, experts=256, top_k=8, ranks=16, ranks_per_node=8)
    with pytest.raises(KeyError, match="several nodes"):
        protocol.seconds("dispatch", load, 7168.0, experts=256, nodes=2)
    assert expert_protocol("mi300x", family="cdna3", link="xgmi", port=64e9, units=304) is None
