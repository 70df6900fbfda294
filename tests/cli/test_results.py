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


def test_show_prints_the_summary_of_a_results_folder_again(moesim: Callable[..., Result]) -> None:
    printed = moesim("run", "trial.yaml", "--no-figures").stdout
    assert "2 of 2 requests finished" in printed
    assert moesim("show", "results/trial").stdout == printed
    refused = moesim("show", "results/trial", "--set", "seed=2")
    assert (refused.exit_code, refused.stderr.split(";")[0]) == (2, "error: options do not apply to a results folder")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("extends: h200-sxm\npower: {tdp: 600 W}\n", "device"),
        ("kind: switch\nlink: x\nlatency: 1 us\n", "fabric"),
        ("devices: {h100-sxm: 1}\n", "system"),
        ("extends: qwen3-8b\nlayers: 2\n", "model"),
        ("extends: fixed-512-128\ninput: {distribution: constant, mean: 5}\n", "request mix"),
        ("zipf: 1.0\n", "routing profile"),
        ("token_budget: 512\n", "engine"),
        (TRIAL, "experiment"),
        ("extends: dgx-h100\n", "system"),
    ],
)
def test_show_knows_what_a_file_describes_by_its_keys(moesim: Callable[..., Result], text: str, kind: str) -> None:
    Path("mine.yaml").write_text(text)
    result = moesim("show", "mine.yaml")
    assert (result.exit_code, result.stdout.splitlines()[:1]) == (0, [f"mine ({kind})  mine.yaml"]), result.output


def test_show_asks_for_the_kind_where_keys_and_folder_leave_it_open(moesim: Callable[..., Result]) -> None:
    Path("mine.yaml").write_text("description: what\n")
    assert moesim("show", "mine.yaml").stderr.startswith("error: what mine.yaml describes is not clear; give --kind")
    assert moesim("show", "trial").stderr.startswith("error: there is no descriptor 'trial'")


def test_a_part_of_a_name_suggests_how_it_goes_on(moesim: Callable[..., Result]) -> None:
    assert "did you mean 'h200-sxm'?" in moesim("show", "h200").stderr


def test_list_takes_the_singular_too(moesim: Callable[..., Result]) -> None:
    assert moesim("list", "device").stdout == moesim("list", "devices").stdout
    assert moesim("list", "device").exit_code == 0


def test_show_says_once_that_a_default_is_estimated(moesim: Callable[..., Result]) -> None:
    lines = [line for line in moesim("show", "h100-sxm").stdout.splitlines() if "estimated" in line]
    assert any("one small GEMM" in line for line in lines)
    assert all(line.count("estimated") == 1 for line in lines)
