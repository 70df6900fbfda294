"""Searches: the front, what is learned, what goes on where it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moesim.explore.front import covered, dominates, front, hypervolume
from moesim.explore.metrics import constraint, known_metrics, metric, objective
from moesim.explore.search import ALWAYS, goals, promoted
from moesim.spec.errors import MoesimError
from moesim.spec.study import load_study

pytest.importorskip("optuna", reason="needs Optuna: pip install 'moesim[explore]'")

from moesim.explore.python import search

_points = arrays(float, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.integers(0, 9).map(float))


@given(_points)
def test_the_front_is_what_nothing_dominates(values: np.ndarray[Any, Any]) -> None:
    expected = [not any(dominates(other, each) for other in values.tolist()) for each in values.tolist()]
    assert front(values).tolist() == expected


@given(_points)
def test_the_hypervolume_is_what_random_points_say(values: np.ndarray[Any, Any]) -> None:
    """Coordinates are whole numbers, so that unit cells can be counted."""
    reference = np.full(values.shape[1], 10.0)
    cells = np.stack(np.meshgrid(*[np.arange(10)] * values.shape[1], indexing="ij"), axis=-1).reshape(
        -1, values.shape[1]
    )
    dominated = (values[:, None] <= cells).all(axis=2).any(axis=0)
    assert hypervolume(values, reference) == pytest.approx(dominated.sum())


def test_the_hypervolume_never_falls() -> None:
    values = np.random.default_rng(1).random((30, 2))
    values[5] = np.nan
    assert (np.diff(covered(values)) >= 0).all()
    assert 0 < covered(values)[-1] <= 1


def test_metrics_have_short_names_goals_and_near_misses() -> None:
    assert objective("latency") == ("e2e.p50", "minimise")
    assert objective("throughput") == ("throughput.output_tokens", "maximise")
    assert objective("maximize tpot.mean") == ("tpot.mean", "maximise")
    assert {"machine.area", "machine.power", "cost.total"} <= set(known_metrics())
    with pytest.raises(MoesimError, match=r"no metric 'ttft\.p98'; did you mean 'ttft\.p99'"):
        metric("ttft.p98")
    with pytest.raises(MoesimError, match=r"say which: ttft\.mean"):
        metric("ttft")


def test_constraints_read_units_and_say_by_how_much_they_are_missed() -> None:
    limit = constraint("ttft.p99 <= 500 ms")
    assert limit.holds({"ttft.p99": 0.5})
    assert not limit.holds({"ttft.p99": float("nan")})
    assert limit.violation({"ttft.p99": 0.75}) == pytest.approx(0.5)
    assert constraint("goodput.share > 0.9").violation({"goodput.share": 0.45}) == pytest.approx(0.5)
    for text in ("ttft.p99", "ttft.p99 <= soon", "ttft.p99 = 2 s"):
        with pytest.raises(MoesimError):
            constraint(text)


def test_a_trial_goes_on_unless_too_many_before_it_dominate_it() -> None:
    seen = [[1.0, float(n)] for n in range(10)]
    assert promoted([9.0, 9.0], seen[: ALWAYS - 1])
    assert promoted([2.0, 2.5], seen)  # three of ten
    assert not promoted([2.0, 3.5], seen)


def study(trial: dict[str, Any], **keys: Any) -> dict[str, Any]:
    trial["requests"]["count"] = 10
    return {
        "name": "study", "experiment": trial, "objectives": ["latency", "throughput"],
        "axes": {"parallelism.ep": [1, 2, 3], "requests.rate": {"low": 1, "high": 200, "scale": "log", "unit": "/s"}},
        "search": {"trials": 14, "seed": 3}, **keys,
    }  # fmt: skip


@pytest.mark.parametrize(("asked", "change", "message"), [
    ({"objectives": ["cost"]}, {"price": None}, "cost.per_million_output_tokens has no value: no price"),
    ({"objectives": ["latency"], "constraints": ["machine.price <= 1"]}, {"price": None}, "machine.price has no value"),
    ({"objectives": ["goodput"]}, {"price": "5 $/h"}, "goodput.requests has no value: the experiment has no slo"),
    ({"objectives": ["cost"]}, {"price": "5 $/h"}, None),
    ({"objectives": ["cost"], "axes": {"machine.price": ["5 $/h", "6 $/h"]}}, {"price": None}, None),
])  # fmt: skip
def test_objectives_without_a_value_are_refused_at_once(trial, asked, change, message, tmp_path) -> None:
    device = {"extends": "rtx4090", "price": None}
    trial["library"] = {"devices": {"unpriced": device}}
    trial["machine"] = {"devices": {"unpriced": 4}, "fabric": "pcie4-host", **change}
    wanted = study(trial, **{"search": {"trials": 2, "seed": 3}, **asked})
    if message is None:
        assert len(search(wanted))
        return
    with pytest.raises(MoesimError, match=message):
        search(wanted, journal=tmp_path / "trials.log")
    assert not (tmp_path / "trials.log").exists()


def test_the_same_seed_gives_the_same_trials(trial: dict[str, Any], tmp_path: Any) -> None:
    one = search(study(trial))
    other = search(study(trial), cache=tmp_path / "another")
    assert one.equals(other)
    assert not one.equals(search(study(trial), seed=4))
    assert one["front"].any()
    assert set(one["status"]) == {"ok", "infeasible"}
    assert one["hypervolume"].is_monotonic_increasing


def test_a_search_goes_on_where_it_was(trial: dict[str, Any], tmp_path: Any) -> None:
    journal = tmp_path / "journal.log"
    first = search(study(trial), journal=journal, trials=6)
    both = search(study(trial), journal=journal, trials=9)
    assert len(first) == 6
    assert len(both) == 9
    assert both["requests.rate"][:6].tolist() == first["requests.rate"].tolist()
    again = search(study(trial), storage=f"sqlite:///{tmp_path}/trials.db", trials=3)
    assert len(again) == 3


def test_few_requests_come_first(trial: dict[str, Any]) -> None:
    found = search(study(trial, search={"trials": 20, "seed": 1, "fidelities": [0.2]}))
    assert set(found["fidelity"][found["status"] == "ok"]) == {0.2, 1.0}
    assert found["requests.total"][found["fidelity"] == 0.2].dropna().eq(2).all()
    assert not found["front"][found["fidelity"] == 0.2].any()


def test_the_front_meets_the_constraints(trial: dict[str, Any]) -> None:
    found = search(study(trial, constraints=["throughput.output_tokens >= 500"]))
    best = found[found["front"]]
    assert len(best)
    assert (best["throughput.output_tokens"] >= 500).all()


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"objectives": []}, "has no objectives"),
        ({"objectives": ["latency", "e2e.p50"]}, "two objectives are e2e.p50"),
        ({"constraints": ["ttft.p99 <= 1 s", "ttft.p99 > 1 s"]}, "contradict each other"),
        ({"objectives": ["latncy"]}, "did you mean 'latency'"),
    ],
)
def test_what_makes_no_sense_is_said_at_once(trial: dict[str, Any], keys: dict[str, Any], what: str) -> None:
    with pytest.raises(MoesimError, match=what):
        goals(load_study(study(trial, **keys)).spec)


def test_a_storage_of_another_search_is_refused(trial: dict[str, Any], tmp_path: Any) -> None:
    journal = tmp_path / "journal.log"
    search(study(trial), journal=journal, trials=2)
    with pytest.raises(MoesimError, match="holds a search with other"):
        search(study(trial, axes={"seed": [1, 2]}), journal=journal, trials=2)


def test_a_storage_of_another_experiment_is_refused(trial: dict[str, Any], tmp_path: Any) -> None:
    journal = tmp_path / "journal.log"
    search(study(trial), journal=journal, trials=2)
    with pytest.raises(MoesimError, match="other experiment, code or library"):
        search(study({**trial, "slo": {"ttft": "3 s"}}), journal=journal, trials=2)
