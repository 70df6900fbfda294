from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from moesim.spec.errors import MoesimError, Where
from moesim.spec.loading import load_experiment

from .conftest import Write

BASE = "experiments/base.yaml"


def complaint(*overrides: str, source: str | Path = BASE) -> str:
    with pytest.raises(MoesimError) as caught:
        load_experiment(source, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_become_descriptors(library: Path) -> None:
    spec = load_experiment(BASE).spec
    assert spec.name == "base"
    assert (spec.model.name, spec.model.layers, spec.engine.token_budget) == ("tiny", 4, 512)
    assert spec.machine.devices == {"fast-gpu": 2}
    assert spec.library.devices["fast-gpu"].memory[0].bandwidth == 3.35e12
    assert spec.library.mixes["chat"].input.mean == 200
    assert list(spec.library.fabrics) == ["switch"]
    assert spec.library.profiles["skewed"].zipf == 1.0
    assert spec.requests.rate == 10.0
    assert spec.parallelism.devices == 2


def test_an_experiment_of_the_library_is_found_by_name(library: Path) -> None:
    assert load_experiment("base").spec == load_experiment(library / BASE).spec


def test_a_system_brings_host_and_devices(library: Path) -> None:
    spec = load_experiment(BASE, ["machine=box"]).spec
    assert (spec.machine.name, spec.machine.host) == ("box", {"host-cpu": 2})
    assert set(spec.library.devices) == {"fast-gpu", "host-cpu"}


@pytest.mark.parametrize(
    ("override", "profiles"),
    [("seed=1", {"skewed"}), ("routing.profile=flat", {"flat"}), ("routing.source=uniform", set())],
)
def test_the_routing_profile_is_the_experiments_or_the_models(library: Path, override: str, profiles: set[str]) -> None:
    assert set(load_experiment(BASE, [override]).spec.library.profiles) == profiles


@pytest.mark.parametrize(
    ("below", "override", "source", "profiles"),
    [
        ({"profile": "flat"}, "routing.trace=t.parquet", "trace", set()),
        ({"source": "uniform"}, "routing.trace=t.parquet", "trace", set()),
        ({"trace": "t.parquet"}, "routing.profile=flat", "profile", {"flat"}),
        ({"source": "uniform"}, "routing.profile=flat", "profile", {"flat"}),
        ({"trace": "t.parquet"}, "seed=2", "trace", set()),
    ],
)
def test_a_trace_or_profile_is_its_own_source(
    library: Path, below: dict[str, str], override: str, source: str, profiles: set[str]
) -> None:
    Path("t.parquet").touch()
    Path("below.yaml").write_text(f"extends: {BASE}\nrouting: {below}\n")
    spec = load_experiment("below.yaml", [override]).spec
    assert (spec.routing.source, set(spec.library.profiles)) == (source, profiles)


def test_without_any_profile_none_is_needed(library: Path) -> None:
    assert load_experiment(BASE, ["model.routing_profile=null"]).spec.library.profiles == {}


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["machine=box", "machine.nodes=2", "machine.scale_out=switch"],
        ["requests.trace=trace.csv"],
        ["library.devices.fast-gpu.power.tdp=500 W", "model.layers=8"],
        ["machine.devices={./hardware/devices/fast-gpu-big.yaml: 2}"],
        ["routing={source: uniform}", "requests.duration=30 s"],
    ],
)
def test_the_resolved_document_loads_again_to_the_same(library: Path, write: Write, overrides: list[str]) -> None:
    write("trace.csv", "arrival,input,output\n0,1,1\n")
    first = load_experiment(BASE, overrides)
    again = load_experiment(first.document)
    dumped = library / "elsewhere" / "other-name.yaml"
    dumped.parent.mkdir()
    dumped.write_text(yaml.safe_dump(first.document, sort_keys=False))
    from_file = load_experiment(dumped)
    assert first.spec == again.spec == from_file.spec
    assert first.document == again.document == from_file.document


def test_the_resolved_document_needs_no_library(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_experiment(BASE)
    monkeypatch.delenv("MOESIM_PATH")
    assert load_experiment(first.document).spec == first.spec


def test_the_resolved_document_keeps_units(library: Path) -> None:
    document = load_experiment(BASE).document
    assert document["requests"]["rate"] == "10/s"
    assert document["library"]["devices"]["fast-gpu"]["memory"][0]["capacity"] == "80 GB"


def test_another_machine_by_one_set_replaces_the_devices(library: Path) -> None:
    spec = load_experiment(BASE, ["machine.devices={fast-gpu-big: 2}"]).spec
    assert spec.machine.devices == {"fast-gpu-big": 2}
    assert spec.machine.fabric == "switch"
    assert set(spec.library.devices) == {"fast-gpu-big"}


def test_an_override_reaches_below_a_name(library: Path) -> None:
    spec = load_experiment(BASE, ["machine=box", "machine.devices.fast-gpu=4", "engine.token_budget=64"]).spec
    assert (spec.machine.devices, spec.machine.fabric, spec.engine.token_budget) == ({"fast-gpu": 4}, "switch", 64)
    assert spec.engine.name == "simple"


def test_an_override_reaches_into_a_device_of_the_library(library: Path) -> None:
    spec = load_experiment(BASE, ["library.devices.fast-gpu.memory.0.bandwidth=5 TB/s"]).spec
    assert spec.library.devices["fast-gpu"].memory[0].bandwidth == 5e12
    assert spec.library.devices["fast-gpu"].memory[0].capacity == 80e9


def test_a_device_that_is_not_used_cannot_be_overridden(library: Path) -> None:
    assert complaint("library.fabrics.switch.latency=1 us", "machine.fabric=null") == (
        "--set library.fabrics.switch.latency=1 us: the experiment uses no fabrics.switch; it uses none"
    )
    assert complaint("library.devices.fast-gpu-big.power.tdp=1 W").endswith("did you mean 'fast-gpu'?")


def test_a_descriptor_may_be_written_in_place(library: Path, write: Write) -> None:
    write(
        "e.yaml",
        """\
        extends: experiments/base.yaml
        machine: {devices: {mine: 2}}
        model: {extends: tiny, name: tiny-long, context: 8192}
        library:
          devices:
            mine: {extends: fast-gpu, power: {tdp: 300 W}}
        """,
    )
    loaded = load_experiment("e.yaml")
    spec = loaded.spec
    assert (spec.name, spec.model.name, spec.model.context, spec.model.layers) == ("e", "tiny-long", 8192, 4)
    assert spec.machine.devices == {"mine": 2}
    assert (spec.library.devices["mine"].name, spec.library.devices["mine"].power.tdp) == ("mine", 300.0)
    assert loaded.where("library.devices.mine.power.tdp") == Where("e.yaml", 6)


def test_a_section_that_extends_something_else_keeps_nothing_of_the_base_below(library: Path, write: Write) -> None:
    write("experiments/parent.yaml", "extends: base\nengine: {extends: simple, block_size: 64}\n")
    write("child.yaml", "extends: experiments/parent.yaml\nengine: {extends: simple, token_budget: 4096}\n")
    engine = load_experiment("child.yaml").spec.engine
    assert (engine.token_budget, engine.block_size) == (4096, 16)


def test_extends_keeps_the_place_of_each_value(library: Path, write: Write) -> None:
    write("child.yaml", "extends: base\n\nseed: 7\nparallelism:\n  tp: 2\n  ep: 4\n")
    loaded = load_experiment("child.yaml")
    assert (loaded.spec.seed, loaded.spec.parallelism.dp, loaded.spec.parallelism.tp) == (7, 2, 2)
    assert loaded.where("seed") == Where("child.yaml", 3)
    assert loaded.where("parallelism.tp") == Where("child.yaml", 5)
    assert loaded.where("parallelism.dp") == Where(BASE, 3)
    assert loaded.where("model.attention.heads") == Where("workloads/models/tiny.yaml", 5)
    assert loaded.where("slo.tpot") == Where(BASE, 6)
    assert loaded.where("router") == Where("child.yaml")


def test_the_place_of_an_override_is_the_override(library: Path) -> None:
    assert str(load_experiment(BASE, ["parallelism.dp=4"]).where("parallelism.dp")) == "--set parallelism.dp=4"


def test_a_mapping_has_no_places(library: Path) -> None:
    loaded = load_experiment(load_experiment(BASE).document)
    assert loaded.where("seed") is None
    assert loaded.where() is None


def test_extending_in_a_circle(library: Path, write: Write) -> None:
    write("a.yaml", "extends: b.yaml\n")
    write("b.yaml", "seed: 1\nextends: a.yaml\n")
    assert complaint(source="a.yaml").startswith("b.yaml:2: extends runs in a circle: a.yaml -> b.yaml -> a.yaml")


def test_extending_oneself(library: Path, write: Write) -> None:
    write("experiments/self.yaml", "extends: self\n")
    assert "extends runs in a circle" in complaint(source="self")


def test_a_child_may_change_from_a_mix_to_a_trace(library: Path, write: Write) -> None:
    write("deep/t.csv", "x")
    write("deep/child.yaml", "extends: base\nrequests: {trace: t.csv, too_long: clip}\n")
    loaded = load_experiment("deep/child.yaml")
    assert loaded.document["requests"] == {"trace": str(library / "deep/t.csv"), "too_long": "clip"}


def test_a_trace_path_starts_from_the_file_that_says_it(library: Path, write: Write) -> None:
    write("t.csv", "x")
    write("deep/t.csv", "x")
    write("deep/parent.yaml", "extends: base\nrequests: {trace: t.csv}\n")
    write("child.yaml", "extends: deep/parent.yaml\n")
    assert load_experiment("child.yaml").spec.requests.trace == str(library / "deep/t.csv")
    assert load_experiment("child.yaml", ["requests.trace=t.csv"]).spec.requests.trace == str(library / "t.csv")


def test_a_trace_file_that_does_not_exist(library: Path, write: Write) -> None:
    write("child.yaml", "extends: base\nrequests:\n  trace: none.csv\n")
    assert complaint(source="child.yaml") == (
        f"child.yaml:3: there is no trace file 'none.csv'; it would be {library / 'none.csv'}"
    )
    assert load_experiment("child.yaml", check_traces=False).spec.requests.trace == str(library / "none.csv")


def test_the_same_device_under_two_references(library: Path) -> None:
    devices = "{fast-gpu: 1, ./hardware/devices/fast-gpu.yaml: 1}"
    assert "the device 'fast-gpu' appears twice" in complaint(f"machine.devices={devices}")


def test_two_devices_of_one_name(library: Path, write: Write) -> None:
    write("other/fast-gpu.yaml", "extends: fast-gpu\npower: {tdp: 1 W}\n")
    message = complaint("machine.host={other/fast-gpu.yaml: 1}")
    assert "two different descriptors are called 'fast-gpu'" in message


def test_an_unknown_experiment(library: Path) -> None:
    assert complaint(source="bass") == "there is no experiment 'bass'; did you mean 'base'?"
    assert complaint(source="experiments/bas.yaml").endswith("did you mean 'base.yaml'?")
