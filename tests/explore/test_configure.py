"""The configurator: every layout, priced as a serving run prices its steps."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from moesim.explore.configure import configure
from moesim.explore.layouts import Degrees, layouts
from moesim.explore.steady import Bench, Load
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_experiment


@pytest.mark.parametrize("devices", [1, 6, 8, 12])
def test_every_layout_is_there_once(devices: int) -> None:
    degrees = range(1, devices + 1)
    expected = {
        (tp, pp, dp, ep, replicas)
        for tp, pp, dp, ep, replicas in itertools.product(degrees, repeat=5)
        if tp * pp * dp * replicas == devices and tp * dp % ep == 0 and (ep > 1 or replicas == 1)
    }
    found = list(layouts(devices, moe=True))
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert set(layouts(devices, moe=False)) == {each for each in expected if each[3] == 1}


def test_layouts_are_ranked_and_those_that_do_not_fit_say_why() -> None:
    found = configure("mixtral-8x7b", "dgx-h100", devices=4)
    fit = found[found["status"] == "ok"]
    assert len(found) == len(list(layouts(4, moe=True)))
    assert fit["throughput"].is_monotonic_decreasing
    rest = found[found["status"] == "infeasible"]
    assert len(rest)
    assert rest["reason"].str.contains("does not fit").all()
    by_tpot = configure("mixtral-8x7b", "dgx-h100", devices=4, metric="tpot")
    assert by_tpot["tpot"][: len(fit)].is_monotonic_increasing


@pytest.mark.parametrize("engine", ["vllm-0.19", "alltoall"])
@pytest.mark.parametrize("degrees", [Degrees(2, 1, 2, 4, 1), Degrees(1, 1, 4, 4, 1), Degrees(4, 1, 1, 1, 1)])
def test_tpot_is_that_of_a_run_with_as_many_requests(trial: dict[str, Any], engine: str, degrees: Degrees) -> None:
    """Of a closed loop whose requests decode most of the time; its steps differ in what they draw, and some compute
    prompts as well."""
    trial["engine"] = engine
    trial["parallelism"] = {name: value for name, value in degrees._asdict().items() if name != "replicas"}
    trial["requests"] = {"mix": "fixed-512-128", "concurrency": 16, "count": 64}
    spec = load_experiment(trial).spec
    found = Bench(spec, Load(16, 512, 128)).measure(degrees)
    from moesim.results.metrics import numbers, summarise
    from moesim.serving.simulate import simulate

    run = numbers(summarise(simulate(spec), spec.slo))
    assert found["tpot"] == pytest.approx(run["itl.p50"], rel=0.1)
    assert found["throughput"] == pytest.approx(run["throughput.output_tokens"], rel=0.3)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(MoesimError, match="did you mean 'throughput'"):
        configure("mixtral-8x7b", "dgx-h100", metric="thruput")
    with pytest.raises(MoesimError, match="no scale-out network"):
        configure("mixtral-8x7b", "rtx-pro-6000-pair", devices=64)
    with pytest.raises(MoesimError, match="0 devices hold no model"):
        configure("mixtral-8x7b", "dgx-h100", devices=0)
