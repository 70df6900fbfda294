import dataclasses

import numpy as np
import pandas as pd
import pytest

from moesim.results import from_record, manifest
from moesim.results.compare import (
    MIXED,
    PAIRED,
    REPEATED,
    SAMPLED,
    Difference,
    Side,
    compare,
    of_results,
    open_sides,
    percentile_interval,
)
from moesim.spec.errors import MoesimError


def test_the_interval_of_a_percentile_holds_it_in_four_of_five_samples():
    """Exponential samples, whose quantiles are -log(1 - p)."""
    random = np.random.default_rng(5)
    for level in (0.5, 0.9):
        ends = [percentile_interval(random.exponential(size=200), level) for _ in range(2000)]
        held = np.mean([low <= -np.log(1 - level) <= high for low, high in ends])
        assert held == pytest.approx(0.8, abs=0.04)


def test_the_interval_of_a_mean_is_normal():
    sample = np.arange(100.0)
    found = compare(Side("a", {"ttft.mean": 49.5}, {"ttft": sample}), Side("b", {"ttft.mean": 50.0}))
    error = 1.2815515655 * sample.std(ddof=1) / 10
    assert (found[0].low, found[0].high) == pytest.approx((0.5 - error, 0.5 + error))
    assert found[0].basis == SAMPLED
    assert found[0].exceeds is False


def _repeated(label, values, seed):
    return Side(label, {"tpot.mean": float(np.mean(values))}, repeats=pd.DataFrame({"tpot.mean": values}), seed=seed)


def test_repeats_of_one_seed_are_compared_pair_by_pair():
    """What both share cancels: a difference far smaller than either interval is seen."""
    shared = np.random.default_rng(1).normal(10, 3, 32)
    first = _repeated("a", shared, 1)
    paired = compare(first, _repeated("b", shared + 0.1, 1))[0]
    assert (paired.low, paired.high) == pytest.approx((0.1, 0.1))
    assert (paired.basis, paired.exceeds) == (PAIRED, True)
    apart = compare(first, _repeated("b", shared + 0.1, 2))[0]
    assert apart.basis == REPEATED
    assert apart.exceeds is False
    assert apart.high - apart.low > np.ptp(np.percentile(shared, (10, 90)))


def test_a_repeated_run_against_a_measurement_takes_both_errors():
    sample = np.random.default_rng(2).normal(12, 2, 400)
    run = _repeated("run", np.linspace(9, 11, 101), 1)
    measured = Side("measured", {"tpot.mean": float(sample.mean())}, {"tpot": sample})
    found = compare(run, measured)[0]
    error = np.hypot(0.8, 1.2815515655 * sample.std(ddof=1) / 20)
    assert found.change - found.low == pytest.approx(error)
    assert found.basis == MIXED
    assert found.exceeds is True
    assert compare(run, Side("values", {"tpot.mean": 10.5}))[0].basis == REPEATED


def test_metrics_without_an_interval_are_left_open():
    found = compare(Side("a", {"steps": 10.0, "x": 1.0}), Side("b", {"steps": 11.0}))
    assert [(each.metric, each.exceeds) for each in found] == [("steps", None)]
    assert found[0].relative == pytest.approx(0.1)


def test_nothing_in_common_is_an_error():
    with pytest.raises(MoesimError, match="no metric in common"):
        compare(Side("a", {"x": 1.0}), Side("b", {"y": 1.0}))


def test_a_run_equals_itself(record):
    side = of_results(from_record(record, {"name": "trial"}, manifest(seed=1)))
    assert all(each.equal and not each.exceeds for each in compare(side, dataclasses.replace(side, label="again")))


def test_sides_of_one_name_are_told_apart(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "requests.csv").write_text("ttft_ms\n10\n20\n")
        (tmp_path / folder / "same.csv").write_text("ttft_ms\n10\n20\n")
    sides = open_sides(tmp_path / "one" / "same.csv", tmp_path / "two" / "same.csv")
    assert len({side.label for side in sides}) == 2
    assert [side.label for side in open_sides(tmp_path / "one", tmp_path / "two")] == ["one", "two"]


def test_a_difference_knows_its_size():
    assert Difference("x", 2.0, 3.0).relative == 0.5
    assert np.isnan(Difference("x", 0.0, 3.0).relative)
