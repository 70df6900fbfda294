"""The door: what the commands print, and how mistakes end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from moesim import __version__
from moesim.cli import main

DEVICE = """\
description: "A device [of a test]"
kind: gpu
family: hopper
compute: {bf16: 1000 TFLOP/s, clock: 2 GHz}
memory:
  - {tier: hbm, capacity: 80 GB, bandwidth: 4 TB/s}
links: {nvlink: 450 GB/s}
power: {tdp: 700 W}
sources: {compute: datasheet 2030, compute.clock: hearsay, memory.hbm.capacity: a label, power.idle: family}
unverified: [compute.clock]
estimated: [power.idle]
"""


@pytest.fixture
def moesim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command line in a folder that holds a small library."""
    files = {
        "devices/imaginary.yaml": DEVICE,
        "fabrics/imaginary-switch.yaml": "{kind: switch, link: nvlink, latency: 1 us, efficiency: 0.5}\n",
        "systems/imaginary-box.yaml": "devices: {imaginary: 3}\nfabric: imaginary-switch\n",
        "models/imaginary.yaml": (
            "{layers: 2, hidden: 8, vocabulary: 100, context: 64, dense_width: 16,\n"
            " attention: {heads: 2, kv_heads: 2, head_dim: 4}, published: {total: 3000}}\n"
        ),
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("MOESIM_PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, list(arguments))


def row(result: Result, name: str) -> str:
    """The line that starts with `name`, its columns separated by one space."""
    (line,) = [" ".join(line.split()) for line in result.stdout.splitlines() if line.split()[:1] == [name]]
    return line


def test_version(moesim: Callable[..., Result]) -> None:
    assert moesim("--version").stdout == f"moesim {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    heavy = "numpy pandas pyarrow matplotlib networkx simpy pint pydantic rich yaml numba"
    code = f"import sys, moesim.cli; print([name for name in '{heavy}'.split() if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "moesim", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"moesim {__version__}\n"


def test_list_prints_names_descriptions_and_foreign_files(moesim: Callable[..., Result]) -> None:
    result = moesim("list", "devices")
    assert row(result, "imaginary") == "imaginary A device [of a test] (devices/imaginary.yaml)"
    assert "imaginary-switch" not in result.stdout
    assert "imaginary-switch" in moesim("list").stdout


def test_list_goes_on_past_a_broken_file(moesim: Callable[..., Result]) -> None:
    Path("devices/broken.yaml").write_text("a: [")
    result = moesim("list", "devices")
    assert result.exit_code == 0
    assert "not valid: devices/broken.yaml:" in row(result, "broken")


def test_show_prints_numbers_sources_and_marks(moesim: Callable[..., Result]) -> None:
    result = moesim("show", "imaginary", "--kind", "devices")
    assert result.exit_code == 0
    assert row(result, "compute.bf16") == "compute.bf16 1000 TFLOP/s datasheet 2030"
    assert row(result, "compute.clock") == "compute.clock 2 GHz unverified hearsay"
    assert row(result, "memory.hbm.capacity") == "memory.hbm.capacity 80 GB a label"
    assert row(result, "power.idle") == "power.idle default of its family estimated family"
    assert "defaults of family hopper" in result.stdout


def test_show_prints_all_kinds_of_one_name(moesim: Callable[..., Result]) -> None:
    result = moesim("show", "imaginary")
    assert "imaginary (device)" in result.stdout
    assert "imaginary (model)" in result.stdout


def test_show_compares_parameters_with_the_published(moesim: Callable[..., Result]) -> None:
    # Embedding and head 2 x 100 x 8; per layer 4 x 8 x 8 attention, 3 x 8 x 16 feed-forward, 2 x 8 norms; 8 at the end.
    total = 1600 + 2 * (256 + 384 + 16) + 8
    line = row(moesim("show", "imaginary", "--kind", "models"), "total")
    assert line == f"total {total / 1e9:.4g}e9 3e-06e9, deviation {100 * (total / 3000 - 1):+.2f} %"


def test_show_takes_overrides(moesim: Callable[..., Result]) -> None:
    result = moesim("show", "imaginary", "--kind", "devices", "--set", "power.tdp=500 W")
    assert row(result, "power.tdp") == "power.tdp 500 W"


def test_show_draws_the_tree_of_a_system(moesim: Callable[..., Result]) -> None:
    result = moesim("show", "imaginary-box")
    assert "3 x imaginary  device" in result.stdout
    assert "hbm: 80 GB, 4 TB/s" in result.stdout
    # 450 GB/s at the fabric's efficiency of one half.
    assert result.stdout.count("3 x nvlink, 225 GB/s each way") == 2


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_show_plots_the_graph_of_a_system(moesim: Callable[..., Result], suffix: str, magic: bytes) -> None:
    result = moesim("show", "imaginary-box", "--plot", f"graph.{suffix}")
    assert result.exit_code == 0, result.output
    assert Path(f"graph.{suffix}").read_bytes().startswith(magic)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "imaginari"], "there is no descriptor 'imaginari'; did you mean 'imaginary'?"),
        (["show", "none.yaml"], "there is no file none.yaml"),
        (
            ["show", "imaginary", "--kind", "fabrics"],
            "there is no fabric 'imaginary'; 'imaginary' is a device",
        ),
        (
            ["show", "imaginary", "--plot", "x.png"],
            "imaginary has no graph to draw; --plot draws systems and experiments",
        ),
        (
            ["show", "imaginary-box", "--plot", "x.doc"],
            "x.doc is no PDF, PNG or SVG file; name a file such as machine.pdf",
        ),
        (["show", "imaginary-box", "--plot", "no/x.png"], "cannot write no/x.png: No such file or directory"),
        (["show", "imaginary-box", "--set", "fabric"], "--set fabric: there is no = in it; write it like"),
        (
            ["show", "imaginary-box", "--set", "fabric=null"],
            "systems/imaginary-box.yaml:1: no link reaches imaginary: a node holds 3 devices",
        ),
        (["run", "nothing.yaml"], "there is no experiment 'nothing.yaml'"),
        (["run", "bad.yaml"], "bad.yaml:2: unknown key 'engin'; did you mean 'engine'?"),
        (["import", "model", "none.json"], "cannot read none.json: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    moesim: Callable[..., Result], arguments: list[str], message: str
) -> None:
    Path("bad.yaml").write_text("model: imaginary\nengin: x\n")
    before = sorted(Path().rglob("*"))
    result = moesim(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
    assert result.stdout.count("Traceback") == 0
    assert sorted(Path().rglob("*")) == before


def test_interruption_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("wait")
    def wait() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(main.commands, "wait", wait)
    result = CliRunner().invoke(main, ["wait"])
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_import_model_makes_a_descriptor_that_loads(moesim: Callable[..., Result]) -> None:
    Path("config.json").write_text(
        '{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 100,'
        ' "max_position_embeddings": 2048, "num_attention_heads": 4, "num_key_value_heads": 2,'
        ' "intermediate_size": 128, "hidden_act": "silu"}'
    )
    result = moesim("import", "model", "config.json", "--name", "mine", "--output", "models/mine.yaml")
    assert (result.exit_code, result.stdout) == (0, "wrote models/mine.yaml\n")
    assert row(moesim("show", "mine"), "dense_width").startswith("dense_width 128 config.json")
