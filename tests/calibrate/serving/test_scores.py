"""Errors of simulated runs by the rules of their publication, counted by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from published_runs import MIXTRAL, entry, of_every_model, read, simulated, stage, write

from moesim.calibrate.serving.left_out import LEFT_OUT, as_left_out, shipped
from moesim.calibrate.serving.measured import Run
from moesim.calibrate.serving.replay import Latencies
from moesim.calibrate.serving.scores import median_error, predictions, scores
from moesim.spec.errors import MoesimError
from moesim.validate.cases import Found, Setting
from moesim.validate.kinds import measured_runs as kind


def test_stages_that_never_drained_and_repeated_runs_are_left_out(tmp_path: Path) -> None:
    stages = stage(0), stage(1, "overloaded"), stage(2, "superseded_run"), stage(3)
    run, none, repeated = read(
        tmp_path, entry("1", *stages), entry("2", stage(0, "overloaded")), entry("3", flags=("superseded_run",))
    )
    assert [each.number for each in run.stages if each.scored] == [0, 3]
    assert (run.scored, none.scored, repeated.scored) == (True, False, False)
    (score,) = scores((none, run, repeated), [simulated(run, 1.1, 1.3)])
    assert score.absolute["tpot"] == pytest.approx(0.2)


def test_runs_are_means_of_stages_and_workloads_count_once(tmp_path: Path) -> None:
    """Run 28 repeats run 9, whose stages are off by +10 and -20 %, its own by +30: 20 % of size, 20 / 3 with its sign.
    Beside it 4 % of a dense model and 10 % of a MoE model: medians of 10 % over all, of 12 % over the dense."""
    runs = read(tmp_path, entry("9", stage(0), stage(1, tpot=70.0)), entry("1"), entry("28"), entry("5", model=MIXTRAL))
    errors = [(1.1, 0.8), (1.04,), (1.3,), (0.9,)]
    found = scores(runs, [simulated(run, *each) for run, each in zip(runs, errors, strict=True)])
    assert [each.workload for each in found] == ["9", "1", "5"]
    for metric in ("tpot", "ttft", "e2e"):
        assert found[0].absolute[metric] == pytest.approx(0.2)
        assert found[0].signed[metric] == pytest.approx(0.2 / 3)
        assert median_error(found, metric) == pytest.approx(0.10)
        assert median_error(found, metric, lambda each: not each.moe) == pytest.approx(0.12)


def test_cold_stages_are_compared_at_the_tail(tmp_path: Path) -> None:
    """TTFT and E2E at the 90th percentile (60 and 345 ms), whatever their means are; TPOT at its mean."""
    (run,) = read(tmp_path, entry("1", stage(0, "warmup_tail")))
    (found,) = simulated(run, 1.0)
    cold = replace(found, ttft=9.0, e2e=9.0, ttft_p90=0.066, e2e_p90=0.276, tpot=0.021)
    (score,) = scores([run], [[cold]])
    assert score.signed == pytest.approx({"ttft": 0.1, "e2e": -0.2, "tpot": 0.05})


def test_other_stages_are_compared_at_their_means(tmp_path: Path) -> None:
    (run,) = read(tmp_path, entry("1"))
    (found,) = simulated(run, 1.0)
    (score,) = scores([run], [[replace(found, ttft=0.055, ttft_p90=9.0, e2e_p90=9.0)]])
    assert score.signed == pytest.approx({"ttft": 0.1, "e2e": 0.0, "tpot": 0.0})


def test_runs_and_their_simulations_go_together(tmp_path: Path) -> None:
    runs = read(tmp_path, entry("1"), entry("2"))
    with pytest.raises(ValueError, match="shorter"):
        scores(runs, [simulated(runs[0], 1.0)])


def test_predictions_are_in_milliseconds(tmp_path: Path) -> None:
    (run,) = read(tmp_path, entry("1", stage(0), stage(1, "overloaded"), stage(2)))
    first, second = predictions([simulated(run, 1.0, 2.0)])
    assert (first["id"], first["stage"], second["stage"]) == ("1", 0, 2)
    assert [second[f"{name}_ms"] for name in ("ttft", "tpot", "e2e", "ttft_p90", "e2e_p90")] == pytest.approx(
        [100.0, 40.0, 460.0, 120.0, 690.0]
    )


#: Errors of every model's run, all different.
OFF = {
    "codellama-34b": 0.01, "llama-2-7b": 0.02, "llama-2-70b": 0.03, "llama-3.1-8b": 0.04, "llama-3.1-70b": 0.05,
    "mixtral-8x7b": 0.06, "qwen3-14b": 0.08,
}  # fmt: skip


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> None:
    """No simulation: every model is too slow by what `OFF` says."""

    def replay_all(runs: Sequence[Run], workers: int) -> Iterator[list[Latencies]]:
        yield from (simulated(run, 1 + OFF[run.model]) for run in runs if run.scored)

    monkeypatch.setattr(kind, "replay_all", replay_all)


@pytest.mark.usefixtures("off")
@pytest.mark.parametrize(
    ("models", "median", "mean"),
    [
        ("all", 0.04, 0.29 / 7),
        ("MoE", 0.06, 0.06),
        ("dense", 0.035, 0.23 / 6),
        ("fitted", 0.04, 0.13 / 3),  # the three whose hash comes first: Llama 2 70B, Llama 3.1 8B, Mixtral
        ("held out", 0.035, 0.16 / 4),
    ],
)
def test_a_case_is_of_the_models_that_it_names(tmp_path: Path, models: str, median: float, mean: float) -> None:
    setting = Setting(data=write(tmp_path, *of_every_model()))
    found: Found = kind.measured_runs_error(setting, metric="tpot", models=models)
    assert found.error == pytest.approx(median)
    assert kind.measured_runs_error(setting, metric="ttft", models=models, statistic="mean").error == pytest.approx(
        mean
    )
    assert found.rows == len(found.detail.splitlines())
    assert ("mixtral-8x7b on dgx-h100: +6.0 %" in found.detail) == (models in ("all", "MoE", "fitted"))


@pytest.mark.parametrize(
    ("error", "expected", "late"),
    [(1.05, 1.0, 1.0), (1.20, 0.0, 0.0), (0.95, 1.0, 1.0), (0.85, 0.0, 0.0), (1.10, 1.0, 0.0), (0.92, 1.0, 0.0)],
)
def test_intervals_hold_what_is_near(tmp_path: Path, error: float, expected: float, late: float) -> None:
    """A deviation of 10 %: 80 % within 1.2816 of these, from 0.880 to 1.137. TTFT, half of which no kernel takes, has
    half of that: from 0.938 to 1.066."""
    (run,) = read(tmp_path, entry("1"))
    (found,) = simulated(run, error)
    (score,) = scores([run], [[replace(found, deviation=0.1, late=found.ttft / 2)]])
    assert (score.within["tpot"], score.within["e2e"], score.within["ttft"]) == (expected, expected, late)


@pytest.mark.usefixtures("off")
def test_shares_within_are_those_of_the_models(tmp_path: Path) -> None:
    """Without a deviation nothing is within, unless it is met."""
    setting = Setting(data=write(tmp_path, *of_every_model()))
    assert kind.measured_runs_within(setting, metric="tpot").simulated == 0.0


def test_a_model_that_is_left_out_is_predicted_with_the_parameters_of_the_others(tmp_path: Path) -> None:
    """Of a step that is all GEMM, TPOT takes the ratio of the two factors, and what changes between two steps."""
    (run,) = read(tmp_path, entry("1"))
    (found,) = simulated(run, 1.0)
    whole = replace(found, shares={"gemm": 1.0}, growth=1.0)
    now, then = shipped(), LEFT_OUT["llama-3.1-8b"]
    factor = then.scales["gemm"] / now.scales["gemm"] * math.exp((then.gap - now.gap) / whole.tpot)
    left = as_left_out("llama-3.1-8b", whole)
    assert left.tpot == pytest.approx(whole.tpot * factor)
    assert left.ttft == pytest.approx((whole.ttft - now.frontend) * factor + then.frontend)
    assert left.e2e - left.ttft == pytest.approx((whole.e2e - whole.ttft) * factor)
    assert as_left_out("never-seen", whole) == whole


@pytest.mark.usefixtures("off")
def test_a_case_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MoesimError, match="no measured run is of MoE models"):
        kind.measured_runs_error(Setting(data=write(tmp_path, entry("1"))), metric="tpot", models="MoE")


def test_a_run_that_is_typed_in() -> None:
    """Llama 3.1 8B reads 16 GB of weights a step: from 3.35 TB/s in 4.8 ms at least, from 864 GB/s in 18.6."""
    found = {
        system: kind.measured_stage(
            Setting(), model="llama-3.1-8b", system=system, tp=1, prefix=100, prompt=574, output=10,
            loads=((2.0, 4.0),), stage=0, metric="tpot",
        ).simulated
        for system in ("dgx-h100", "l40s-8")
    }  # fmt: skip
    assert 4.8e-3 < found["dgx-h100"] < 10e-3
    assert 18.6e-3 < found["l40s-8"] < 37e-3
