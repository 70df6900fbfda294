"""`moesim calibrate run`: from the names of a device and of models to a folder of tables."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from moesim.calibrate.benchmarks.cases import COLUMNS, Case, plan
from moesim.calibrate.benchmarks.clocks import clocks
from moesim.calibrate.benchmarks.collectives import collective_cases, measured
from moesim.calibrate.benchmarks.environment import Gauge, environment, source
from moesim.calibrate.benchmarks.kernels import kernel_work
from moesim.calibrate.benchmarks.model import check_supported
from moesim.calibrate.benchmarks.pytorch import Bench, open_bench
from moesim.calibrate.benchmarks.schedule import Progress, work_off
from moesim.calibrate.benchmarks.steps import Steps, step_cases
from moesim.calibrate.benchmarks.store import Store, implementation, row_key
from moesim.calibrate.benchmarks.timing import Clock, Measurement, Work, measure
from moesim.calibrate.benchmarks.transfers import (
    memcpy_cases,
    memcpy_work,
    scratch_file,
    storage_cases,
    storage_work,
)
from moesim.hardware.device import Device, make_device
from moesim.spec.base import Dtype
from moesim.spec.loading import load_descriptor
from moesim.spec.model import ModelSpec

#: Tables whose cases move bytes: there is one way to launch each.
TRANSFERS = ("memcpy", "storage", "collective")


@dataclass(frozen=True)
class Request:
    """device, models: names of the library or YAML files. tables: of COLUMNS. budget: seconds, None for no end."""

    device: str
    models: tuple[str, ...]
    output: Path
    dtype: Dtype = "bf16"
    threads: int = 1
    tables: tuple[str, ...] = tuple(COLUMNS)
    budget: float | None = None


@dataclass
class Tally:
    """Rows measured now, rows that were there, cases left for another time; what could not be measured, and why."""

    rows: int = 0
    found: int = 0
    left: int = 0
    failures: list[str] = field(default_factory=list)


def run_benchmarks(request: Request, tally: Tally, progress: Progress) -> None:
    """Measures what the folder lacks; `tally` counts while it goes on.

    Raises:
        MoesimError: the device or a model is unknown or cannot be measured here, PyTorch is missing, or the folder
            belongs to something else.
        OSError: the folder cannot be written.
    """
    begin = time.monotonic()
    spec = load_descriptor("devices", request.device)
    models = [load_descriptor("models", name) for name in request.models]
    for model in models:
        check_supported(model)
    device = make_device(spec, index=0, name=spec.name, node=0)
    device.peak(request.dtype)
    bench = open_bench(spec.kind, request.dtype, request.threads)
    store = Store(request.output)
    store.open(environment(spec.name, bench))
    session = _Session(spec.name, bench, store, models, tally)
    cases = session.missing(_plan(models, device, request, bench))
    total = sum(len(each) for each in cases.values())

    def left() -> float | None:
        return None if request.budget is None else request.budget - (time.monotonic() - begin)

    with session:
        if apart := cases.pop("collective", []):
            share = left()
            session.collectives(apart, None if share is None else share / (len(cases) + 1), progress)
        work_off(cases, session.measure, left(), progress)
    tally.left = total - session.through


def _plan(models: Sequence[ModelSpec], device: Device, request: Request, bench: Bench) -> dict[str, list[Case]]:
    cases = plan(models, device, request.dtype, request.tables)
    if "memcpy" in request.tables:
        cases["memcpy"] = memcpy_cases(bench.kind)
    if "storage" in request.tables:
        cases["storage"] = storage_cases()
    if "collective" in request.tables:
        cases["collective"] = collective_cases(bench)
    if "steps" in request.tables:
        cases["steps"] = step_cases(models, device, request.dtype)
    return cases


class _Session(ExitStack):
    """What stays open between two cases: weights of the last model, and a file on the drive."""

    def __init__(self, device: str, bench: Bench, store: Store, models: Sequence[ModelSpec], tally: Tally) -> None:
        super().__init__()
        self.through = 0
        self._bench, self._store, self._tally = bench, store, tally
        self._common = {"device": device, "dtype": bench.format}
        self._clocks, self._gauge = clocks(bench), Gauge(bench)
        self._steps = Steps(models, bench)
        self._done: dict[str, set[tuple[str, ...]]] = {}
        self._file: Path | None = None

    def missing(self, cases: Mapping[str, Sequence[Case]]) -> dict[str, list[Case]]:
        """The cases of which a row is missing."""
        self._done = {table: self._store.done(table) for table in cases}
        self._tally.found = sum(len(keys) for keys in self._done.values())
        return {table: [case for case in each if any(self._open(case))] for table, each in cases.items()}

    def _open(self, case: Case) -> Iterator[Clock]:
        """The ways to launch a case that have no row yet."""
        ways = self._clocks[:1] if case.table in TRANSFERS else self._clocks
        return (clock for clock in ways if row_key(case, clock.way) not in self._done[case.table])

    def measure(self, case: Case) -> None:
        """All ways to launch one case. What PyTorch refuses (memory, capture) is counted and left out."""
        import torch

        try:
            with torch.inference_mode(), ExitStack() as stack:
                work, beside = self._work(case, stack)
                for clock in self._open(case):
                    self._keep(case, clock.way, measure(work, clock), beside)
        except (RuntimeError, MemoryError) as error:
            self._tally.failures.append(f"{case.table} {' '.join(case.key)}: {str(error).splitlines()[0]}")
        self.through += 1

    def _work(self, case: Case, stack: ExitStack) -> tuple[Work, dict[str, object]]:
        if case.table == "steps":
            work, touched = self._steps.work(case)
            return work, {"touched": touched}
        if case.table == "memcpy":
            return memcpy_work(case, self._bench), {}
        if case.table == "storage":
            if self._file is None:
                self._file = self.enter_context(scratch_file(self._store.folder))
            work, close = storage_work(case, self._file)
            stack.callback(close)
            return work, {}
        constant = {"distribution": "balanced"} if case.table == "moe" else {}
        if case.table.startswith("attention"):
            constant = {"kv_dtype": self._bench.format, "window": "0"}
        return kernel_work(case, self._bench), dict(constant)

    def collectives(self, cases: Sequence[Case], budget: float | None, progress: Progress) -> None:
        """By processes of their own, which must not run beside other measurements."""
        begin = time.monotonic()
        progress("collective", 0, len(cases))
        try:
            for count, (case, found) in enumerate(measured(cases, self._bench), 1):
                self._keep(case, self._clocks[0].way, found, {})
                self.through += 1
                progress("collective", count, len(cases))
                if budget is not None and time.monotonic() - begin >= budget:
                    break
        except RuntimeError as error:
            self._tally.failures.append(f"collective: {error}")

    def _keep(self, case: Case, way: str, found: Measurement, beside: Mapping[str, object]) -> None:
        clock, celsius = self._gauge.state()
        row = {
            **self._common, **beside,
            "source": source(way),
            "latency_us": f"{found.seconds * 1e6:.6g}",
            "impl": implementation(case, way),
            "samples": found.samples,
            "rejected": found.rejected,
            "spread": f"{found.spread:.3g}",
            "clock_mhz": f"{clock:.6g}" if clock == clock else "",
            "celsius": f"{celsius:.4g}" if celsius == celsius else "",
        }  # fmt: skip
        self._store.append(case, row)
        self._tally.rows += 1
