"""Every kind of mistake in a file: one line, with the file, the line and what would fix it."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesim.spec.complaints import schema_at
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.hardware import DeviceSpec, MemoryTier
from moesim.spec.loading import load_descriptor, load_experiment
from moesim.spec.model import AttentionSpec

from .conftest import LIBRARY, Write

EXPERIMENT = LIBRARY["experiments/base.yaml"]
DEVICE = LIBRARY["hardware/devices/fast-gpu.yaml"]


def complaint(write: Write, name: str, text: str, old: str, new: str) -> str:
    assert old in text
    write(name, text.replace(old, new))
    with pytest.raises(MoesimError) as caught:
        load_experiment("experiments/base.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("seed: 1", "sede: 1", 7, "unknown key 'sede'; did you mean 'seed'?"),
        ("dp: 2, ep", "tpp: 2, ep", 3, "unknown key 'tpp' in parallelism; did you mean 'tp'?"),
        ("slo: {ttft", "slo: {zzzz", 6, "unknown key 'zzzz' in slo; the keys not yet given are ttft, tpot, e2e"),
        ("model: tiny", "model: tinny", 1, "there is no model 'tinny'; did you mean 'tiny'?"),
        ("fast-gpu: 2", "fast-gpuu: 2", 2, "there is no device 'fast-gpuu'; did you mean 'fast-gpu'?"),
        ("fabric: switch", "fabric: swich", 2, "there is no fabric 'swich'; did you mean 'switch'?"),
        ("engine: simple", "engine: simpel", 4, "there is no engine 'simpel'; did you mean 'simple'?"),
        ("mix: chat", "mix: caht", 5, "there is no request mix 'caht'; did you mean 'chat'?"),
        ("seed: 1", "routing: {profile: skew}", 7, "there is no routing profile 'skew'; did you mean 'skewed'?"),
        ("engine: simple\n", "", 1, "the key 'engine' is missing"),
        ("rate: 10/s, ", "", 5, "requests: a mix has no rate of its own; give one like rate: 10/s"),
        ("rate: 10/s", "rate: 10", 5, "requests.rate: 10 has no unit, write it like '10/s'"),
        ("rate: 10/s", "rate: 10 GB", 5, "requests.rate: '10 GB' is not a quantity in 1/second; write it like '10/s'"),
        ("rate: 10/s", "rate: 0/s", 5, "requests.rate: '0/s' must be at least 1/day and at most 1e9/s"),
        ("rate: 10/s", "rate: .nan", 5, "requests.rate: nan has no unit, write it like '10/s'"),
        ("count: 300", "count: 0", 5, "requests.count: 0 must be more than 0"),
        ("count: 300", "count: 2.5", 5, "requests.count: expected a whole number, got 2.5"),
        ("count: 300", "count: many", 5, "requests.count: expected a whole number, got 'many'"),
        ("dp: 2", "dp: yes", 3, "parallelism.dp: expected a number, got true"),
        ("dp: 2", "dp: ", 3, "parallelism.dp: expected a whole number, got nothing"),
        ("dp: 2", "dp: 3", 3, "parallelism: ep 2 does not divide tp x dp = 3"),
        ("ttft: 1 s", "ttft: 1 parsec", 6, "slo.ttft: unknown unit parsec in '1 parsec'; write it like '1 s'"),
        ("ttft: 1 s", "ttft: -1 s", 6, "slo.ttft: '-1 s' must be at least 1 ps and at most 90 day"),
        ("slo: {ttft: 1 s}", "slo: fast", 6, "slo: expected a mapping, got 'fast'"),
        ("{fast-gpu: 2}", "[fast-gpu]", 2, "machine.devices: expected a mapping, got a list"),
        ("{fast-gpu: 2}", "{}", 2, "machine.devices: needs at least 1 entry"),
        ("fast-gpu: 2", "fast-gpu: 0", 2, "machine.devices.fast-gpu: 0 must be more than 0"),
        (
            "seed: 1",
            "dtype: fp7",
            7,
            "dtype.weights: 'fp7' is not one of fp32, tf32, bf16, fp16, fp8, int8, fp4, int4;",
        ),
        ("seed: 1", "fidelity: plann", 7, "fidelity: 'plann' is not one of plan, op; did you mean 'plan'?"),
        ("seed: 1", "plan_reuse: maybe", 7, "plan_reuse: expected true or false, got 'maybe'"),
        ("seed: 1", "description: 5", 7, "description: expected text, got 5; put it in quotes"),
        ("seed: 1", "library: {devics: {}}", 7, "unknown key 'devics' in library; did you mean 'devices'?"),
        ("seed: 1", "extends: [base]", 7, "extends takes one name, got ['base']"),
    ],
)
def test_a_mistake_in_an_experiment(library: Path, write: Write, old: str, new: str, line: int, what: str) -> None:
    message = complaint(write, "experiments/base.yaml", EXPERIMENT, old, new)
    assert message.startswith(f"experiments/base.yaml:{line}: {what}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        (
            "family: hopper",
            "famly: hopper",
            3,
            "unknown key 'famly' in library.devices.fast-gpu; did you mean 'family'?",
        ),
        (
            "capacity: 80 GB",
            "capacity: 80 GBs",
            6,
            "library.devices.fast-gpu.memory.0.capacity: unknown unit GBs in '80 GBs'; write it like '80 GB'",
        ),
        (
            "bandwidth: 3.35 TB/s",
            "bandwidth: 3.35 TB",
            6,
            "library.devices.fast-gpu.memory.0.bandwidth: '3.35 TB' is not",
        ),
        ("tier: hbm", "tier: hmb", 6, "library.devices.fast-gpu.memory.0.tier: 'hmb' is not one of sram, hbm, gddr,"),
        ("pcie: gen5 x16", "pcie: gen9 x16", 7, "library.devices.fast-gpu.links.pcie: 'gen9 x16' is no PCIe port"),
        ("kind: gpu\n", "kind: gpu\nkind: npu\n", 3, "the key 'kind' appears twice (first in line 2)"),
        (", bandwidth: 3.35 TB/s", "", 6, "the key 'bandwidth' is missing in library.devices.fast-gpu.memory.0"),
    ],
)
def test_a_mistake_in_a_device_is_cited_there(
    library: Path, write: Write, old: str, new: str, line: int, what: str
) -> None:
    message = complaint(write, "hardware/devices/fast-gpu.yaml", DEVICE, old, new)
    assert message.startswith(f"hardware/devices/fast-gpu.yaml:{line}: {what}")


def test_a_rule_about_several_keys_cites_the_overridden_one(library: Path) -> None:
    with pytest.raises(MoesimError) as caught:
        load_experiment("base", ["model.attention.heads=6"])
    assert str(caught.value) == (
        "--set model.attention.heads=6: model.attention: kv_heads 4 does not divide heads 6; use one that does"
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("input: {mean: .nan}\noutput: {mean: 1}\n", ":1: input.mean: "),
        ("input: {mean: 1}\noutput: {mean: .inf}\n", ":2: output.mean: expected a finite number, got inf"),
        (
            "input: {mean: 1}\noutput: {mean: 1}\nprefix: {groups: 1, tokens: 5, probability: 2}\n",
            ":3: prefix.probability: 2 must be at most 1",
        ),
        (
            "input: {mean: 1}\noutput: {mean: 1}\nprefix:\n - {groups: 1, tokens: 5}\n - {group: 1, tokens: 5}\n",
            ":5: unknown key 'group' in prefix.1; did you mean 'groups'?",
        ),
        (
            "input: {mean: 1}\noutput: {mean: 1}\nprefix: {group: 1, tokens: 5}\n",
            ":3: unknown key 'group' in prefix; did you mean 'groups'?",
        ),
    ],
)
def test_a_mistake_in_a_mix(library: Path, write: Write, text: str, what: str) -> None:
    write("workloads/requests/bad.yaml", text)
    with pytest.raises(MoesimError) as caught:
        load_descriptor("requests", "bad")
    assert str(caught.value).startswith(f"workloads/requests/bad.yaml{what}")


def test_the_schema_of_a_location() -> None:
    assert schema_at(ExperimentSpec, ("model", "attention")) is AttentionSpec
    assert schema_at(ExperimentSpec, ("library", "devices", "x")) is DeviceSpec
    assert schema_at(ExperimentSpec, ("library", "devices", "x", "memory", 3)) is MemoryTier
    assert schema_at(ExperimentSpec, ("seed",)) is None
    assert schema_at(ExperimentSpec, ("nowhere", "at", "all")) is None
