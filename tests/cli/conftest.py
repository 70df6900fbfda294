"""A small experiment to make mistakes in, and what holds for every mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from click.testing import CliRunner, Result

from moesim.cli import main

Run: TypeAlias = Callable[..., Result]

#: A model small enough to run anywhere and an experiment with it, on real devices.
TINY = """\
layers: 2
hidden: 256
vocabulary: 1000
context: 2048
attention: {heads: 8, kv_heads: 4, head_dim: 32}
moe: {experts: 8, top_k: 2, width: 128, shared_width: 128}
"""
TRIAL = """\
model: tiny.yaml
machine: {devices: {rtx4090: 4}, fabric: pcie4-host}
parallelism:
  dp: 2
  ep: 2
engine: vllm-0.19
requests: {mix: fixed-512-128, rate: 10/s, count: 2}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs an experiment (by default trial.yaml) with the library that comes with moesim, and `--set` for each text."""
    monkeypatch.delenv("MOESIM_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    Path("trial.yaml").write_text(TRIAL)

    def call(*overrides: str, experiment: str = "trial.yaml", options: tuple[str, ...] = ()) -> Result:
        sets = [word for text in overrides for word in ("--set", text)]
        return CliRunner().invoke(main, ["run", experiment, "--no-figures", *sets, *options])

    return call


def complaint(run: Run, *overrides: str, **more: Any) -> str:
    """The line on standard error, after checking all that holds for every mistake."""
    before = sorted(Path().rglob("*"))
    result = run(*overrides, **more)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith("\n")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert sorted(Path().rglob("*")) == before
    return result.stderr.removeprefix("error: ").rstrip("\n")
