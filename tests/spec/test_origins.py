from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moesim.spec.loading import load_experiment, read_descriptor

BASE = """\
kind: gpu
family: hopper
compute: {bf16: 1000 TFLOP/s, fp8: 2000 TFLOP/s}
memory: [{tier: sram, capacity: 50 MB, bandwidth: 10 TB/s}, {tier: hbm, capacity: 80 GB, bandwidth: 4 TB/s}]
power: {tdp: 700 W}
sources:
  {compute: datasheet, compute.fp8: slides, memory.hbm: label, memory.hbm.bandwidth: brochure, power.tdp: sticker}
unverified: [compute, memory.hbm, power.tdp]
estimated: [power.idle]
"""
ALL = {
    "compute": "datasheet", "compute.fp8": "slides", "memory.hbm": "label", "memory.hbm.bandwidth": "brochure",
    "power.tdp": "sticker",
}  # fmt: skip


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Origins in the document of a device that extends the base, with overrides."""
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)

    def read(text: str = "", *overrides: str) -> tuple[dict[str, str], set[str], list[str]]:
        Path("child.yaml").write_text(f"extends: base.yaml\n{text}")
        document = read_descriptor("devices", "child.yaml", overrides).document
        return document["sources"], set(document["unverified"]), document["estimated"]

    return read


def without(*names: str) -> dict[str, str]:
    return {name: source for name, source in ALL.items() if name not in names}


def test_what_is_not_replaced_keeps_its_origin(child: Any) -> None:
    assert child("description: mine\n") == (ALL, {"compute", "memory.hbm", "power.tdp"}, ["power.idle"])


def test_a_replaced_number_loses_the_source_and_marks_of_the_base(child: Any) -> None:
    sources, unverified, estimated = child("power: {tdp: 600 W, idle: 70 W}\n")
    assert sources == without("power.tdp") | {"power.tdp": "given in child.yaml"}
    assert (unverified, estimated) == ({"compute", "memory.hbm"}, [])


def test_what_was_said_of_a_whole_section_holds_for_the_rest_of_it(child: Any) -> None:
    sources, unverified, _ = child("compute: {bf16: 900 TFLOP/s}\n")
    assert sources == ALL | {"compute.bf16": "given in child.yaml"}
    assert unverified == {"compute.fp8", "memory.hbm", "power.tdp"}


def test_a_replaced_list_takes_everything_below_with_it(child: Any) -> None:
    sources, unverified, _ = child("memory: [{tier: hbm, capacity: 141 GB, bandwidth: 4.8 TB/s}]\n")
    assert sources == without("memory.hbm", "memory.hbm.bandwidth") | {"memory": "given in child.yaml"}
    assert unverified == {"compute", "power.tdp"}


def test_a_restated_source_or_mark_holds(child: Any) -> None:
    sources, unverified, _ = child("power: {tdp: 600 W}\nsources: {power: my meter}\nunverified: [power.tdp]\n")
    assert sources == without("power.tdp") | {"power": "my meter"}
    assert unverified == {"compute", "memory.hbm", "power.tdp"}


def test_an_override_is_its_own_source(child: Any) -> None:
    sources, unverified, _ = child("", "memory.1.bandwidth=5 TB/s", "power.tdp=null")
    assert sources == without("power.tdp") | {"memory.hbm.bandwidth": "given by --set"}
    assert unverified == {"compute", "memory.hbm.capacity"}


def test_so_inside_an_experiment(child: Any) -> None:
    experiment = {
        "model": "olmoe-1b-7b", "engine": "vllm-0.19", "machine": {"devices": {"child.yaml": 1}},
        "requests": {"mix": "chat", "rate": "1/s", "count": 1},
    }  # fmt: skip
    child("power: {tdp: 600 W}\n")
    device = load_experiment(experiment).document["library"]["devices"]["child"]
    assert device["sources"]["power.tdp"] == "given in child.yaml"
