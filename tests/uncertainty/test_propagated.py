"""Widths of intervals without repeats: closed forms, and the repeats that they stand for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from moesim.serving.simulate import Simulation
from moesim.spec.loading import load_experiment
from moesim.uncertainty.averaging import averaging
from moesim.uncertainty.propagated import REACH, crowding, step_deviation
from moesim.uncertainty.sources import Source, error_sources
from moesim.uncertainty.spread import lognormal


def run(*overrides):
    spec = load_experiment("quickstart", ["requests.count=20", "model.layers=4", *overrides]).spec
    simulation = Simulation(spec)
    return spec, simulation, simulation.run()


@pytest.fixture(scope="module")
def quickstart():
    return run()


def kernel(name, factor):
    return Source("kernels", "any", name, lognormal(factor), "")


def test_independent_shares_add_up_in_squares(quickstart):
    """80 % between 1 / f and f: a deviation of ln f / 1.2816."""
    operators = {"kind": np.array(["gemm", "attention", "norm"]), "seconds": np.array([6.0, 3.0, 1.0])}
    record = replace(quickstart[2], operators=operators)
    sources = [kernel("gemm", 1.1), kernel("attention_decode", 1.2), kernel("attention_prefill", 1.4)]
    attention = 0.3 * (math.log(1.2) + math.log(1.4)) / 2
    expected = math.hypot(0.6 * math.log(1.1), attention) / REACH
    assert step_deviation(record, sources) == pytest.approx(expected)
    assert pytest.approx(1.2816, abs=1e-4) == REACH


@pytest.mark.parametrize(("power", "growth"), [(0.0, 1.0), (0.5, 2.0), (2 / 3, 3.0), (1.0, 5.0)])
def test_an_open_loop_grows_by_what_its_steps_leave_under_way(quickstart, power, growth):
    """L = rate x outputs x time(L): with time in the power p of L, L in the power 1 / (1 - p) of what a step takes."""
    sequences = np.array([1, 2, 4, 8, 16])
    none, seconds = np.zeros(5), sequences**power
    steps = {"prefill_sequences": none, "sequences": sequences, "start": none, "end": seconds}
    assert crowding(replace(quickstart[2], iterations=steps)) == pytest.approx(growth)


def test_shapes_of_a_class_average_out_by_their_times():
    """Four projections and the head, which decode in the time of their weights: 48, 32, 224 and 112 MiB in each of 32
    layers, and once 1002 MiB."""
    _, simulation, _ = run(
        "model={extends: llama-3.1-8b}", "machine={devices: {h100-sxm: 1}}", "parallelism={}", "model.layers=32",
        "engine.kernels=[]",
    )  # fmt: skip
    found = averaging(simulation.deployment)["h100-sxm", "gemm"]
    weights = np.array([32 * 48, 32 * 32, 32 * 224, 32 * 112, 1002.0])
    assert found == pytest.approx(math.sqrt((weights**2).sum()) / weights.sum(), rel=0.03)
    assert ("h100-sxm", "attention") not in averaging(simulation.deployment)


def test_experts_are_one_shape(quickstart):
    spec, simulation, _ = quickstart
    by_name = {each.name: each for each in error_sources(spec, simulation.deployments) if each.what == "kernels"}
    assert "experts" in by_name
    assert "experts" not in {name for _, name in averaging(simulation.deployment)}
