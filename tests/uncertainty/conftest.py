"""A machine whose only kernels that take time are measured: attention of 1 s per layer and step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ruler
import yaml

from moesim.kernels.forms import FORMS, Rates, Times
from moesim.kernels.shapes import AttentionShape
from moesim.spec.loading import LoadedExperiment, load_experiment

#: Residuals of decode attention; the other kernels are exact, or take no time.
SCATTER = (0.8, 0.9, 1.0, 1.15, 1.3)
EXACT = (1.0,) * 5


@dataclass(frozen=True)
class PerCall:
    """`launch` seconds where anything decodes."""

    launch: float

    def times(self, shape: AttentionShape, rates: Rates) -> Times:
        seconds = np.where(np.asarray(shape.decodes) > 0, self.launch, 0.0)
        return Times(seconds, np.zeros_like(seconds), np.zeros_like(seconds))


def fit(kernel: str, launch: str, residuals: tuple[float, ...]) -> str:
    record = "fitted: 9, rejected: 0, scored: 9, median: 5, p90: 20, rank: 1, covered: 0.8"
    return (
        f"  - {{kernel: {kernel}, format: bf16, terms: {{launch: {launch}}}, "
        f"record: {{{record}, residuals: {{all: {list(residuals)}}}}}}}\n"
    )


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LoadedExperiment]:
    """`measured(residuals, **changes)`: an experiment on the ruler whose decode attention has such residuals."""
    for kernel in ("attention_prefill", "attention_decode"):
        monkeypatch.setitem(FORMS, kernel, PerCall)
    count = 0

    def make(residuals: tuple[float, ...] = SCATTER, **changes: Any) -> LoadedExperiment:
        nonlocal count
        count += 1
        library = ruler.write_families(tmp_path / f"library{count}")
        place = library / "hardware" / "calibrations" / "kernels" / "unit"
        place.mkdir(parents=True)
        devices = library / "hardware" / "devices"
        devices.mkdir()
        (devices / "unit.yaml").write_text(yaml.safe_dump({"name": "unit", **ruler.device()}))
        head = "name: unit\ndevices: [unit]\nfamily: ideal\nstack: trial-1.0\nkernels:\n"
        fits = fit("attention_prefill", "0 s", EXACT) + fit("attention_decode", "1 s", residuals)
        (place / "trial-1.0.yaml").write_text(head + fits)
        monkeypatch.setenv("MOESIM_PATH", str(library))
        trace = ruler.write_trace(tmp_path / "trace.csv", [(0, 1, 21), (0, 1, 21)])
        engine = {"step_overhead": "0 s", "kernels": ["trial"], **changes.pop("engine", {})}
        return load_experiment(ruler.document(trace, engine=engine, **changes))

    return make
