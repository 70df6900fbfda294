"""Mistakes with `moesim calibrate run` and `steps`: one line, exit code 2, nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from moesim.cli import main


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOESIM_PATH", raising=False)


def complaint(*words: str) -> str:
    result = CliRunner().invoke(main, ["calibrate", *words])
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert list(Path().iterdir()) == []
    return result.stderr


def test_without_pytorch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert complaint("run", "--device", "epyc-9654") == (
        "error: measuring needs PyTorch; pip install 'moesim[calibrate]'\n"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--device", "epyc-9645"], "there is no device 'epyc-9645'; did you mean 'epyc-9654'?"),
        (["--device", "epyc-9654", "--model", "olmo"], "there is no model 'olmo'; did you mean 'olmoe-1b-7b'?"),
        (["--device", "epyc-9654", "--model", "deepseek-v3"], "deepseek-v3 has latent attention, which the benchmarks"),
        (["--device", "epyc-9654", "--budget", "soon"], "write a time like 60s or 10min"),
        (["--device", "epyc-9654", "--budget", "0s"], "--budget 0s leaves no time to measure; give more than 0 s"),
        (["--device", "epyc-9654", "--budget", "3 GB"], "write a time like 60s or 10min"),
        (["--device", "epyc-9654", "--table", "gem"], "'gem' is not one of 'gemm', 'moe'"),
        (["--device", "epyc-9654", "--threads", "0"], "0 is not in the range x>=1"),
        (["--device", "samsung-pm9a3"], "samsung-pm9a3 cannot compute in bf16"),
        ([], "missing option '--device'"),
    ],
)
def test_mistakes(options: list[str], said: str) -> None:
    assert said in complaint("run", *options)


def test_a_folder_without_measurements_has_no_steps() -> None:
    said = complaint("steps", "nowhere")
    assert said == (
        "error: nowhere holds no measurements with their environment; name a folder of `moesim calibrate run`\n"
    )


def test_help_is_there_without_pytorch() -> None:
    """In a process of its own: nothing of PyTorch or pandas is loaded to print it."""
    code = (
        "import sys; from moesim.cli import main\n"
        "try: main(['calibrate', 'run', '--help'])\n"
        "except SystemExit: print({'torch', 'pandas', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Time the kernels, transfers, layers and steps" in done.stdout
    assert done.stdout.endswith("set()\n")
