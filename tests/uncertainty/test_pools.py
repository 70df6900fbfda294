"""Runs on two pools, repeated: what both have is drawn once, and the network between them too."""

from __future__ import annotations

import pytest
import ruler
from ruler import steps, times

from moesim.running import Uncertainty, run
from moesim.serving.simulate import Simulation
from moesim.spec.loading import load_experiment
from moesim.uncertainty.sources import error_sources, varied


@pytest.fixture
def tree(ruler_path, tmp_path):
    """A request of 10 tokens, and 3 to come; steps of 1 s, an estimate in the decode pool alone, and a network
    that moves 10 tokens' entries in 1 s."""
    return ruler.document(
        ruler.write_trace(tmp_path / "trace.csv", [(0, 10, 3)]),
        machine={"devices": {"unit": 2}, "fabric": "net"},
        pools={"prefill": {}, "decode": {"engine": {"estimated": ["step_overhead"]}}},
        library={"devices": {"unit": ruler.device()}, "fabrics": {"net": {**ruler.FABRIC, "bandwidth": "960 B/s"}}},
    )  # fmt: skip


def test_what_is_drawn_of_two_pools(tree):
    """The prompt takes 1 s, the transfer twice its second, each of two decode steps thrice its second."""
    spec = ruler.spec_of(tree)
    simulation = Simulation(spec)
    assert steps(simulation.run()) == [(0, 1), (2, 3), (3, 4)]
    sources = error_sources(spec, simulation.deployments)
    labels = [source.label for source in sources]
    assert len(set(labels)) == len(labels)
    assert {"fabric.net", "engine.step_overhead", "kernels.unit.attention"} <= set(labels)
    factors = [{"fabric.net": 2.0, "engine.step_overhead": 3.0}.get(label, 1.0) for label in labels]
    record = Simulation(*varied(spec, sources, factors, spec.seed)).run()
    assert steps(record) == [(0, 1), (3, pytest.approx(6)), (6, pytest.approx(9))]
    assert times(record, "transfer_end") == [pytest.approx(3)]


def test_intervals_of_a_run_on_two_pools(tree):
    """TTFT is the prompt's step, of which nothing is uncertain; what comes after it is."""
    found = run(load_experiment(tree), uncertainty=Uncertainty(repeats=8)).summary["intervals"]
    low, high = found["metrics"]["ttft.mean"]
    assert low == high == 1
    for name, value in (("transfer.time.mean", 1), ("tpot.mean", 1.5)):
        low, high = found["metrics"][name]
        assert low < value < high
