"""A change against its base: differences, intervals, and parts that add up."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import ruler
from toy_decoding import decoding

import moesim
from moesim.explore.choice import chosen
from moesim.explore.made import made
from moesim.explore.whatif import apart_sources, interval
from moesim.results import load
from moesim.spec.errors import MoesimError

SMALL = ["requests.count=8", "model.layers=3"]


@pytest.fixture
def ideal(ruler_families: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOESIM_PATH", str(ruler_families))


@pytest.fixture(scope="module")
def faster():
    """Two other devices on another fabric, four pairs."""
    change = ["machine={devices: {h200-sxm: 2}, fabric: nvlink4-switch}"]
    return moesim.load("quickstart", set=SMALL).whatif(change, repeats=4)


def test_a_change_that_changes_nothing_differs_by_nothing():
    found = moesim.load("quickstart", set=SMALL).whatif(["seed=1", "parallelism.ep=2"], repeats=3)
    known = found.metrics[found.metrics["base"].notna()]
    assert len(known) > 60
    for column in ("difference", "relative", "low", "high"):
        assert (known[column] == 0).all(), column
    assert not found.metrics["clear"].any()
    assert (found.causes["difference"] == 0).all()
    assert found.apart == ()
    assert len(found.shared) > 5


def test_parts_add_up_to_the_means(faster):
    for side, results in (("base", faster.base), ("change", faster.change)):
        sums = faster.causes.groupby("of")[side].sum()
        for name in ("tpot", "ttft", "e2e"):
            assert sums[name] == pytest.approx(results.summary[name]["mean"], rel=1e-9)
        steps = results.iterations["duration"].mean()
        assert sums["step"] == pytest.approx(steps, rel=1e-9)
    shares = faster.causes.groupby("of")["share"].sum()
    np.testing.assert_allclose(shares, 1.0, rtol=1e-9)


def test_rounding_is_a_small_part(faster):
    rest = faster.causes[(faster.causes["part"] == "rounding") & (faster.causes["of"] == "step")]
    assert abs(float(rest["base"].iloc[0])) < 1e-4 * faster.base.iterations["duration"].mean()


def test_parts_say_where(faster):
    causes = faster.causes[faster.causes["of"] == "tpot"]
    places = {bound: set(rows["where"]) for bound, rows in causes.groupby("bound")}
    assert places["memory"] == {"gddr of rtx-pro-6000 → hbm of h200-sxm"}
    assert places["network"] == {"pcie5-host → nvlink4-switch"}
    assert set(causes[causes["bound"] == "network"]["part"]) == {"dispatch", "combine"}


def test_differences_are_those_of_the_pairs(faster):
    """The mean of the draws lies where the interval does, and the metrics are those of the two results."""
    row = faster.metrics.set_index("metric").loc["tpot.mean"]
    assert row["change"] - row["base"] == pytest.approx(row["difference"])
    assert row["relative"] == pytest.approx(row["difference"] / row["base"])
    assert row["base"] == faster.base.summary["tpot"]["mean"]
    low, high = np.percentile(faster.draws["tpot.mean"], [10, 90])
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert row["high"] < 0
    assert row["clear"]


def test_the_machine_is_compared_too(faster):
    """Power limits from the descriptors: 600 W and 700 W; certain, so that their interval is the difference."""
    row = faster.metrics.set_index("metric").loc["machine.power"]
    assert row[["base", "change", "low", "high"]].tolist() == [1200, 1400, 200, 200]
    assert row["clear"]


def test_another_device_errs_on_its_own_the_engine_does_not(faster):
    assert "engine.exposed_overhead" in faster.shared
    assert "kernels.h200-sxm.gemm" in faster.apart
    assert "collectives.all_gather" in faster.apart  # measured on another device, although it is called alike


def test_the_same_device_errs_alike_and_another_engine_on_its_own():
    base = moesim.load("quickstart", set=SMALL)
    one = made(base.loaded)
    assert apart_sources(one, made(base.set(["requests.rate=20/s"]).loaded)) == frozenset()
    other = apart_sources(one, made(base.set(["engine=sglang-0.5"]).loaded))
    assert {label for label in other if label.startswith("engine.")} != set()


@pytest.mark.usefixtures("ideal")
def test_twice_the_bandwidth_halves_what_waits_for_it(tmp_path):
    """A prompt and 8 decoding steps of a model whose bytes take time, and 1 us of the host in each."""
    base = moesim.load(decoding(tmp_path, bandwidth="1 GB/s", overhead="1 us"))
    found = base.whatif({"library.devices.unit.memory": [{"tier": "hbm", "capacity": "1 GB", "bandwidth": "2 GB/s"}]},
                        repeats=0)  # fmt: skip
    causes = found.causes[found.causes["of"] == "step"].groupby("bound")[["base", "change"]].sum()
    assert causes["change"]["memory"] == pytest.approx(causes["base"]["memory"] / 2, rel=1e-3)
    np.testing.assert_allclose(causes.loc["overhead"], 1e-6, rtol=1e-3)
    assert found.repeats == 0
    assert found.metrics["low"].isna().all()


@pytest.mark.usefixtures("ideal")
def test_host_time_is_laid_to_the_host(tmp_path):
    """A step takes 1 s of the host and nothing else; the change adds half a second."""
    found = moesim.load(decoding(tmp_path, overhead="1 s")).whatif(["engine.step_overhead=1.5 s"], repeats=0)
    moved = found.causes[(found.causes["of"] == "tpot") & (found.causes["difference"].abs() > 1e-9)]
    assert moved["part"].tolist() == ["host"]
    assert float(moved["difference"].iloc[0]) == pytest.approx(0.5, rel=1e-9)


@pytest.mark.usefixtures("ideal")
def test_waiting_is_told_from_steps(tmp_path):
    """Steps of 1 s, one sequence at a time: the second of two prompts, sent together, waits for the two steps of the
    first one in the queue; its own prompt takes a step."""
    trace = ruler.write_trace(tmp_path / "trace.csv", [(0.0, 8, 2), (0.0, 8, 2)])
    base = moesim.load(ruler.document(trace, engine={"max_sequences": 1}))
    found = base.whatif(["engine.max_sequences=2"], repeats=0)
    parts = found.causes[found.causes["of"] == "ttft"].set_index("part")
    assert parts["base"].to_dict() == pytest.approx(
        {"in the queue": 1.0, "for the step in progress": 0.0, "steps of the prompt": 1.0}
    )
    assert parts["change"]["in the queue"] == pytest.approx(0.0)


def test_with_pools_the_way_to_the_decode_pool_is_told_from_its_steps():
    """One sequence at a time in the decode pool: the others wait on the way there."""
    base = moesim.load("quickstart", set=[*SMALL, "parallelism={dp: 1}", "pools={prefill: {}, decode: {}}"])
    found = base.whatif(["pools.decode.engine.max_sequences=1"], repeats=2)
    assert found.repeats == found.asked == 2
    assert "engine.exposed_overhead" in found.shared
    parts = found.causes[found.causes["of"] == "tpot"].set_index("part")
    assert parts["change"].sum() == pytest.approx(found.change.summary["tpot"]["mean"], rel=1e-9)
    assert parts["difference"]["transfer to the decode pool"] > 0
    assert parts["difference"]["steps of the decode pool"] <= 0


def test_a_training_step_is_compared_too():
    base = moesim.load(
        {
            "model": {"extends": "qwen3-30b-a3b", "layers": 2}, "machine": "dgx-h100", "engine": "vllm-0.19",
            "parallelism": {"dp": 8, "ep": 8}, "training": {"batch": 8, "sequence": 512},
        }
    )  # fmt: skip
    found = base.whatif({"machine": "dgx-h200"}, repeats=4)
    assert found.repeats == 0
    sums = found.causes.groupby("of")[["base", "change"]].sum().loc["step"]
    assert sums["base"] == pytest.approx(found.base.summary["training"]["step_time"], rel=1e-9)
    assert sums["change"] == pytest.approx(found.change.summary["training"]["step_time"], rel=1e-9)
    memory = found.causes[found.causes["bound"] == "memory"]
    assert set(memory["where"]) == {"hbm of h100-sxm → hbm of h200-sxm"}
    assert memory["difference"].sum() < 0  # the same arithmetic, 1.43 times the bandwidth


def test_what_is_written_can_be_read(faster, tmp_path):
    import pandas as pd

    folder = faster.write(tmp_path / "out")
    table = pd.read_parquet(folder / "metrics.parquet")
    pd.testing.assert_frame_equal(table, faster.metrics, check_dtype=False)
    assert list(pd.read_csv(folder / "causes.csv").columns) == list(faster.causes.columns)
    assert len(pd.read_parquet(folder / "draws.parquet")) == 4
    assert json.loads((folder / "whatif.json").read_text())["shared"] == list(faster.shared)
    assert load(folder / "change").summary["tpot"] == faster.change.summary["tpot"]
    with pytest.raises(MoesimError, match="exists"):
        faster.write(tmp_path / "out")
    faster.write(tmp_path / "out", overwrite=True)


def test_a_change_that_cannot_run_says_so():
    with pytest.raises(MoesimError, match="does not fit"):
        moesim.load("quickstart", set=SMALL[:1]).whatif(["machine.devices={rtx4090: 2}"], repeats=0)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (["tpot.p50"], ["tpot.p50"]),
        (["ttft"], ["ttft.mean", "ttft.p50"]),
        (["ttft.p50", "ttft"], ["ttft.p50", "ttft.mean"]),
        (["latency"], ["e2e.p50"]),
        ([], ["duration", "ttft.mean", "ttft.p50", "tpot.p50", "e2e.p50"]),
    ],
)
def test_metrics_are_chosen_by_name_or_group(wanted, found):
    assert chosen(wanted, ["duration", "ttft.mean", "ttft.p50", "tpot.p50", "e2e.p50"]) == found


def test_a_metric_that_does_not_exist_is_not_chosen():
    with pytest.raises(MoesimError, match=r"no metric 'ttfd'; did you mean 'ttft'"):
        chosen(["ttfd"], ["ttft.mean", "duration"])


def test_intervals_leave_out_what_is_not_defined():
    assert interval(np.array([1.0, np.nan, 2.0])) == (pytest.approx(1.1), pytest.approx(1.9))
    assert all(map(math.isnan, interval(np.array([1.0]))))
