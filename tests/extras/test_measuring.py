"""A machine measured, fitted and predicted, end to end and at small size. Nothing here says how fast it must be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: make test-extras")

import pandas as pd
from click.testing import CliRunner

from moesim.calibrate.benchmarks import cases, pytorch, steps, timing, transfers
from moesim.calibrate.benchmarks.cases import COLUMNS, Case, shuffled
from moesim.calibrate.benchmarks.clocks import CpuClock
from moesim.calibrate.benchmarks.collectives import OPERATIONS, collective_cases, measured
from moesim.calibrate.benchmarks.kernels import kernel_work
from moesim.calibrate.benchmarks.pytorch import Bench, open_bench
from moesim.calibrate.benchmarks.run import Request, Tally, run_benchmarks
from moesim.calibrate.benchmarks.timing import Work
from moesim.calibrate.whole_steps import whole_steps
from moesim.cli import main
from moesim.spec.errors import MoesimError

KERNELS = ("gemm", "moe", "attention_prefill", "attention_decode", "elementwise")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few and small cases, few samples."""
    monkeypatch.setattr(timing, "FEWEST", 3)
    monkeypatch.setattr(timing, "PATIENCE", 0.0)
    monkeypatch.setattr(timing, "WARM_UP", 0.0)
    monkeypatch.setattr(cases, "LONGEST", 1e-4)
    monkeypatch.setattr(pytorch, "COLD_BYTES", 2**22)
    monkeypatch.setattr(pytorch, "last_cache", lambda: 0)
    monkeypatch.setattr(transfers, "FILE_BYTES", 2**24)
    monkeypatch.setattr(steps, "PREFILL", ((1, 16, 16), (4, 32, 32)))
    monkeypatch.setattr(steps, "DECODE", ((1, 1, 65), (8, 1, 65)))
    monkeypatch.setattr(cases, "shuffled", few)


def few(found: Iterable[Case]) -> list[Case]:
    """The first 32 of each kernel."""
    kept: dict[str, list[Case]] = {}
    for case in shuffled(found):
        kept.setdefault(case.kernel, []).append(case)
    return [case for each in kept.values() for case in each[:32]]


def request(tiny: Path, folder: Path, *tables: str, budget: float | None = None) -> Request:
    return Request("xeon-amx-core", (str(tiny),), folder, "fp32", 1, tables, budget)


@pytest.mark.usefixtures("quick")
def test_the_loop_from_kernels_to_whole_steps(tiny: Path, tmp_path: Path) -> None:
    """Kernels are fitted, steps are not; a factor of three catches operators that are missing or counted twice on a
    machine that is busy with other things."""
    folder, tally = tmp_path / "machine", Tally()
    run_benchmarks(request(tiny, folder, *KERNELS, "steps"), tally, lambda *_: None)
    assert tally.failures == []
    assert tally.left == 0
    rows = {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}
    assert sum(len(table) for table in rows.values()) == tally.rows
    assert set(rows) == {*KERNELS, "steps"}
    report = whole_steps(folder, [str(tiny)])
    assert {each.step.part for each in report.steps} == {"dense layer", "moe layer", "model"}
    assert {each.step.new == 1 for each in report.steps} == {True, False}
    for each in report.steps:
        assert 1 / 3 < each.predicted / each.measured < 3, each


@pytest.mark.usefixtures("quick")
def test_it_goes_on_where_it_was_stopped(tiny: Path, tmp_path: Path) -> None:
    first, second, third = Tally(), Tally(), Tally()
    run_benchmarks(request(tiny, tmp_path / "machine", "elementwise", budget=0.2), first, lambda *_: None)
    assert first.left > 0
    for tally in (second, third):
        run_benchmarks(request(tiny, tmp_path / "machine", "elementwise"), tally, lambda *_: None)
    assert (second.found, second.rows, second.left) == (first.rows, first.left, 0)
    assert (third.found, third.rows) == (first.rows + second.rows, 0)
    table = pd.read_csv(tmp_path / "machine" / "elementwise.csv")
    assert not table.duplicated(["kernel", "m", "n"]).any()


@pytest.mark.usefixtures("quick")
def test_transfers_and_a_drive(tiny: Path, tmp_path: Path) -> None:
    tally = Tally()
    run_benchmarks(request(tiny, tmp_path / "machine", "memcpy", "storage", budget=20.0), tally, lambda *_: None)
    assert tally.failures == []
    assert set(pd.read_csv(tmp_path / "machine" / "memcpy.csv")["kernel"]) == {"host_to_host"}
    drive = pd.read_csv(tmp_path / "machine" / "storage.csv")
    assert (drive["latency_us"] > 0).all()
    assert sorted(path.name for path in (tmp_path / "machine").iterdir()) == [
        "environment.yaml", "memcpy.csv", "storage.csv",
    ]  # fmt: skip


def test_two_processes_exchange_by_gloo(bench: Bench) -> None:
    small = [case for case in collective_cases(bench) if case.size("bytes") == 2**12]
    found = list(measured(small, bench))
    assert [case for case, _ in found] == small
    assert {case.kernel for case in small} == set(OPERATIONS)
    assert all(0 < each.seconds < math.inf for _, each in found)


def test_copies_are_as_many_as_leave_none_in_a_cache(bench: Bench) -> None:
    """Of 4 MiB each copy of 256 KiB is a sixteenth; none overlaps another."""
    copies = bench.copies(256, 256)
    assert len(copies) == 16
    assert len({copy.data_ptr() for copy in copies}) == 16
    assert min(abs(a.data_ptr() - b.data_ptr()) for a in copies for b in copies if a is not b) == 2**18
    assert [copy.data_ptr() for copy in bench.copies(256, 256)] != [copy.data_ptr() for copy in copies]


def test_a_clock_takes_turns_between_copies() -> None:
    seen: list[int] = []
    clock = CpuClock(1, lambda: seen.append(-1))
    clock.seconds(Work(seen.append, 3), 0, 4)
    clock.seconds(Work(seen.append, 3), 4, 2)
    assert seen == [-1, 0, -1, 1, -1, 2, -1, 0, -1, 1, -1, 2]
    clock.seconds(Work(seen.append, 3, wall=True), 0, 2)
    assert seen[-2:] == [0, 1]


@pytest.mark.parametrize(
    ("table", "kernel", "sizes", "shape"),
    [
        ("gemm", "gemm", (3, 8, 5), (3, 8)),
        ("moe", "fused_moe", (5, 16, 8, 4, 2, 1, 1), (5, 16)),
        ("attention_prefill", "attention_prefill", (2, 6, 6, 4, 2, 16), (2, 6, 4, 16)),
        ("attention_decode", "attention_decode", (2, 1, 9, 4, 2, 16), (2, 1, 4, 16)),
        ("elementwise", "norm", (4, 64), (4, 64)),
        ("elementwise", "activation", (4, 64), (4, 64)),
        ("elementwise", "qk_norm", (4, 384), (4, 3, 128)),
        ("elementwise", "rope", (4, 384), (4, 3, 128)),
        ("elementwise", "embedding", (4, 64), (4, 64)),
        ("elementwise", "sampling", (4, 64), (4,)),
    ],
)
def test_what_is_timed_has_the_sizes_of_its_row(
    table: str, kernel: str, sizes: tuple[int, ...], shape: tuple[int, ...], bench: Bench
) -> None:
    assert len(sizes) == len(COLUMNS[table])
    assert kernel_work(Case(table, kernel, sizes), bench).call(0).shape == shape


def test_no_cuda_is_said_in_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(MoesimError, match="finds no CUDA device; run it where the GPU is"):
        open_bench("gpu", "bf16", 1)


@pytest.mark.usefixtures("quick")
def test_the_command_says_what_is_kept_and_what_is_left(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "machine"
    options = ["--device", "xeon-amx-core", "--model", str(tiny), "--output", str(folder), "--dtype", "fp32"]
    said = []
    for budget in (["--budget", "1us"], []):
        result = CliRunner().invoke(main, ["calibrate", "run", *options, "--table", "gemm", *budget])
        assert result.exit_code == 0, result.output
        said.append(result.output.replace("\n", ""))
    assert "32 cases are left; the same command goes on with them" in said[0]
    assert "rows measured" not in said[0]
    assert f"32 rows measured, kept in {folder}" in said[1]
    assert "left" not in said[1]


@pytest.mark.usefixtures("quick")
def test_an_interruption_keeps_what_is_measured(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, count = tmp_path / "machine", iter(range(100))
    timed = timing.measure

    def interrupted(*arguments: Any) -> timing.Measurement:
        if next(count) == 5:
            raise KeyboardInterrupt
        return timed(*arguments)

    monkeypatch.setattr("moesim.calibrate.benchmarks.run.measure", interrupted)
    options = ["--device", "xeon-amx-core", "--model", str(tiny), "--output", str(folder), "--dtype", "fp32"]
    result = CliRunner().invoke(main, ["calibrate", "run", *options, "--table", "gemm"])
    assert result.exit_code == 130, result.output
    assert f"5 rows measured, kept in {folder}" in result.output.replace("\n", "")
    assert len(pd.read_csv(folder / "gemm.csv")) == 5
