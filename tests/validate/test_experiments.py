"""Answers of experiments: metrics, ratios, and series along an axis."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from moesim.spec.errors import MoesimError
from moesim.validate.cases import Case, Found, Kind, Setting, known
from moesim.validate.judge import judge
from moesim.validate.kinds import experiments
from moesim.validate.kinds.experiments import STATISTICS, Along, Run, metric, quotient, ratio, series, value_of
from moesim.validate.suites import Ready, kinds, load_suite

SHORT = """\
model: mixtral-8x7b
machine: {devices: {h100-sxm: 2}, fabric: nvlink4-switch}
parallelism: {tp: 2}
engine: vllm-0.19
requests: {mix: chat, rate: 10/s, count: 3}
"""


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    (tmp_path / "short.yaml").write_text(SHORT)
    return Setting(folder=tmp_path)


def test_a_metric_is_that_of_the_run(setting: Setting) -> None:
    found = metric(setting, experiment="short.yaml", metric="requests.finished", set={"requests.count": 5})
    assert found.simulated == 5.0


def test_a_ratio_sets_both_runs(setting: Setting) -> None:
    two, six = (Run(experiment="short.yaml", metric="requests.total", set={"requests.count": n}) for n in (2, 6))
    assert ratio(setting, of=six, to=two).simulated == 3.0
    assert ratio(setting, of=six, to=two, set={"requests.count": 4}).simulated == 1.0


def test_a_series_goes_along_an_axis_below_a_mapping(setting: Setting) -> None:
    inputs = {"experiment": "short.yaml", "metric": "requests.total", "set": {"seed": 3}}
    along = Along(key="set.requests.count", values=(2, 4))
    assert series(setting, "metric", inputs, along) == [2.0, 4.0]
    assert series(setting, "parameters", {"count": "total"}, Along(key="model", values=("llama-3.1-8b",))) == [
        8030261248.0
    ]


@pytest.mark.parametrize(
    ("statistic", "answer"),
    [("smallest", 2.5), ("largest", 9.0), ("mean", 5.0), ("spread", 3.6), ("rise", 0.5), ("fall", 2.25)],
)
def test_statistics(statistic: str, answer: float) -> None:
    assert STATISTICS[statistic]([4.0, 9.0, 4.5, 2.5]) == answer


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("values", list(itertools.permutations([1.0, 2.0, math.nan])))
def test_a_point_without_an_answer_leaves_none_along_the_axis(
    monkeypatch: pytest.MonkeyPatch, statistic: Any, values: tuple[float, ...]
) -> None:
    monkeypatch.setattr(experiments, "series", lambda *_: list(values))
    found = experiments.along(
        Setting(), kind="metric", inputs={}, along=Along(key="x", values=(1, 2, 3)), statistic=statistic
    )
    assert found.simulated is not None
    assert math.isnan(found.simulated)


def test_a_quotient_is_of_two_answers(setting: Setting) -> None:
    two, three, four = (
        {"experiment": "short.yaml", "metric": "requests.total", "set": {"requests.count": n}} for n in (2, 3, 4)
    )
    doubled, equal = {"of": four, "to": two}, {"of": three, "to": three}
    assert quotient(setting, kind="ratio", of=doubled, to=equal).simulated == 2.0
    assert quotient(setting, kind="ratio", of=equal, to=doubled).simulated == 0.5


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"experiment": "short.yaml", "metric": "tpot.men"}, "no metric 'tpot.men'; did you mean 'tpot.mean'"),
        ({"experiment": "shrt.yaml", "metric": "tpot.mean"}, "did you mean 'short.yaml'"),
        ({"experiment": "short.yaml", "metric": "tpot.mean", "set": {"requests.cout": 1}}, "did you mean 'count'"),
    ],
)
def test_mistakes_are_named(setting: Setting, run: dict[str, object], message: str) -> None:
    with pytest.raises(MoesimError, match=message):
        value_of(setting, Run.model_validate(run))


@pytest.mark.parametrize(
    ("simulated", "error", "meets"), [(1.5, 0.0, True), (1.26, -0.1, True), (1.87, 0.1, True), (1.2, -1 / 7, False)]
)
def test_a_range_is_met_within_it_and_by_its_nearer_end(simulated: float, error: float, meets: bool) -> None:
    about = {"name": "a case", "kind": "given", "source": "this test", "basis": "published", "tolerance": "10.1 %"}
    kind = Kind("given", "", lambda setting: Found(simulated), kinds()["parameters"].inputs)
    case = Case.model_validate(about | {"value": [1.4, 1.7]})
    (outcome,) = judge([Ready(case, kind, {}, (1.4, 1.7))], Setting(), {})
    assert (outcome.error, outcome.meets) == (pytest.approx(error, abs=1e-3), meets)


def test_known_answers_in_si() -> None:
    assert known("7 ms", "second") == 0.007
    assert known(("7 ms", "1 s"), "second") == (0.007, 1.0)
    with pytest.raises(ValueError, match=r"ends below its begin, write \[1, 2\]"):
        known((2, 1), "")


def test_the_unit_of_a_case_goes_before_that_of_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\ncases:\n- {name: a, kind: metric, inputs: {experiment: x.yaml, metric: tpot.mean}, source: s,"
        " basis: published, unit: second, value: 7 ms, tolerance: 0}\n"
    )
    _, (ready,) = load_suite(str(path))
    assert (ready.unit, ready.value) == ("second", 0.007)
