"""Fabrics: which keys a kind takes and needs, links counted from wires, NICs of several speeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.spec.errors import MoesimError
from moesim.spec.fabric import NEEDED_BY, TAKEN_BY, ChipletSpec, FabricSpec, even_shape
from moesim.spec.hardware import SystemSpec
from moesim.spec.loading import load_descriptor

COMMON = {"name": "f", "link": "x", "latency": "1 us"}
NEEDED = {kind: {name: json.loads(example) for name, example in needed.items()} for kind, needed in NEEDED_BY.items()}


def fabric(kind: str, **fields: object) -> FabricSpec:
    return FabricSpec.model_validate({**COMMON, "kind": kind, **NEEDED.get(kind, {}), **fields})


def test_every_key_that_is_bound_to_kinds_exists_and_so_do_the_kinds() -> None:
    fields = FabricSpec.model_fields
    kinds = set(fields["kind"].annotation.__args__)  # type: ignore[union-attr]
    assert set(TAKEN_BY) <= set(fields)
    assert {kind for taken in TAKEN_BY.values() for kind in taken} <= kinds
    for kind, needed in NEEDED_BY.items():
        assert all(kind in TAKEN_BY[name] for name in needed)
    for kind in kinds:
        assert fabric(kind).kind == kind


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{kind: torus, link: ici, latency: 0, planes: 8}", "planes means nothing to a torus; it belongs to multi-"),
        ("{kind: switch, link: ici, latency: 0, shape: [2, 4]}", "shape means nothing to a switch"),
        ("{kind: dragonfly, link: ib, latency: 0, hosts: 4}", "a dragonfly needs more than its kind; add routers: 8, "),
        ("{kind: wafer, link: nop, latency: 0}", "add shape: [5, 5]"),
        ("{kind: wafer, link: nop, latency: 0, shape: [2, 3], holes: [[2, 0]]}", "holes: [2, 0] is no site"),
        ("{kind: wafer, link: nop, latency: 0, shape: [2, 3, 4]}", "shape has 3 dimensions, a wafer has two"),
        ("{kind: toros, link: ici, latency: 0}", "did you mean 'torus'"),
        ("{kind: torus, link: ici, latency: 0, dimension: 3}", "did you mean 'dimensions'"),
        ("{kind: fat-tree, link: ib, latency: 0, leaf: 4, spines: 0}", "a fat-tree without them is in pieces"),
        ("{kind: unified-bus, link: ub, latency: 0, planes: 7, dies: 2}", "add die_bandwidth"),
        ("{kind: pcie-tree, link: pcie, latency: 0, arity: 4, roots: 2}", "add root_link"),
        ("{kind: ring, link: x, latency: 0, chiplet: {edge: 5 mm, rate: 4 Gb/s}}", "lanes_per_mm or by their pitch"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_kind_is_one_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(f"{line}\n")
    with pytest.raises(MoesimError) as error:
        load_descriptor("fabrics", path)
    assert said in str(error.value)
    assert f"{path}:1: " in str(error.value)
    assert "\n" not in str(error.value)


def test_wires_along_an_edge() -> None:
    """UCIe 1.0, advanced package: 64 lanes of 32 GT/s on 388.8 um of edge are 256 GB/s each way, 1317 GB/s per mm for
    both (UCIe consortium, white paper of 2022)."""
    module = ChipletSpec.model_validate({"edge": "388.8 um", "lanes_per_mm": 64 / 0.3888, "rate": "32 Gb/s"})
    assert module.bandwidth == pytest.approx(256e9)
    millimetre = ChipletSpec.model_validate({"edge": "1 mm", "lanes_per_mm": 64 / 0.3888, "rate": "32 Gb/s"})
    assert 2 * millimetre.bandwidth == pytest.approx(1317e9, rel=1e-3)


def test_wires_at_a_pitch() -> None:
    """400 wires of 1 Gb/s on 20 mm, a wire each 50 um, all of them one way; and a strip of 1 mm2 at 9 um."""
    edge = ChipletSpec.model_validate({"edge": "20 mm", "pitch": "50 um", "share": 1, "rate": "1 Gb/s"})
    assert edge.bandwidth == pytest.approx(400 / 8 * 1e9)
    bonded = ChipletSpec.model_validate({"edge": "10 mm", "depth": "0.1 mm", "pitch": "9 um", "rate": "4 Gb/s"})
    assert bonded.lanes == pytest.approx(1e-6 / 81e-12 / 2)


def test_a_port_is_as_fast_as_its_links() -> None:
    die = {"edge": "5 mm", "pitch": "50 um", "rate": "1 Gb/s"}  # 50 lanes, 6.25 GB/s
    assert fabric("mesh", chiplet=die).port_rate(1e12, 16) == pytest.approx(4 * 6.25e9)
    assert fabric("torus", dimensions=3, chiplet=die).port_rate(1e12, 64) == pytest.approx(6 * 6.25e9)
    assert fabric("switch", chiplet=die).port_rate(1e12, 16) == pytest.approx(6.25e9)
    assert fabric("full-mesh", chiplet=die).port_rate(1e12, 8) == pytest.approx(7 * 6.25e9)
    assert fabric("full-mesh", bandwidth="40 GB/s").port_rate(30e9, 8) == 30e9


@given(st.integers(1, 4000), st.integers(1, 4))
def test_shapes_have_a_site_for_every_device(devices: int, dimensions: int) -> None:
    shape = even_shape(devices, dimensions)
    assert len(shape) == dimensions
    product = 1
    for extent in shape:
        product *= extent
    assert product == devices


def test_shapes_are_even() -> None:
    assert even_shape(64, 3) == (4, 4, 4)
    assert even_shape(8, 2) == (2, 4)
    assert even_shape(256, 2) == (16, 16)
    assert even_shape(8960, 3) == (16, 20, 28)


def test_nics_of_several_speeds() -> None:
    tree = {"devices": {"big": 4, "small": 4}, "nic": {"big": "50 GB/s", "small": "200 Gb/s"}}
    system = SystemSpec.model_validate(tree)
    assert (system.nic_of("big"), system.nic_of("small")) == (50e9, 25e9)
    assert SystemSpec.model_validate({**tree, "nic": "50 GB/s"}).nic_of("small") == 50e9


@pytest.mark.parametrize(
    ("nic", "said"),
    [
        ("{big: 50 GB/s, smal: 25 GB/s}", "smal is no device of the node; it has big"),
        ("{big: 50}", "big: 50 has no unit"),
        ("50 GBs", "unknown unit GBs"),
    ],
)
def test_a_nic_that_is_none_is_refused(tmp_path: Path, nic: str, said: str) -> None:
    (tmp_path / "box.yaml").write_text(f"devices: {{big: 4}}\nnic: {nic}\n")
    with pytest.raises(MoesimError) as error:
        load_descriptor("systems", tmp_path / "box.yaml")
    assert said in str(error.value)
    assert "box.yaml:2: " in str(error.value)
