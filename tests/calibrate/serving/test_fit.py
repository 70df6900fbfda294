"""An engine's few parameters, from runs of an engine that is known: made up here, of kernels that simply add up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from published_runs import LLAMA, MIXTRAL, entry, of_every_model, read, stage, write

from moesim.calibrate.serving import __main__ as command
from moesim.calibrate.serving import fit as fitting
from moesim.calibrate.serving.fit import CLASSES, Observation, Parameters, fit, improved, leave_one_out, observe
from moesim.calibrate.serving.measured import Run
from moesim.calibrate.serving.replay import ENGINE, Latencies, experiment
from moesim.spec.loading import load_experiment

#: What the runs were made with.
TRUE = Parameters(
    {"gemm": 1.03, "attention": 0.93, "experts": 1.08, "small": 0.8, "collective": 0.75, "sampling": 1.2},
    gap=0.5e-3,
    frontend=6e-3,
)


def kernels(seed: str) -> np.ndarray:
    """[classes] seconds in a step of 5 to 50 ms, whose parts differ from run to run."""
    stream = np.random.default_rng(list(seed.encode()))
    parts: np.ndarray = stream.dirichlet([1.0] * len(CLASSES)) * stream.uniform(5e-3, 50e-3)
    return parts


def latencies(run: str, engine: Parameters) -> Latencies:
    """Of prompts that take one step, and ten tokens."""
    parts = {name: seconds * engine.scales[name] for name, seconds in zip(CLASSES, kernels(run), strict=True)}
    tpot = sum(parts.values()) + engine.gap
    ttft = engine.frontend + tpot
    shares = {name: seconds / tpot for name, seconds in parts.items()}
    # Small kernels are called by their kinds: any two of these share the class's time.
    shares |= {"norm": 0.3 * shares["small"], "elementwise": 0.7 * shares.pop("small")}
    return Latencies(run, 0, ttft, tpot, ttft + 9 * tpot, ttft, ttft + 9 * tpot, shares)


def asked(run: Run, changes: Sequence[str]) -> Parameters:
    """What the simulator understands of `--set` texts."""
    engine = load_experiment(experiment(replace(run, model="llama-3.1-8b")), changes).spec.engine
    scales = {name: engine.scales["hopper"][members[0]] for name, members in CLASSES.items()}
    assert all(
        engine.scales["hopper"][member] == scales[name] for name, members in CLASSES.items() for member in members
    )
    return Parameters(scales, engine.exposed_overhead, engine.frontend_latency)


@pytest.fixture
def adding(monkeypatch: pytest.MonkeyPatch) -> list[list[Run]]:
    """Runs are not simulated, their kernels are added up. What was sent, time after time."""
    sent: list[list[Run]] = []

    def replay_all(
        runs: Sequence[Run], changes: Sequence[str] = (), engine: str = ENGINE, skip: int = 0, workers: int = 1
    ) -> Iterator[list[Latencies]]:
        sent.append(list(runs))
        engine_asked = asked(runs[0], changes)
        return iter([[latencies(run.id, engine_asked)] for run in runs if run.scored])

    monkeypatch.setattr(fitting, "replay_all", replay_all)
    monkeypatch.setattr(command, "replay_all", replay_all)
    return sent


def runs_of(folder: Path, engine: Parameters, count: int) -> list[Run]:
    """Runs of as many models as `engine` would serve them."""
    (like,) = read(folder, entry("1"))
    found = []
    for number in range(count):
        seen = latencies(str(number), engine)
        once = replace(like.stages[0], ttft={"mean": seen.ttft}, e2e={"mean": seen.e2e}, tpot=seen.tpot)
        found.append(replace(like, id=str(number), model=f"model {number}", stages=(once,)))
    return found


def observations(runs: Sequence[Run], engine: Parameters) -> list[Observation]:
    return [Observation(run.model, run.stages[0], latencies(run.id, engine)) for run in runs]


def test_a_fit_finds_the_engine(tmp_path: Path) -> None:
    """Of so many models that the priors hardly matter."""
    runs, found = runs_of(tmp_path, TRUE, 1000), Parameters()
    for _ in range(4):
        found = improved(found, observations(runs, found))
    assert found.scales == pytest.approx(TRUE.scales, rel=0.01)
    assert found.gap == pytest.approx(TRUE.gap, rel=0.1)
    assert found.frontend == pytest.approx(TRUE.frontend, rel=0.02)


@pytest.mark.parametrize("before", [0.0, 0.3])
def test_priors_hold_back_what_one_run_says(tmp_path: Path, before: float) -> None:
    """GEMM alone, in steps of 20 ms. Of the logarithm that is measured, each gets its share of the variances: 0.05
    squared for GEMM and for 1 ms in 20 ms between steps, 0.02 squared for noise. Where it was before is no matter."""
    (run,) = read(tmp_path, entry("1"))
    seen = Latencies("1", 0, 0.05, 0.020, 0.230, 0.05, 0.230, {"gemm": 1.0})
    now = Parameters({**Parameters().scales, "gemm": math.exp(before)})
    miss = 1e-4
    served = replace(run.stages[0], tpot=0.020 * math.exp(miss))
    found = improved(now, [Observation("one", served, seen)])
    part = (before + miss) * 0.05**2 / (0.05**2 + 0.05**2 + 0.02**2)
    assert math.log(found.scales["gemm"]) == pytest.approx(part, rel=1e-3)
    assert found.gap == pytest.approx(part * 0.020, rel=1e-3)
    assert [found.scales[name] for name in CLASSES if name != "gemm"] == pytest.approx([1.0] * 5)


def test_what_is_as_measured_stays(tmp_path: Path) -> None:
    nominal = Parameters(frontend=3e-3)
    found = improved(nominal, observations(runs_of(tmp_path, nominal, 20), nominal))
    assert found.scales == pytest.approx(nominal.scales)
    assert (found.gap, found.frontend) == pytest.approx((0.0, 3e-3), abs=1e-9)


def test_times_between_steps_and_of_the_front_end_are_not_negative(tmp_path: Path) -> None:
    """Runs of an engine with neither, simulated with both."""
    slow = Parameters(gap=0.0, frontend=20e-3)
    runs = runs_of(tmp_path, Parameters(dict.fromkeys(CLASSES, 0.9)), 50)
    found = improved(slow, observations(runs, slow))
    assert (found.gap, found.frontend) == (0.0, pytest.approx(0.0, abs=2e-3))


def test_how_odd_a_run_is_hardly_matters(tmp_path: Path) -> None:
    """Soft-L1: one that is off by a factor of 9 pulls no more than one of 3; least squares would move twice as far."""
    runs = runs_of(tmp_path, Parameters(), 50)

    def moved(times: float) -> list[float]:
        odd = replace(runs[0].stages[0], tpot=times * runs[0].stages[0].tpot)
        found = improved(Parameters(), observations([replace(runs[0], stages=(odd,)), *runs[1:]], Parameters()))
        return [math.log(factor) for factor in found.scales.values()]

    assert max(moved(3.0)) > 1e-3
    assert moved(9.0) == pytest.approx(moved(3.0), rel=0.1)


def test_every_model_weighs_the_same(tmp_path: Path) -> None:
    """The runs of a model once, or twenty times over."""
    one, other = runs_of(tmp_path, TRUE, 2)
    once = observations([one, other], Parameters())
    often = [once[0], *[once[1]] * 20]
    assert improved(Parameters(), often).scales == pytest.approx(improved(Parameters(), once).scales)


def test_a_model_that_is_left_out_has_no_say(tmp_path: Path) -> None:
    seen = observations(runs_of(tmp_path, TRUE, 5), Parameters())
    wild = replace(seen[2], stage=replace(seen[2].stage, tpot=1.0))
    before, after = (leave_one_out(Parameters(), [*seen[:2], each, *seen[3:]]) for each in (seen[2], wild))
    assert list(after) == [f"model {number}" for number in range(5)]
    assert after["model 2"] == before["model 2"] == improved(Parameters(), [*seen[:2], *seen[3:]])
    assert after["model 1"] != before["model 1"]


def test_as_many_are_under_way_as_were_measured(tmp_path: Path, adding: list[list[Run]]) -> None:
    """Little's law: what takes twice as long is sent less often, whatever it was sent at before: a cube root less at
    every turn, which near saturation is all."""
    (run, *_) = runs_of(tmp_path, Parameters(), 1)
    served = run.stages[0]
    slow = replace(run, stages=(replace(served, e2e={"mean": served.e2e["mean"] / 2}),))
    first = observe([slow], Parameters(), ["hopper"])
    second = observe([slow], Parameters(), ["hopper"], before=first)
    third = observe([slow], Parameters(), ["hopper"], before=second)
    assert [each[0].stages[0].rate for each in adding] == pytest.approx([8, 8 * 2 ** (-1 / 3), 8 * 2 ** (-5 / 9)])
    assert [each[0].crowd for each in (first, second, third)] == pytest.approx([0.5, 2 ** (-2 / 3), 2 ** (-4 / 9)])


@pytest.mark.usefixtures("adding")
def test_engines_are_set_as_they_were_found(tmp_path: Path) -> None:
    """The whole loop, through the experiments that it writes."""
    runs = runs_of(tmp_path, TRUE, 1000)
    steps: list[Parameters] = []
    found = fit(runs, ["hopper"], progress=steps.append)
    assert len(steps) == 5
    assert steps[-1] == found
    assert found.scales == pytest.approx(TRUE.scales, rel=0.02)
    assert found.frontend == pytest.approx(TRUE.frontend, abs=0.2e-3)
    assert asked(runs[0], found.overrides(["hopper", "ada"])).scales == pytest.approx(found.scales, abs=1e-4)


# The split


def predicted(folder: Path, *entries: dict[str, object]) -> str:
    """The table that `python -m moesim.calibrate.serving --fit` writes."""
    out = folder / "predictions.csv"
    done = CliRunner().invoke(
        command.main, [str(write(folder, *entries)), str(out), "--fit", "--workers", "1"], catch_exceptions=False
    )
    assert done.exit_code == 0
    return out.read_text()


@pytest.mark.usefixtures("adding")
def test_held_out_models_are_not_looked_at(tmp_path: Path) -> None:
    """Fitted are the three of the seven models whose hash comes first; what was measured of others does not matter."""
    plain = predicted(tmp_path, *of_every_model())
    assert len(plain.splitlines()) == 1 + 7
    for model in ("codellama-34b", "llama-2-7b", "llama-3.1-70b", "qwen3-14b"):
        assert predicted(tmp_path, *of_every_model({model: 35.0})) == plain
    for model in ("llama-2-70b", "llama-3.1-8b", "mixtral-8x7b"):
        assert predicted(tmp_path, *of_every_model({model: 35.0})) != plain


@pytest.mark.usefixtures("adding")
def test_parameters_without_a_model_do_not_depend_on_it(tmp_path: Path) -> None:
    """A row for each model. Where runs of one take ten times as long, its own row moves least."""

    def rows(*entries: dict[str, object]) -> dict[str, np.ndarray]:
        out = tmp_path / "left-out.csv"
        arguments = [str(write(tmp_path, *entries)), str(out), "--left-out", "--workers", "1"]
        assert CliRunner().invoke(command.main, arguments, catch_exceptions=False).exit_code == 0
        lines = [line.split(",") for line in out.read_text().splitlines()[1:]]
        return {model: np.array([float(each) for each in values]) for model, *values in lines}

    plain, changed = rows(*of_every_model()), rows(*of_every_model({"qwen3-14b": 200.0}))
    moved = {model: float(np.abs(changed[model][:-2] - plain[model][:-2]).max()) for model in plain}
    assert len(moved) == 7
    assert min(moved, key=lambda model: moved[model]) == "qwen3-14b"


@pytest.mark.usefixtures("adding")
def test_what_is_not_scored_or_counted_before_is_not_fitted_to(tmp_path: Path) -> None:
    """Stages that never drained, runs that were repeated, and run 28, the workload of run 9 once more."""
    runs = of_every_model()
    plain = predicted(tmp_path, *runs).splitlines()
    others = [
        entry("x", stage(0, "overloaded", tpot=90.0), model=LLAMA),
        entry("y", stage(0, tpot=90.0), flags=("superseded_run",), model=MIXTRAL),
        entry("28", stage(0, tpot=90.0), model=LLAMA),
    ]
    found = predicted(tmp_path, *runs, *others).splitlines()
    assert found[:-1] == plain
    assert found[-1].startswith("28,0,")
