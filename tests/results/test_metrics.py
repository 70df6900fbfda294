import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.results.metrics import PERCENTILES, clean, distribution, summarise, weighted_percentiles
from moesim.spec.serving import SloSpec

SAMPLES = st.lists(st.tuples(st.floats(0, 1e3), st.integers(0, 5)), min_size=1, max_size=30)


@given(SAMPLES)
def test_weighted_percentiles_are_those_of_the_expanded_sample(sample):
    values, counts = (np.array(column) for column in zip(*sample, strict=True))
    result = weighted_percentiles(values, counts, PERCENTILES)
    if counts.sum() == 0:
        assert np.isnan(result).all()
    else:
        expected = np.percentile(np.repeat(values, counts), PERCENTILES)
        np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-12)


def test_percentiles_of_one_to_hundred():
    # Hyndman and Fan's definition 7: 1 + 99 p.
    result = distribution(np.append(np.arange(1.0, 101.0), np.nan))
    assert result["mean"] == pytest.approx(50.5)
    assert result["p50"] == pytest.approx(50.5)
    assert result["p90"] == pytest.approx(90.1)
    assert result["p99"] == pytest.approx(99.01)


def _three_requests(synthetic):
    """Arrivals 0, 1, 2 s; TTFT 0.1, 0.2, 0.3 s; TPOT 10, 20, 30 ms over 10 further tokens; 100 prompt tokens each."""
    run = synthetic.record(3, layers=0)
    arrival, ttft = np.arange(3.0), np.array([0.1, 0.2, 0.3])
    run.requests |= {
        "arrival": arrival, "first_scheduled": arrival + ttft / 2, "first_token": arrival + ttft,
        "finish": arrival + ttft + np.array([0.1, 0.2, 0.3]), "output_tokens": np.full(3, 11),
        "generated_tokens": np.full(3, 11), "input_tokens": np.full(3, 100), "cached_tokens": np.array([0, 30, 30]),
    }  # fmt: skip
    run.end = 4.0
    return run


def test_throughput_and_goodput_by_hand(synthetic):
    summary = summarise(_three_requests(synthetic), SloSpec(ttft="250 ms", tpot="15 ms"))
    assert summary["throughput"]["requests"] == pytest.approx(3 / 4)
    assert summary["throughput"]["output_tokens"] == pytest.approx(33 / 4)
    assert summary["throughput"]["total_tokens"] == pytest.approx(333 / 4)
    assert summary["goodput"]["requests"] == pytest.approx(1 / 4)
    assert summary["goodput"]["share"] == pytest.approx(1 / 3)
    assert summary["goodput"]["attainment"] == pytest.approx({"ttft": 2 / 3, "tpot": 1 / 3})
    assert summary["requests"]["prefix_hit_rate"] == pytest.approx(0.2)
    assert summary["tpot"]["p50"] == pytest.approx(0.02)
    assert summary["bottleneck"]["waiting_share"] == pytest.approx(0.5)


def test_unfinished_requests_miss_the_slo_and_are_counted(synthetic):
    run = _three_requests(synthetic)
    run.requests["finish"][2] = run.requests["first_token"][2] = np.nan
    run.requests["generated_tokens"][2] = 0
    run.partial = True
    summary = summarise(run, SloSpec(ttft="1 s"))
    assert (summary["requests"]["finished"], summary["requests"]["unfinished"]) == (2, 1)
    assert summary["goodput"]["share"] == pytest.approx(2 / 3)
    assert summary["throughput"]["total_tokens"] == pytest.approx(222 / 4)
    assert summary["partial"] is True


def test_without_slo_there_is_no_goodput(record):
    goodput = summarise(record)["goodput"]
    assert goodput["requests"] is None
    assert goodput["slo"] == {}


def test_sparse_utilisation_of_deepseek_r1(synthetic):
    """MoE-CAP (arXiv 2412.07067): at batch 1 and TPOT 0.1 s, DeepSeek-R1 reads 1,040 GB/s of activated parameters and
    would read 18,901 GB/s with all of them. On eight H100 (3.35 TB/s each) S-MBU is 3.9 % and MBU 70.5 %."""
    run = synthetic.record(3, layers=0, devices=8)
    run.totals = dataclasses.replace(
        run.totals, busy=10.0, step_count=100, sparse_bytes=100 * 104.0e9, dense_bytes=100 * 1890.1e9,
        peak_bandwidth=8 * 3.35e12,
    )  # fmt: skip
    utilisation = summarise(run)["utilisation"]
    assert utilisation["s_mbu"] == pytest.approx(0.0388, abs=5e-5)
    assert utilisation["mbu"] == pytest.approx(0.7053, abs=5e-5)


def test_utilisation_does_not_depend_on_replication(synthetic):
    """Two replicas that each do the same work in the same time on the same devices: same MFU."""
    one, two = synthetic.record(3, layers=0, devices=2), synthetic.record(3, layers=0, devices=4)
    two.devices["replica"] = np.array([0, 0, 1, 1])
    spare = synthetic.record(3, layers=0, devices=3)
    spare.devices["replica"] = np.array([0, 0, -1])
    doubled = {name: 2 * getattr(one.totals, name) for name in
               ("busy", "sparse_flops", "dense_flops", "sparse_bytes", "dense_bytes", "peak_flops",
                "peak_bandwidth")}  # fmt: skip
    two.totals = dataclasses.replace(one.totals, **doubled)
    assert summarise(two)["utilisation"] == pytest.approx(summarise(one)["utilisation"])
    assert summarise(spare)["utilisation"] == pytest.approx(summarise(one)["utilisation"])


def test_energy_and_cost_by_hand(synthetic):
    run = _three_requests(synthetic)
    summary = summarise(run)
    assert summary["energy"]["chassis"] == pytest.approx(200 * 4.0)
    devices = sum(run.devices[f"energy_{part}"].sum() for part in ("compute", "memory", "link", "idle"))
    assert summary["energy"]["total"] == pytest.approx(devices + 800)
    assert summary["energy"]["per_output_token"] == pytest.approx((devices + 800) / 33)
    assert summary["cost"]["total"] == pytest.approx(4 * 1e-3)
    assert summary["cost"]["per_million_output_tokens"] == pytest.approx(4e-3 / 33 * 1e6)
    run.totals = dataclasses.replace(run.totals, price=0.0)
    assert summarise(run)["cost"] == {"total": None, "per_million_output_tokens": None}


def test_links_and_communication_by_hand(synthetic):
    """Ports of 50 GB/s that carried 0, 1 and 2 GB each way in 4 s; of 4 s of collectives half is their least time."""
    run = synthetic.record(3, devices=3, layers=0)
    run.end = 4.0
    run.operators |= {
        "seconds": np.array([6.0, 4.0]), "compute_seconds": np.array([6.0, 0.0]), "memory_seconds": np.zeros(2),
        "network_seconds": np.array([0.0, 4.0]), "overhead_seconds": np.zeros(2), "name": np.array(["qkv", "combine"]),
        "kind": np.array(["gemm", "collective"]), "least_seconds": np.array([np.nan, 2.0]),
    }  # fmt: skip
    run.totals.hidden, run.totals.sharing = 1.0, 0.5
    network = summarise(run)["network"]
    (busiest,) = network["busiest"]
    assert (busiest["level"], busiest["link"], busiest["alike"]) == ("scale_up", "node0/gpu2 -> switch", 1)
    assert busiest["utilisation"] == pytest.approx(2 / (4 * 50))
    assert (network["exposed"], network["hidden"], network["sharing"]) == (3.0, 1.0, 0.5)
    assert network["exposed_share"] == pytest.approx(0.3)
    assert (network["least"], network["distance"]) == (2.0, pytest.approx(2.25))


def test_a_machine_without_links_has_none_that_is_busy(synthetic):
    run = synthetic.record(2, layers=0)
    run.links = {name: column[:0] for name, column in run.links.items()}
    assert summarise(run)["network"]["busiest"] == []


def test_fullest_device_speaks_for_memory(synthetic):
    run = synthetic.record(3, layers=0)
    run.devices["kv_bytes"] = np.array([10e9, 60e9])
    memory = summarise(run)["memory"]
    assert memory["kv"] == 60e9
    assert memory["share"] == pytest.approx(91 / 96)


def test_uniform_experts_have_imbalance_one(synthetic):
    run = synthetic.record(3, layers=4, experts=8)
    run.expert_tokens = np.full((4, 8), 5.0)
    assert summarise(run)["experts"]["run_imbalance"] == pytest.approx(1)
    run.expert_tokens[0, 0] = 13.0  # mean 6, max 13 in one of four layers
    assert summarise(run)["experts"]["run_imbalance"] == pytest.approx((3 + 13 / 6) / 4)


def test_summary_is_plain_json(synthetic, record):
    for run in (record, synthetic.record(1, layers=0, devices=1)):
        assert json.loads(json.dumps(summarise(run), allow_nan=False))["steps"] == run.totals.step_count
    assert clean({"a": np.float64("nan"), "b": [np.int64(3)], "c": float("inf")}) == {"a": None, "b": [3], "c": None}


def test_nothing_finished_gives_nulls(synthetic):
    run = synthetic.record(2, layers=0)
    for name in ("first_scheduled", "first_token", "finish"):
        run.requests[name] = np.full(2, np.nan)
    run.requests["generated_tokens"] = np.zeros(2, int)
    run.iterations = {name: column[:0] for name, column in run.iterations.items()}
    run.itl = {name: column[:0] for name, column in run.itl.items()}
    summary = summarise(run, SloSpec(ttft="1 s"))
    assert summary["ttft"]["mean"] is None
    assert summary["itl"]["p99"] is None
    assert summary["energy"]["per_output_token"] is None
    assert summary["goodput"]["share"] == 0
