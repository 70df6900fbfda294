from __future__ import annotations

from pathlib import Path

import pytest

from moesim.spec.errors import MoesimError, Where
from moesim.spec.library import KINDS, did_you_mean, find, list_descriptors
from moesim.spec.loading import load_descriptor, load_system, read_descriptor

from .conftest import Write


def test_the_users_folder_goes_before_the_library(library: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("first/models/tiny.yaml", "extends: tiny\nlayers: 40\n")
    monkeypatch.setenv("MOESIM_PATH", f"{library / 'first'}:{library}")
    model = load_descriptor("models", "tiny")
    assert (model.layers, model.hidden) == (40, 64)
    assert list_descriptors("models")["tiny"] == library / "first/models/tiny.yaml"


@pytest.mark.parametrize("folder", ["hardware/devices", "devices"])
def test_both_layouts_of_a_users_folder(
    tmp_path: Path, write: Write, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        f"mine/{folder}/drive.yaml",
        "{kind: csd, family: ssd, memory: [{tier: flash, capacity: 4 TB, bandwidth: 7 GB/s}]}",
    )
    monkeypatch.setenv("MOESIM_PATH", str(tmp_path / "mine"))
    assert load_descriptor("devices", "drive").memory[0].capacity == 4e12
    assert "drive" in list_descriptors("devices")


def test_the_name_is_the_files(library: Path) -> None:
    assert load_descriptor("devices", "fast-gpu-big").name == "fast-gpu-big"


def test_another_name_than_the_files_is_refused(library: Path, write: Write) -> None:
    path = write("hardware/devices/other.yaml", "kind: gpu\nname: fast-gpu\n")
    with pytest.raises(MoesimError, match="write name: other") as caught:
        load_descriptor("devices", "other")
    assert caught.value.where == Where(str(path.relative_to(library)), 2)


def test_a_path_is_relative_to_the_file_that_says_it(library: Path, write: Write) -> None:
    write("elsewhere/derived.yaml", "extends: ../hardware/devices/fast-gpu.yaml\npower: {idle: 70 W}\n")
    device = load_descriptor("devices", library / "elsewhere/derived.yaml")
    assert (device.power.tdp, device.power.idle) == (700.0, 70.0)


@pytest.mark.parametrize(
    ("kind", "name", "fix"),
    [
        ("devices", "fast-gpuu", "did you mean 'fast-gpu'?"),
        ("devices", "Fast-GPU", "did you mean 'fast-gpu'?"),
        ("devices", "switch", "'switch' is a fabric"),
        ("engines", "qqqqqqqq", "`moesim list engines` prints those that exist"),
        ("devices", "hardware/devices/fast-gp.yaml", "did you mean 'fast-gpu.yaml'?"),
    ],
)
def test_the_near_miss_of_an_unknown_name(library: Path, kind: str, name: str, fix: str) -> None:
    with pytest.raises(MoesimError) as caught:
        find(kind, name, folder=library)  # type: ignore[arg-type]
    assert caught.value.fix == fix


def test_a_moesim_path_that_leads_nowhere_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOESIM_PATH", "/nonexistent/folder")
    with pytest.raises(MoesimError, match="MOESIM_PATH names /nonexistent/folder"):
        list_descriptors("devices")


def test_a_system_brings_its_parts(library: Path) -> None:
    system, parts = load_system("box")
    assert system.devices == {"fast-gpu": 8}
    assert set(parts.devices) == {"fast-gpu", "host-cpu"}
    assert parts.fabrics["switch"].latency == pytest.approx(2e-6)


def test_a_descriptor_knows_the_place_of_each_value(library: Path) -> None:
    loaded = read_descriptor("devices", "fast-gpu-big")
    assert loaded.where("memory.0.capacity") == Where("hardware/devices/fast-gpu-big.yaml", 3)
    assert loaded.where("power.tdp") == Where("hardware/devices/fast-gpu.yaml", 8)


def test_every_descriptor_of_the_builtin_library_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOESIM_PATH", raising=False)
    for kind in KINDS:
        for name in list_descriptors(kind):
            if kind == "systems":
                assert load_system(name)[0].name == name
            elif kind != "experiments":
                assert load_descriptor(kind, name).name == name


def test_near_misses() -> None:
    assert did_you_mean("tpp", ["tp", "pp", "replicas"]) in ("did you mean 'tp'?", "did you mean 'pp'?")
    assert did_you_mean("bandwith", ["bandwidth", "latency"]) == "did you mean 'bandwidth'?"
    assert did_you_mean("zzz", ["bandwidth"]) == ""
