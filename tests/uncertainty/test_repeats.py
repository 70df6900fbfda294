"""Whole runs, repeated."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moesim.cli import main
from moesim.engine.clock import Clock
from moesim.fabric.library import CalibratedFabric
from moesim.fabric.machines import machine_fabric
from moesim.hardware.machine import assemble
from moesim.results import load
from moesim.running import Uncertainty, run
from moesim.serving import simulate
from moesim.serving.simulate import Simulation
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_experiment
from moesim.uncertainty import intervals, repeat
from moesim.uncertainty.sources import COMMON, Source, error_sources, varied
from moesim.uncertainty.spread import lognormal

SMALL = ["requests.count=8", "model.layers=3"]


def repeated(experiment, repeats=32, **options):
    simulation = Simulation(experiment.spec)
    simulation.run()
    return repeat(experiment.spec, simulation.deployments, repeats, **options)


def quickstart(*overrides):
    return load_experiment("quickstart", [*SMALL, *overrides])


def test_a_step_of_one_kernel_scatters_as_the_kernel_does(measured):
    """Three layers of 1 s each: TPOT is 3 s times the residual, of whose variance runs have COMMON in common."""
    found = repeated(measured())
    table = found.metrics["tpot.mean"]
    factor = found.factors[:, [source.name for source in found.sources].index("attention_decode")]
    np.testing.assert_allclose(table, 3.0 * factor, rtol=1e-9)
    low, high = intervals(found)["metrics"]["tpot.mean"]
    assert low == pytest.approx(3.0 * 0.8 ** math.sqrt(COMMON), rel=0.02)
    assert high == pytest.approx(3.0 * 1.3 ** math.sqrt(COMMON), rel=0.02)
    assert intervals(found)["contributions"]["tpot.mean"]["kernels.unit.attention_decode"] == pytest.approx(1.0)


def test_residuals_twice_as_wide_make_an_interval_twice_as_wide(measured):
    widths = []
    for power in (1, 2):
        found = repeated(measured(tuple(each**power for each in (0.8, 0.9, 1.0, 1.15, 1.3))))
        low, high = intervals(found)["metrics"]["tpot.mean"]
        widths.append(math.log(high / low))
    assert widths[1] == pytest.approx(2 * widths[0], rel=1e-3)


def test_without_any_doubt_there_is_no_interval(measured):
    experiment = measured((1.0,) * 5, engine={"step_overhead": "1 s"})
    simulation = Simulation(experiment.spec)
    record = simulation.run()
    found = intervals(repeat(experiment.spec, simulation.deployments, 4))
    assert {name: ends for name, ends in found["metrics"].items() if ends[0] and ends[1] - ends[0] > 1e-12} == {}
    assert found["metrics"]["duration"] == [record.end] * 2
    assert found["metrics"]["tpot.p50"] == [4.0, 4.0]


def test_an_estimated_overhead_is_in_doubt_and_a_given_one_is_not(measured):
    sources = {}
    for estimated in ([], ["step_overhead"]):
        engine = {"step_overhead": "1 s", "estimated": estimated}
        found = repeated(measured((1.0,) * 5, engine=engine))
        sources[len(estimated)] = found
    assert "engine.step_overhead" not in [source.label for source in sources[0].sources]
    low, high = intervals(sources[1])["metrics"]["tpot.mean"]
    assert (low, high) == (pytest.approx(3 + 1 / 1.6, rel=0.02), pytest.approx(3 + 1.6, rel=0.02))


def test_terms_of_a_relative_are_in_more_doubt_than_own_ones(measured):
    own = measured()
    device = own.document["library"]["devices"]["unit"]
    changed = {"machine": {"devices": {"cousin": 1}}, "library": {"devices": {"cousin": {**device, "name": "cousin"}}}}
    other = load_experiment({**own.document, **changed})
    spreads = []
    for experiment in (own, other):
        simulation = Simulation(experiment.spec)
        simulation.run()
        by = {source.name: source for source in error_sources(experiment.spec, simulation.deployments)}
        spreads.append(by["attention_decode"])
    assert spreads[0].origin == "measured: trial-1.0"
    assert spreads[1].origin == "taken over from unit: trial-1.0"
    assert math.log(spreads[1].spread.quantiles[4]) == pytest.approx(1.3 * math.log(spreads[0].spread.quantiles[4]))


def test_kernels_without_measurements_are_said_to_be_estimates():
    simulation = Simulation(quickstart("engine.kernels=[]").spec)
    simulation.run()
    sources = error_sources(quickstart("engine.kernels=[]").spec, simulation.deployments)
    kernels = [source for source in sources if source.what == "kernels"]
    assert {source.name for source in kernels} >= {"attention", "experts", "gemm", "norm", "router"}
    assert all(source.origin == "estimated: datasheet roofline" for source in kernels)
    assert {source.origin for source in sources if source.what == "collectives"} <= {
        "measured on rtx-pro-6000: nccl-2.29.2", "measured on rtx-pro-6000: vllm-graph-0.24.0"
    }  # fmt: skip


def test_a_slower_fabric_takes_so_many_times_as_long():
    spec = load_experiment("quickstart", ["machine={devices: {h200-sxm: 8}, fabric: nvlink4-switch}"]).spec
    name = next(iter(spec.library.fabrics))
    slow, _ = varied(spec, [Source("fabric", "", name, lognormal(2), "")], [2.0], 5)
    times = [
        machine_fabric(assemble(each.machine, each.library)).all_reduce(np.array([1e3, 1e6, 1e9]), range(8)).picoseconds
        for each in (spec, slow)
    ]
    np.testing.assert_allclose(times[1], 2 * times[0], rtol=1e-6)
    assert slow.seed == 5


def test_a_scaled_library_takes_so_many_times_as_long():
    source = Source("collectives", "", "all_gather", lognormal(2), "")
    spec, scales = varied(quickstart().spec, [source], [2.0], 1)
    nominal, scaled = Simulation(spec).deployment.fabric, Simulation(spec, scales).deployment.fabric
    assert isinstance(nominal, CalibratedFabric)
    chunks = np.array([[1e3, 1e3], [1e7, 1e7]])
    times = [fabric.all_gather(chunks, (0, 1)).picoseconds for fabric in (nominal, scaled)]
    np.testing.assert_allclose(times[1], 2 * times[0], rtol=1e-6)
    same = [fabric.reduce_scatter(chunks, (0, 1)).picoseconds for fabric in (nominal, scaled)]
    np.testing.assert_array_equal(*same)


@pytest.mark.parametrize(("machine", "ranks", "origin"), [
    ("{devices: {h200-sxm: 8}, fabric: nvlink4-switch}", 8, "measured on h200-sxm"),
    ("{extends: dgx-h200, nodes: 2}", 16, "taken over from h100-sxm"),
])  # fmt: skip
def test_kernels_that_dispatch_to_experts_scatter_too(machine, ranks, origin):
    """DeepEP was measured on nodes of H200, and over several nodes on H100 alone."""
    parallelism = f"parallelism={{dp: {ranks}, ep: {ranks}}}"
    spec = quickstart(f"machine={machine}", parallelism, "engine=deepep-low-latency", "requests.count=2").spec
    simulation = Simulation(spec)
    nominal = simulation.run()
    sources = [each for each in error_sources(spec, simulation.deployments) if each.name in ("dispatch", "combine")]
    assert {each.name: each.origin.split(":")[0] for each in sources} == {"dispatch": origin, "combine": origin}
    scaled = Simulation(*varied(spec, sources, [2.0, 2.0], spec.seed)).run()
    for name in ("dispatch", "combine"):
        one, two = (record.operators["seconds"][record.operators["name"] == name].sum() for record in (nominal, scaled))
        assert two == pytest.approx(2 * one, rel=0.03)


def test_a_change_of_policy_changes_no_draw():
    one, other = repeated(quickstart(), 3), repeated(quickstart("router=round-robin", "engine.token_budget=256"), 3)
    np.testing.assert_array_equal(one.seed, other.seed)
    np.testing.assert_array_equal(one.factors, other.factors)
    assert (one.metrics["ttft.mean"] != other.metrics["ttft.mean"]).any()


def test_bytes_depend_on_nothing_but_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr("moesim.running.WORTH_A_PROCESS", 1e-6)
    for name, workers in (("one", 1), ("two", 2)):
        run(quickstart(), tmp_path / name, figures=False, uncertainty=Uncertainty(3, workers))
    run(quickstart(), tmp_path / "plain", figures=False)
    one, two, plain = (tmp_path / name for name in ("one", "two", "plain"))
    for path in one.glob("*.parquet"):
        assert path.read_bytes() == (two / path.name).read_bytes()
    assert (one / "summary.json").read_bytes() == (two / "summary.json").read_bytes()
    for path in plain.glob("*.parquet"):
        assert path.read_bytes() == (one / path.name).read_bytes()
    summary = json.loads((one / "summary.json").read_text())
    found = summary.pop("intervals")
    assert summary == json.loads((plain / "summary.json").read_text())
    assert found["repeats"] == 3
    table = load(one).uncertainty
    assert len(table) == 3
    for name in ("tpot.mean", "energy.total", "throughput.output_tokens", "goodput.share"):
        low, high = found["metrics"][name]
        assert table[name].min() <= low <= high <= table[name].max()
    with pytest.raises(MoesimError, match="not repeated"):
        load(plain).uncertainty  # noqa: B018


def test_the_answer_lies_within_its_interval():
    """Residuals have medians near 1: what is reported is no outlier among the repeats."""
    experiment = quickstart()
    record = Simulation(experiment.spec)
    end = record.run().end
    found = repeat(experiment.spec, record.deployments, 8).metrics["duration"]
    assert found.min() < end < found.max()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    sets = [word for text in SMALL for word in ("--set", text)]
    return lambda *options: CliRunner().invoke(main, ["run", "quickstart", "--no-figures", *sets, *options])


@pytest.mark.parametrize(("number", "why"), [
    ("1", "1 repeats give no interval"), ("0", "0 repeats give no interval"), ("1000000", "too many"),
    ("many", "not a valid integer"), ("2.5", "not a valid integer"),
])  # fmt: skip
def test_a_number_of_repeats_that_makes_no_sense(command, number, why):
    result = command("--uncertainty", number)
    assert result.exit_code == 2
    assert why in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not Path("results").exists()


def test_the_command_prints_intervals(command):
    result = command("--uncertainty", "2")
    assert result.exit_code == 0, result.output
    assert "80 % intervals of 2 repeated runs" in result.stdout
    assert json.loads(Path("results/quickstart/summary.json").read_text())["intervals"]["repeats"] == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_keeps_the_repeats_that_finished(tmp_path, monkeypatch, workers):
    monkeypatch.setattr("moesim.running.WORTH_A_PROCESS", 1e-6)

    def interrupt(finished: int, total: int) -> None:
        if finished == 3:
            os.kill(os.getpid(), signal.SIGINT)

    results = run(quickstart(), tmp_path / "run", figures=False, uncertainty=Uncertainty(8, workers, interrupt))
    assert results.manifest["partial"] is True
    assert results.summary["partial"] is False
    assert (results.summary["intervals"]["repeats"], results.summary["intervals"]["asked"]) == (3, 8)
    assert len(results.uncertainty) == 3
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("stops", "kept"), [(3, 0), (4, 2)])
def test_ctrl_c_within_a_repeat_drops_it(tmp_path, monkeypatch, stops, kept):
    """The clock of the run is the first one; a single repeat gives no interval."""
    made = []

    class Stopping(Clock):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)
            if len(made) == stops:
                self.call_at(10**11, self.stop)

    monkeypatch.setattr(simulate, "Clock", Stopping)
    results = run(quickstart(), tmp_path / "run", figures=False, uncertainty=Uncertainty(8))
    assert results.manifest["partial"] is True
    assert results.summary.get("intervals", {}).get("repeats", 0) == kept
    assert (tmp_path / "run" / "uncertainty.parquet").exists() == bool(kept)


def test_ctrl_c_in_the_run_itself_leaves_what_it_always_leaves(tmp_path):
    experiment = load_experiment("quickstart", ["model.layers=3", "requests.count=300"])
    stop = lambda finished, total: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    results = run(experiment, tmp_path / "run", figures=False, progress=stop, uncertainty=Uncertainty(4))
    assert results.summary["partial"] is True
    assert "intervals" not in results.summary
    assert not (tmp_path / "run" / "uncertainty.parquet").exists()
