"""Pictures and console trees of machines."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from moesim.hardware.drawing import draw_machine, quantity, tree
from moesim.hardware.machine import assemble
from moesim.spec.loading import load_system


def console(name: str) -> str:
    printed = io.StringIO()
    Console(width=200, file=printed).print(tree(assemble(*load_system(name))))
    return printed.getvalue()


def test_quantities_have_three_digits_and_a_prefix() -> None:
    assert quantity(3.35e12, "B/s") == "3.35 TB/s"
    assert quantity(989e12, "FLOP/s") == "989 TFLOP/s"
    assert quantity(12.0, "B") == "12 B"


def test_tree_folds_many_equal_devices() -> None:
    text = console("cloudmatrix384")
    assert "48 nodes, each with" in text
    assert "8 x ascend-910c  752 TFLOP/s bf16, hbm 128 GB, 3.2 TB/s, 800 W" in text
    assert text.count("ascend-910c") == 1
    assert "ub-supernode  scale-out unified-bus on ub" in text


def test_tree_lists_few_devices_one_by_one() -> None:
    text = console("rtx4090-cpu")
    assert "rtx4090-0  165 TFLOP/s bf16" in text
    assert "xeon-8480-plus0  21.3 TFLOP/s bf16" in text


@pytest.mark.parametrize(
    ("name", "shown", "folded"),
    [
        ("dgx-h100", ["h100-sxm7", "samsung-pm9a3-7"], []),
        ("gb200-nvl72", ["gb200-gpu6"], ["gb200-gpu7"]),
        ("cloudmatrix384", ["47 more nodes"], ["node 1"]),
    ],
)
def test_picture_names_its_parts(tmp_path: Path, name: str, shown: list[str], folded: list[str]) -> None:
    path = tmp_path / "machine.svg"
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_machine(assemble(*load_system(name)), path)
    text = path.read_text()
    assert all(f">{label}<" in text for label in shown)
    assert not any(f">{label}<" in text for label in folded)


def test_picture_is_written_as_png(tmp_path: Path) -> None:
    path = tmp_path / "machine.png"
    draw_machine(assemble(*load_system("rtx-pro-6000-pair")), path)
    assert path.read_bytes().startswith(b"\x89PNG")
