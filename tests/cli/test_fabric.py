"""`moesim fabric`: the table, the figure, and how mistakes end."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from moesim.cli import main
from moesim.cli.fabric import parse_devices, parse_sizes

DEVICE = """\
kind: gpu
family: hopper
compute: {bf16: 1000 TFLOP/s}
memory: [{tier: hbm, capacity: 80 GB, bandwidth: 4 TB/s}]
links: {wire: 100 GB/s}
"""


@pytest.fixture
def moesim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command line where eight imaginary devices sit on an ideal switch."""
    files = {
        "devices/imaginary.yaml": DEVICE,
        "fabrics/ideal.yaml": "{kind: switch, link: wire, latency: 1 us}\n",
        "systems/box.yaml": "devices: {imaginary: 8}\nfabric: ideal\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("MOESIM_PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, ["fabric", *arguments])


def rows(result: Result) -> list[list[str]]:
    """Cells of the rows, in columns that two blanks part."""
    assert result.exit_code == 0, result.output
    return [line.split("   ") for line in result.stdout.splitlines() if line.split()[1:2] in (["MB"], ["GB"], ["kB"])]


def test_the_table(moesim: Callable[..., Result]) -> None:
    """8 MB from each of eight devices to all: 1 us + 7 MB / 100 GB/s."""
    result = moesim("box", "--sizes", "8MB")
    (cells,) = rows(result)
    text = " ".join(" ".join(cells).split())
    assert text == "8.00 MB 71.0 µs direct 113 GB/s 98.6 GB/s 71.0 µs 1.00× 98.6 %"
    assert "all-to-all over 8 devices of box, fidelity bound" in result.stdout
    assert "busiest link: node0/imaginary0 -> node0/ideal (and 15 alike)" in result.stdout


def test_a_file_and_an_override(moesim: Callable[..., Result]) -> None:
    result = moesim("systems/box.yaml", "--sizes", "8MB", "--set", "devices.imaginary=4")
    assert "over 4 devices of box" in result.stdout


def test_some_devices_and_flows(moesim: Callable[..., Result]) -> None:
    result = moesim("box", "--sizes", "1MB", "--devices", "0-2,5", "--fidelity", "flow")
    assert "over 4 devices of box, fidelity flow" in result.stdout
    assert "8.50 µs" in result.stdout  # 1 us + 3/4 MB / 100 GB/s


def test_options_without_effect_are_named(moesim: Callable[..., Result]) -> None:
    result = moesim("box", "--sizes", "1MB", "--collective", "all-reduce", "--skew", "2", "--chunk", "1KiB")
    assert "note: --chunk changes nothing at fidelity bound" in result.stdout
    assert "note: --skew changes nothing but an all-to-all" in result.stdout


def test_measured_times_say_what_they_are_from(moesim: Callable[..., Result]) -> None:
    result = moesim("dgx-h100", "--collective", "all-reduce", "--sizes", "1MB", "--library", "nccl")
    assert "nccl-" in " ".join(rows(result)[0])
    assert "measured on h100-sxm" in result.stdout


def test_the_figure(moesim: Callable[..., Result], tmp_path: Path) -> None:
    result = moesim("box", "--plot", "figure.png")
    assert "figure: figure.png" in result.stdout
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--devices", "0"), "alone moves nothing"),
        (("--devices", "1,1"), "names node0/imaginary1 twice"),
        (("--devices", "0-8"), "there is no device 8"),
        (("--devices", "a"), "'a' is no rank"),
        (("--sizes", "1GB:1MB"), "the range is empty; write 1MB:1GB"),
        (("--sizes", "12"), "'12' is not a quantity in byte"),
        (("--sizes", "0 B"), "moves nothing"),
        (("--algorithm", "halving-doubling", "--collective", "all-reduce", "--devices", "0-5"), "power of two"),
        (("--collective", "all-reduce", "--algorithm", "rong"), "'rong'"),
        (("--collective", "all-reduce", "--algorithm", "nvls"), "needs a switch that adds up"),
        (("--collective", "send"), "a send joins two devices"),
        (("--skew", "9"), "a skew of 9"),
        (("--plot", "x.gif"), "x.gif is no PDF, PNG or SVG file"),
        (("--library", "nccl"), "no measurements of 'nccl'"),
        (("--fidelity", "chunk", "--chunk", "1B", "--sizes", "1GB"), "take fabric: flow"),
        (("--set", "devices.imaginary=0"), "devices.imaginary"),
    ],
)
def test_mistakes_are_one_line(moesim: Callable[..., Result], options: tuple[str, ...], message: str) -> None:
    result = moesim("box", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_ranges() -> None:
    assert parse_sizes("1KB:1MB") == [1e3, 4e3, 16e3, 64e3, 256e3, 1e6]
    assert parse_sizes("64KiB, 1 MB") == [65536.0, 1e6]
    assert parse_sizes("1MB:1MB") == [1e6]
    assert parse_devices("3,0-1", 8) == [3, 0, 1]
    assert parse_devices(None, 3) == [0, 1, 2]
