"""Elasticities and the ladder, against closed forms."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from toy_decoding import decoding

import moesim
from moesim.explore.explain import STEP, explain
from moesim.explore.knobs import knobs, value_at, with_value
from moesim.explore.made import made
from moesim.explore.pool import Job, measured
from moesim.serving.scales import NOMINAL
from moesim.serving.simulate import Simulation
from moesim.spec.errors import MoesimError

SMALL = ["requests.count=4", "model.layers=2"]
BANDWIDTH = "library.devices.unit.memory.0.bandwidth"


@pytest.fixture
def ideal(ruler_families: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOESIM_PATH", str(ruler_families))


def rows(tree, metric="tpot.mean", **options):
    found = moesim.load(tree).explain(metrics=[metric], **options)
    return found, found.table().set_index("knob")


@pytest.mark.usefixtures("ideal")
def test_decoding_bound_by_bandwidth_has_elasticity_minus_one(tmp_path):
    """Bytes over bandwidth: time x bandwidth stays the same, to the picoseconds that times are rounded to."""
    _, table = rows(decoding(tmp_path, bandwidth="1 MB/s"))
    assert table["elasticity"][BANDWIDTH] == pytest.approx(-1.0, abs=1e-6)
    assert table["high"][BANDWIDTH] == pytest.approx(1 / STEP - 1, abs=1e-6)
    assert table["low"][BANDWIDTH] == pytest.approx(STEP - 1, abs=1e-6)
    assert table["gain"][BANDWIDTH] == table["high"][BANDWIDTH]
    assert table.index[0] == BANDWIDTH


@pytest.mark.usefixtures("ideal")
def test_an_overhead_beside_the_bytes_takes_its_share(tmp_path):
    """Time = b / x + s, turned by 1.1 either way: Amdahl's law between two points."""
    bytes_alone = moesim.load(decoding(tmp_path, bandwidth="1 MB/s")).run().summary["tpot"]["mean"]
    _, table = rows(decoding(tmp_path, bandwidth="1 MB/s", overhead=f"{bytes_alone!r} s"))
    expected = math.log((1 + 1 / STEP) / (1 + STEP)) / (2 * math.log(STEP))
    assert table["elasticity"][BANDWIDTH] == pytest.approx(expected, rel=1e-4)
    assert table["elasticity"]["engine.step_overhead"] == pytest.approx(-expected, rel=1e-4)
    assert table["gain"]["engine.step_overhead"] < 0  # less host time, less TPOT


@pytest.mark.usefixtures("ideal")
def test_launches_are_a_number_of_their_own(tmp_path):
    """A paced attention kernel takes 1 s to start and no time to work: TPOT is proportional to the launch."""
    _, table = rows(decoding(tmp_path, family="paced"))
    assert table["elasticity"]["launches.unit"] == pytest.approx(1.0, abs=1e-6)
    assert table["elasticity"]["kernels.unit.attention"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.usefixtures("ideal")
def test_what_a_run_does_not_depend_on_has_no_effect(tmp_path):
    """All the time is the host's."""
    found, table = rows(decoding(tmp_path, overhead="1 s"))
    assert table["elasticity"]["engine.step_overhead"] == pytest.approx(1.0, abs=1e-9)
    assert set(table.index) - set(found.without) == {"engine.step_overhead"}
    assert "library.devices.unit.links.wire" in found.without
    assert "engine.max_sequences" in found.without


@pytest.mark.usefixtures("ideal")
def test_the_ladder_relieves_the_largest_first(tmp_path):
    """Bytes take twice as long as the host: half of the bytes' time goes first, then half of the host's."""
    alone = moesim.load(decoding(tmp_path, bandwidth="1 MB/s")).run().summary["tpot"]["mean"]
    found, _ = rows(decoding(tmp_path, bandwidth="1 MB/s", overhead=f"{alone / 2!r} s"))
    assert found.ladder["resource"].tolist() == ["memory bandwidth", "host"]
    np.testing.assert_allclose(found.ladder["after"], [alone, 0.75 * alone], rtol=1e-4)
    np.testing.assert_allclose(found.ladder["so_far"], [1 / 1.5 - 1, 0.75 / 1.5 - 1], rtol=1e-4)


def test_measured_kernels_follow_the_rates_of_their_device():
    """With twice the rates and half the launches, every measured kernel takes about half as long; what is left over are
    waves and rounds, which are times. Its terms stay those of the same device and stack."""
    base = moesim.load("quickstart", set=[*SMALL, "parallelism={dp: 1}", "machine.devices={h100-sxm: 1}"])
    run = made(base.loaded)
    known = {knob.name: knob for knob in knobs(run.spec, run.deployments)}
    spec, scales, root = run.spec, NOMINAL, "library.devices.h100-sxm"
    for name in (f"{root}.compute.bf16", f"{root}.memory.0.bandwidth"):
        spec, scales, _ = known[name].apply(spec, scales, 2.0)
    spec, scales, _ = known["launches.h100-sxm"].apply(spec, scales, 0.5)
    faster = Simulation(spec, scales)
    operators, before = faster.run().operators, run.results.operators.set_index("name")["seconds"]
    seconds = dict(zip(operators["name"].tolist(), operators["seconds"].tolist(), strict=True))
    for name in ("qkv", "output", "experts", "attention", "lm_head"):
        assert 0.49 < seconds[name] / before[name] < 0.75, name
    assert faster.deployments[0].kernels.sources() == run.deployments[0].kernels.sources()


def test_an_experiment_of_the_library_is_explained(tmp_path):
    """One device: no links, no collectives."""
    alone = [*SMALL, "machine={devices: {rtx-pro-6000: 1}}", "parallelism={dp: 1}"]
    found = moesim.explain("quickstart", set=alone, metrics=["tpot.mean", "energy.per_output_token"])
    table = found.table().set_index("knob")
    assert -1 < table["elasticity"]["library.devices.rtx-pro-6000.memory.0.bandwidth"] < 0
    assert "library.devices.rtx-pro-6000.compute.clock" in found.without
    energy = found.table("energy.per_output_token").set_index("knob")
    assert energy["gain"]["library.devices.rtx-pro-6000.power.tdp"] < 0  # idle power is a share of it
    folder = found.write(tmp_path / "out")
    stems = ("tornado-tpot-mean", "tornado-energy-per_output_token")
    assert {path.name for path in folder.glob("tornado-*")} == {
        f"{stem}.{form}" for stem in stems for form in ("pdf", "png", "csv")
    }
    assert json.loads((folder / "explanation.json").read_text())["without"] == list(found.without)


@pytest.mark.usefixtures("ideal")
def test_drawn_errors_make_an_interval_of_the_elasticity(tmp_path):
    """Half bytes, half host: whichever draws the longer times has more weight than without errors."""
    alone = moesim.load(decoding(tmp_path, bandwidth="1 MB/s")).run().summary["tpot"]["mean"]
    tree = decoding(tmp_path, bandwidth="1 MB/s", overhead=f"{alone!r} s")
    _, table = rows(tree, repeats=4)
    row = table.loc[BANDWIDTH]
    assert -1 < row["interval_low"] < row["elasticity"] < row["interval_high"] < 0


def test_whole_numbers_stay_whole_and_shares_end_at_one():
    run = made(moesim.load("quickstart", set=[*SMALL, "engine.block_size=1"]).loaded)
    known = {knob.name: knob for knob in knobs(run.spec, run.deployments)}
    spec, _, factor = known["engine.block_size"].apply(run.spec, NOMINAL, 1.1)
    assert (spec.engine.block_size, factor) == (2, 2.0)
    spec, _, factor = known["engine.block_size"].apply(run.spec, NOMINAL, 1 / 1.1)
    assert (spec.engine.block_size, factor) == (1, 1.0)
    spec, _, factor = known["engine.memory_utilization"].apply(run.spec, NOMINAL, 2.0)
    assert (spec.engine.memory_utilization, factor) == (1.0, pytest.approx(1 / 0.9))


def test_a_value_deep_inside_is_replaced_and_nothing_else():
    spec = moesim.load("quickstart").spec
    path = ("library", "devices", "rtx-pro-6000", "memory", 0, "bandwidth")
    changed = with_value(spec, path, 7.0)
    assert value_at(changed, path) == 7.0
    assert with_value(changed, path, value_at(spec, path)) == spec


def test_one_repeat_gives_no_interval():
    with pytest.raises(MoesimError, match="1 repeats give no interval"):
        explain(moesim.load("quickstart").loaded, repeats=1)


def test_kernels_of_the_decode_pool_are_turned_too(trial):
    """Attention of the decode pool's device: slower, it makes TPOT longer and leaves the first token alone."""
    trial["pools"] = {
        name: {"machine": {"devices": {device: 2}, "fabric": "pcie4-host", "nic": "50 GB/s"}}
        for name, device in (("prefill", "rtx4090"), ("decode", "l40s"))
    } | {"transfer": {"fabric": "ib-ndr400"}}
    run = made(moesim.load(trial).loaded)
    known = {knob.name: knob for knob in knobs(run.spec, run.deployments)}
    slower = known["kernels.l40s.attention_decode"].apply(run.spec, NOMINAL, 2.0)
    found = measured(Job(*slower[:2]))
    assert found["tpot.mean"] > run.metrics["tpot.mean"]
    assert found["ttft.mean"] == run.metrics["ttft.mean"]
