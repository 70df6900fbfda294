"""Lower bounds: closed forms, and no algorithm below them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.fabric.limits import Limit
from moesim.fabric.links import GroupLinks, group_links
from moesim.fabric.network import TopologyFabric
from moesim.fabric.topology import Topology, nest, star
from moesim.spec.errors import MoesimError

from .shapes import grid, leaf_spine

B, A = 1e9, 1e-6


def everyone(topology: Topology) -> GroupLinks:
    return group_links(topology, range(topology.endpoints))


def even(devices: int, bytes_each: float = 1.0) -> np.ndarray:
    return np.full((devices, devices), bytes_each)


def test_all_to_all_on_a_switch() -> None:
    assert Limit(everyone(star(8, B, A))).seconds("all_to_all", even(8, 1e6)) == pytest.approx(A + 7e6 / B)


@pytest.mark.parametrize(("leaves", "hosts", "spines"), [(4, 4, 4), (4, 4, 2), (2, 8, 1)])
def test_oversubscribed_leaves(leaves: int, hosts: int, spines: int) -> None:
    """At least max(n - 1, f (n - p)) m / B, each leaf a node."""
    tree = leaf_spine(leaves, hosts, spines, host=B, uplink=B)
    n = leaves * hosts
    tree = replace(tree, node=np.arange(n) // hosts)
    found = Limit(everyone(tree)).seconds("all_to_all", even(n, 1e6))
    assert found == pytest.approx(max(n - 1, hosts / spines * (n - hosts)) * 1e6 / B, rel=1e-4)


@pytest.mark.parametrize("k", [4, 8])
def test_torus_is_bound_by_its_middle(k: int) -> None:
    """k^3 / 8 in units of m / B: k^2/2 x k^2/2 pairs over 2k links each way, and what dimension order reaches."""
    torus = grid(k, k, ring=True, bandwidth=B)
    assert Limit(everyone(torus)).seconds("all_to_all", even(k * k, 1e6)) == pytest.approx(k**3 / 8 * 1e6 / B, rel=1e-4)


def test_reductions_and_gathers_on_a_switch() -> None:
    limit = Limit(everyone(star(8, B, A)))
    assert limit.seconds("all_reduce", np.array(8e6)) == pytest.approx(A + 2 * 7e6 / B)
    assert limit.seconds("all_gather", np.array(1e6)) == pytest.approx(A + 7e6 / B)
    assert limit.seconds("reduce_scatter", np.array(1e6)) == pytest.approx(A + 7e6 / B)
    assert limit.seconds("broadcast", np.array(1e6)) == pytest.approx(A + 1e6 / B)


def test_a_switch_that_adds_up_halves_the_bound() -> None:
    limit = Limit(everyone(star(8, B, A, reduces=True)))
    assert limit.seconds("all_reduce", np.array(8e6)) == pytest.approx(A + 8e6 / B)


@given(st.integers(0, 5), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_no_algorithm_is_below_its_limit(shape: int, seed: int) -> None:
    nodes = nest([star(4, 4 * B, A)] * 2, star(8, B, 2 * A, level="scale_out"), bandwidth=B)
    topology = [
        star(8, B, A), star(8, B, A, reduces=True), grid(8, ring=True, bandwidth=B, latency=A),
        grid(2, 4, bandwidth=B, latency=A), leaf_spine(2, 4, 2, host=B, uplink=B / 2), nodes,
    ][shape]  # fmt: skip
    draw = np.random.default_rng(seed)
    size, traffic = float(draw.uniform(1, 1e8)), draw.gamma(0.5, 1e6, (8, 8))
    fabric, group = TopologyFabric(topology), range(8)
    limit = Limit(fabric.ports(group))
    exchange = limit.seconds("all_to_all", traffic)
    for name in ("direct", "pairwise", "bruck"):
        assert int(fabric.all_to_all(traffic, group, name).picoseconds) * 1e-12 >= exchange * (1 - 1e-5)
    for operation in ("all_reduce", "all_gather", "reduce_scatter", "broadcast"):
        bytes_of = np.full(8, size) if operation in ("all_gather", "reduce_scatter") else size
        least = limit.seconds(operation, np.array(size))  # type: ignore[arg-type]
        for name in ("auto", "ring", "direct", "halving-doubling", "double-binary-tree", "nvls", "sharp", "tree"):
            try:
                moved = getattr(fabric, operation)(bytes_of, group, algorithm=name)
            except MoesimError:
                continue
            assert int(moved.picoseconds) * 1e-12 >= least * (1 - 1e-5), (operation, name)
