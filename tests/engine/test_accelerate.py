"""Compilation is optional, and off where the environment says so."""

import importlib

import numpy as np
import pytest
from engine_graphs import layered

from moesim import accelerate
from moesim.engine.sweep import Sweep, sweep_loop
from moesim.step.graph import ABSENT


def test_the_environment_switches_compilation_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOESIM_NUMBA", "0")
    try:
        assert not importlib.reload(accelerate).HAVE_NUMBA
    finally:
        monkeypatch.undo()
        importlib.reload(accelerate)


def test_the_loop_gives_the_same_as_plain_python() -> None:
    step = layered(3, 3)
    analysed = Sweep(step)
    start, finish = np.full_like(step.duration, ABSENT), np.full_like(step.duration, ABSENT)
    sweep_loop(step.duration, np.zeros((3, 3), dtype=np.int64), *analysed._flat, start, finish)
    expected = analysed.run(step.duration, kernel="numpy")
    assert start.tobytes() == expected.start.tobytes()
    assert finish.tobytes() == expected.finish.tobytes()
