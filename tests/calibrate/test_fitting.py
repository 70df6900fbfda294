"""Fits find the coefficients that made the data, whatever single bad points say."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.calibrate.fits import collective_parameters, fit_collective, fit_experts
from moesim.calibrate.fitting import Parameter, errors, fit, outliers, quantiles, rounded
from moesim.calibrate.measured import TARGETS, CollectiveGroup, ExpertGroup
from moesim.fabric.expert_protocol import ExpertTerms, uniform_load
from moesim.fabric.protocol import CollectiveTerms
from moesim.spec.errors import MoesimError

TRUE = CollectiveTerms(launch=4e-6, round=9e-7, efficiency=0.8, local=1.5, ramp=5e-6, exponent=0.5)


def group(terms: CollectiveTerms, bad: tuple[int, ...] = (), sizes: int = 21) -> CollectiveGroup:
    size, ranks = (each.ravel() for each in np.meshgrid(2.0 ** np.arange(9, 9 + sizes), [2.0, 4.0, 8.0]))
    seconds = terms.seconds("all_gather", size, ranks, 300e9)
    seconds[list(bad)] *= 3.0
    return CollectiveGroup(TARGETS["a100_sxm"], "nccl-0", "all_gather", 2, size, ranks, seconds)


def test_the_terms_that_made_the_data_are_found() -> None:
    found = fit_collective(group(TRUE), 300e9)
    assert found.errors[1] < 1.0
    assert found.values["launch"] == pytest.approx(TRUE.launch, rel=0.05)
    assert found.values["efficiency"] == pytest.approx(TRUE.efficiency, rel=0.05)
    assert found.fitted + found.rejected == 31
    assert found.scored == 32


def test_single_bad_points_are_rejected_and_counted_and_do_not_bend_the_fit() -> None:
    spoilt = group(TRUE, bad=(1, 7, 22, 28, 43, 49))
    assert np.flatnonzero(spoilt.rejected).tolist() == [1, 7, 22, 28, 43, 49]
    found = fit_collective(spoilt, 300e9)
    assert found.rejected == (spoilt.rejected & spoilt.fitted).sum() > 0
    assert found.errors[0] < 1.0


def test_measurements_faster_than_the_wire_are_refused() -> None:
    with pytest.raises(MoesimError, match="more than ports of 30 GB/s can move"):
        fit_collective(group(TRUE), 30e9)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(MoesimError, match="to fit 6 coefficients"):
        fit_collective(group(TRUE, sizes=6), 300e9)


def test_only_switches_that_add_get_a_term_for_it() -> None:
    size, ranks = np.full(2, 1e6), np.array([4.0, 8.0])
    for device, library, names in (
        ("h100_sxm", "nccl-1", {"in_switch"}),
        ("a100_sxm", "nccl-1", set()),
        ("h100_sxm", "vllm-graph-1", {"in_switch", "direct", "staging"}),
    ):
        chosen = collective_parameters(CollectiveGroup(TARGETS[device], library, "all_reduce", 2, size, ranks, size))
        assert {p.name for p in chosen} - {"launch", "round", "efficiency", "ramp", "exponent", "local"} == names


def test_expert_terms_predict_models_that_were_not_fitted() -> None:
    true = ExpertTerms(1e-5, 0.5, expert=1e-8, token_time=5e-7, token_rate=6e9, sharpness=3.0)
    shapes = [(h, k, e, t) for h in (2048, 4096, 7168) for k, e in ((2, 8), (6, 64), (8, 256)) for t in (1, 8, 64, 512)]
    hidden, top_k, experts, tokens = (np.array(column) for column in zip(*shapes, strict=True))
    seconds = np.empty(len(shapes))
    for i, (h, k, e, t) in enumerate(shapes):
        load = uniform_load(float(t), experts=e, top_k=k, ranks=8, mode="low_latency")
        units = np.ceil(e / np.ceil(e / 132))
        seconds[i] = true.seconds(load, 2.0 * h, units=units, port=450e9, experts=float(e))
    eight = np.full(len(shapes), 8)
    measured = ExpertGroup(
        TARGETS["h100_sxm"], "deepep-0", "low_latency", "combine", False, tokens.astype(float), hidden.astype(float),
        top_k, experts, eight, eight // 8, eight * 0.0, seconds,
    )  # fmt: skip
    found = fit_experts(measured, 450e9, np.inf, 132)
    assert found.errors[1] < 2.0
    assert found.scored == 5 * 4  # of nine model shapes, four are fitted


def test_a_larger_message_that_was_faster_shows_a_bad_measurement() -> None:
    seconds = np.array([1.0, 4.0, 1.5, 2.0, 9.0])
    assert outliers(["a"] * 5, 2.0 ** np.arange(5), seconds).tolist() == [False, True, False, False, False]
    assert not outliers(list("abcde"), 2.0 ** np.arange(5), seconds).any()


def test_a_fit_stays_within_its_bounds_and_is_rounded_as_it_ships() -> None:
    x = np.linspace(1.0, 2.0, 20)
    slope = Parameter("slope", (1.0,), 0.5, 2.0)
    found = fit(lambda values, rows: values["slope"] * x[rows], [slope], 7.0 * x, np.arange(20))
    assert found == {"slope": 2.0}
    assert rounded(1.23456e-6) == 1.235e-6


def test_statistics() -> None:
    assert quantiles(np.linspace(0.5, 1.5, 101)) == (0.6, 0.75, 1.0, 1.25, 1.4)
    assert errors(np.array([1.1, 0.8, 1.0]), np.ones(3)) == pytest.approx((10.0, 18.0))
