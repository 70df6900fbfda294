"""Sweeps: one table whatever computes it, nothing computed twice, nothing lost."""

from __future__ import annotations

import os
import pickle
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from moesim.explore import points as points_module
from moesim.explore import sweep as sweep_module
from moesim.explore.backends import local
from moesim.explore.cache import Cache
from moesim.explore.compare import compare, repeated
from moesim.explore.metrics import objective
from moesim.explore.points import Job, Outcome
from moesim.explore.python import sweep
from moesim.explore.sweep import Resources, Swept, sweep_points
from moesim.explore.table import table, write
from moesim.explore.version import code_version
from moesim.results.metrics import numbers, summarise
from moesim.serving.simulate import simulate
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_experiment
from moesim.spec.study import Study, load_study

AXES = {"parallelism.ep": [1, 2, 3], "seed": [0, 1]}


def study(trial: dict[str, Any], **keys: Any) -> Study:
    return load_study({"name": "study", "experiment": trial, "axes": AXES, **keys})


def written(swept: Swept, folder: Path) -> bytes:
    path = folder / "table.parquet"
    write(table(swept.points, swept.outcomes, repeats=False), path)
    return path.read_bytes()


def test_a_row_holds_the_metrics_of_the_experiment_run_by_itself(trial: dict[str, Any]) -> None:
    found = sweep(trial, axes={"seed": [5]}, workers=1)
    spec = load_experiment(trial, ["seed=5"]).spec
    alone = numbers(summarise(simulate(spec), spec.slo))
    for name, value in alone.items():
        assert found[name][0] == value or (pd.isna(found[name][0]) and value != value), name


def test_points_that_cannot_run_are_rows_with_the_reason(trial: dict[str, Any]) -> None:
    found = sweep({"experiment": trial, "axes": AXES}, workers=1)
    assert found["status"].tolist() == ["ok"] * 4 + ["infeasible"] * 2
    assert found["reason"][4].startswith("parallelism: ep 3 exceeds tp x dp = 2")
    assert found.loc[4:, "duration"].isna().all()
    assert found["parallelism.ep"].tolist() == [1, 1, 2, 2, 3, 3]


def test_what_only_the_simulation_finds_impossible_is_a_row_too(trial: dict[str, Any]) -> None:
    found = sweep({"experiment": trial, "axes": {"parallelism.tp": [1, 4]}}, workers=1)
    assert found["status"].tolist() == ["ok", "infeasible"]
    assert "the parallelism takes 8 devices, the machine has 4" in found["reason"][1]


def test_the_table_has_the_same_bytes_for_every_number_of_workers(trial: dict[str, Any], tmp_path: Path) -> None:
    tables = []
    for workers in (1, 2):
        cache = tmp_path / f"cache{workers}"
        tables.append(written(sweep_points(study(trial), Resources(workers=workers, cache=cache)), tmp_path))
    assert tables[0] == tables[1]


def test_nothing_is_computed_twice(trial: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sweep_points(study(trial), Resources(workers=1))
    assert first.reused == 0

    def never(work: Job) -> Outcome:
        raise AssertionError("computed again")

    monkeypatch.setattr(local, "evaluate", never)
    again = sweep_points(study(trial), Resources(workers=1))
    assert again.reused == len(again.points)
    assert written(again, tmp_path) == written(first, tmp_path)
    # The same experiments, written otherwise: names and the order of axes change, results do not.
    other = load_study({"name": "other", "experiment": trial, "axes": {"seed": [1], "parallelism.ep": [2]}})
    assert sweep_points(other, Resources(workers=1)).reused == 1


def test_other_code_computes_again(trial: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_points(study(trial), Resources(workers=1))
    from moesim.explore import keys

    for module in (keys, sweep_module):
        monkeypatch.setattr(module, "code_version", lambda: "other")
    monkeypatch.setattr("moesim.explore.version.code_version", lambda: "other")
    swept = sweep_points(study(trial), Resources(workers=1))
    assert swept.reused == 0


def test_equal_points_are_computed_once(trial: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    evaluate = points_module.evaluate
    monkeypatch.setattr(local, "evaluate", lambda work: computed.append(work) or evaluate(work))
    same = load_study({"experiment": trial, "axes": {"requests.rate": ["10/s", "10 /s", "0.01/ms"]}})
    swept = sweep_points(same, Resources(workers=1))
    assert len(computed) == 1
    assert len({repr(outcome) for outcome in swept.outcomes.values()}) == 1


def test_an_interrupted_sweep_goes_on_where_it_was(trial: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    evaluate = points_module.evaluate

    def once(work: Job) -> Outcome:
        if computed:
            raise KeyboardInterrupt
        computed.append(work)
        return evaluate(work)

    with monkeypatch.context() as patch:
        patch.setattr(local, "evaluate", once)
        swept = sweep_points(study(trial), Resources(workers=1))
    assert swept.interrupted
    assert len(swept.outcomes) == 1
    rest = sweep_points(study(trial), Resources(workers=1))
    assert not rest.interrupted
    assert rest.reused == 1
    assert len(rest.outcomes) == 6


def test_a_worker_that_dies_loses_no_point(
    trial: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = written(sweep_points(study(trial), Resources(workers=1, cache=tmp_path / "calm")), tmp_path)
    killed: list[int] = []
    answer = local.Processes._answer

    def kill_one(self: local.Processes, worker: Any) -> Any:
        if not killed:
            killed.append(worker.process.pid)
            os.kill(killed[0], signal.SIGKILL)
            worker.process.wait()
            while worker.answers.poll():  # what it had answered before is lost with it
                try:
                    worker.answers.recv()
                except EOFError:
                    break
        return answer(self, worker)

    monkeypatch.setattr(local.Processes, "_answer", kill_one)
    swept = sweep_points(study(trial), Resources(workers=2))
    assert killed
    assert written(swept, tmp_path) == calm


def test_a_point_that_kills_every_worker_fails_alone(trial: dict[str, Any]) -> None:
    backend = local.Processes(2)
    try:
        ok = points_module.job(load_experiment(trial).spec, 0, code_version())
        deadly = Job(_DEADLY, 0, code_version())
        for number, work in enumerate((deadly, ok, ok)):
            backend.submit(number, work)
        outcomes: dict[int, Outcome] = {}
        while len(outcomes) < 3:
            outcomes.update(backend.finished())
    finally:
        backend.close()
    assert {n: o.status for n, o in outcomes.items()} == {0: "failed", 1: "ok", 2: "ok"}
    assert "died 2 times" in outcomes[0].reason


class _Deadly:
    """Unpickling it ends the process."""

    def __reduce__(self) -> Any:
        return os._exit, (7,)


_DEADLY = pickle.dumps(_Deadly())


def test_repeats_are_rows_of_the_same_point(trial: dict[str, Any]) -> None:
    found = sweep({"experiment": trial, "axes": {"seed": [0, 1]}}, repeats=3, workers=1)
    assert found["repeat"].tolist() == [0, 1, 2, 3] * 2
    assert found.groupby("point")["tpot.p50"].nunique().tolist() == [4, 4]


def test_points_that_nobody_can_repeat_keep_their_run(trial: dict[str, Any]) -> None:
    """A training step, and a run: of the first its run, of the second its repeats besides; compared by their runs."""
    requests = trial.pop("requests")
    both = {"seed": [0, 1], "training": [{"batch": 4, "sequence": 256}, None], "requests": [None, requests]}
    found = sweep({"experiment": trial, "zip": [both], "repeats": 2}, workers=1)
    assert found["status"].tolist() == ["ok"] * 4
    assert found[["point", "repeat"]].to_numpy().tolist() == [[0, 0], [1, 0], [1, 1], [1, 2]]
    assert not repeated(found)
    best, other = compare(found, "seed", objective("energy.total"))
    own = found[found["repeat"] == 0]["energy.total"]
    assert [best.value, other.value] == sorted(own.tolist())
    assert (best.wins, other.wins) == (1.0, 0.0)


def test_one_repeat_gives_no_interval(trial: dict[str, Any]) -> None:
    with pytest.raises(MoesimError, match="repeats: 1 gives no interval"):
        study(trial, repeats=1)


def test_a_broken_point_does_not_take_the_others_with_it(
    trial: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(spec: Any, repeats: int) -> Any:
        raise ZeroDivisionError("a mistake of the simulator")

    with monkeypatch.context() as patch:
        patch.setattr(points_module, "_rows", breaks)
        found = sweep({"experiment": trial, "axes": {"seed": [0]}}, workers=1)
    assert found["status"].tolist() == ["failed"]
    assert found["reason"].tolist() == ["ZeroDivisionError: a mistake of the simulator"]
    assert sweep({"experiment": trial, "axes": {"seed": [0]}}, workers=1)["status"].tolist() == ["ok"]


def test_a_full_disk_is_one_line_and_loses_nothing(trial: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def small(*arguments: Any, **more: Any) -> sqlite3.Connection:
        database = connect(*arguments, **more)
        database.execute("pragma max_page_count=8")
        return database

    many = load_study({"experiment": trial, "axes": {"seed": list(range(8))}})
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", small)
        with pytest.raises(MoesimError, match=r"full; what it holds is not lost; free space"):
            sweep_points(many, Resources(workers=1))
    swept = sweep_points(many, Resources(workers=1))
    assert 0 < swept.reused < 8


def test_a_cache_of_another_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "points.sqlite") as database:
        database.execute("pragma user_version=99")
    database.close()
    with pytest.raises(MoesimError, match=r"is of another version \(99, not 1\)"):
        Cache(tmp_path)


def test_something_else_than_a_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "points.sqlite").write_text("x" * 4096)
    with pytest.raises(MoesimError, match="not a database"):
        Cache(tmp_path)
