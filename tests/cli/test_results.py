"""What a run keeps of how it was called, and its summary shown again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from moesim.cli import main
from moesim.results import load

TRIAL = """\
model:
  {name: tiny, layers: 2, hidden: 256, vocabulary: 1000, context: 2048, dense_width: 512,
   attention: {heads: 8, kv_heads: 4, head_dim: 32}}
machine: {devices: {rtx4090: 1}}
engine: vllm-0.19
requests: {mix: fixed-512-128, rate: 10/s, count: 2}
"""


@pytest.fixture
def moesim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command line in a folder with an experiment."""
    monkeypatch.chdir(tmp_path)
    Path("trial.yaml").write_text(TRIAL)
    return lambda *arguments: CliRunner().invoke(main, list(arguments))


def test_the_manifest_says_how_the_run_was_called(moesim: Callable[..., Result]) -> None:
    sets = ["requests.count=3", "seed=5"]
    moesim("run", "trial.yaml", "--no-figures", *(word for text in sets for word in ("--set", text)))
    manifest = load("results/trial").manifest
    assert manifest["options"] == {"experiment": "trial.yaml", "set": sets, "figures": False}
    assert manifest["seed"] == 5
