"""Everything a user can do wrong with `moesim run`: one line that says what, where and what would fix it; exit code 2;
no results folder and nothing else left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from moesim.cli import main

from .conftest import TRIAL, Run, complaint


def test_the_trial_itself_is_sound(run: Run) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert Path("results/trial/summary.json").is_file()


#: What is put in the place of what in trial.yaml, the line that is cited, and parts of the message: what and fix.
IN_THE_FILE = [
    # Parallelism and machine
    ("  dp: 2\n  ep: 2", "  tp: 3", 4, "tp 3 does not divide the 8 attention heads of tiny", "divides 8"),
    ("  dp: 2\n  ep: 2", "  dp: 16\n  ep: 16", 5, "ep 16 exceeds the 8 experts of tiny", "at most 8"),
    ("ep: 2", "ep: 4", 5, "ep 4 exceeds tp x dp = 2", "raise dp"),
    ("dp: 2\n  ep: 2", "dp: 4\n  ep: 3", 5, "ep 3 does not divide tp x dp = 4", "raise dp"),
    ("dp: 2\n  ep: 2", "dp: 3\n  ep: 3", 5, "ep 3 does not divide the 8 experts", "divides 8"),
    ("ep: 2", "pp: 3", 5, "pp 3 exceeds the 2 layers", "at most 2"),
    ("  dp: 2\n  ep: 2", "  replicas: 5", 3, "the parallelism takes 5 devices, the machine has 4", "add devices"),
    ("ep: 2", "EP: 2", 5, "unknown key 'EP' in parallelism", "did you mean 'ep'?"),
    ("rtx4090: 4", "rtx4091: 4", 2, "there is no device 'rtx4091'", "did you mean 'rtx4090'?"),
    ("pcie4-host", "nvlink4-switch", 2, "no link reaches rtx4090: ", "choose a fabric on a port that all devices have"),
    (", fabric: pcie4-host", "", 2, "no link reaches rtx4090: a node holds 4 devices", "add a fabric"),
    ("fabric: pcie4-host", "fabric: pcie4-host, nodes: 2", 2, "no link joins the 2 nodes", "add scale_out"),
    (
        "fabric: pcie4-host}", "fabric: pcie4-host, host: {xeon-8480-plus: 1}, storage: {hbf-8-stacks: 1}}",
        2, "no link reaches node0/hbf-8-stacks0: ", "choose another storage, or leave it out",
    ),
    ("rtx4090: 4", "rtx4090: 0", 2, "machine.devices.rtx4090: 0 must be more than 0", ""),
    ("rtx4090: 4", "rtx4090: 99999999", 2, "99999999 must be at most 100,000", ""),
    (
        "{rtx4090: 4}, fabric: pcie4-host}\nparallelism:\n  dp: 2\n  ep: 2",
        "{rtx4090: 1, l4: 1}, fabric: pcie4-host}\nparallelism:\n  tp: 2",
        2, "a tensor-parallel group mixes l4 and rtx4090", "order machine.devices",
    ),
    # Model
    ("model: tiny.yaml", "model: deepseek-v3", 1, "deepseek-v3 on rtx4090 does not fit: weights 3", "narrower weights"),
    ("model: tiny.yaml", "model: deepsek-v3", 1, "there is no model 'deepsek-v3'", "did you mean 'deepseek-v3'?"),
    ("model: tiny.yaml", "model: tinny.yaml", 1, "there is no model 'tinny.yaml'", "did you mean 'tiny.yaml'?"),
    ("model: tiny.yaml", "model: qwen2.5-7b", 5, "qwen2.5-7b is dense and has no experts for ep 2", "leave ep out"),
    ("model: tiny.yaml", "model: [tiny]", 1, "model: expected a name or a mapping", "`moesim list models`"),
    ("engine: vllm-0.19\n", "", 1, "the key 'engine' is missing", "add engine: ..."),
    ("engine: vllm-0.19", "engine:", 6, "engine: expected a name or a mapping, got nothing", "`moesim list engines`"),
    # Requests
    ("count: 2", "count: 0", 7, "requests.count: 0 must be more than 0", ""),
    ("count: 2", "count: .nan", 7, "requests.count: expected a finite number, got nan", ""),
    ("count: 2", "count: yes", 7, "requests.count: expected a number, got true", ""),
    ("rate: 10/s", "rate: -1/s", 7, "requests.rate: '-1/s' must be at least", ""),
    ("rate: 10/s", "rate: 10", 7, "requests.rate: 10 has no unit", "write it like '10/s'"),
    ("rate: 10/s", "rate: 10 s", 7, "requests.rate: '10 s' is not a quantity in 1/second", "write it like '10/s'"),
    ("rate: 10/s, ", "", 7, "a mix has no rate of its own", "give one like rate: 10/s"),
    ("count: 2", "duration: 1 ps", 7, "no request of mix 'fixed-512-128' arrives in 1e-12 s", "extend the duration"),
    ("mix: fixed-512-128", "mix: fixed", 7, "there is no request mix 'fixed'", ""),
    ("mix: fixed-512-128", "mix: uniform-8k-1k", 7, "exceed the model's context of 2048", "too_long to drop or clip"),
    ("count: 2}", "count: 2, too_long: drip}", 7, "'drip' is not one of error, drop, clip", "did you mean 'drop'?"),
    ("count: 2", "count: 2, concurrency: 4", 7, "rate contradicts that", "remove rate or concurrency"),
    ("rate: 10/s, count: 2", "concurrency: 4", 7, "concurrency needs a count", "10 for each"),
    ("rate: 10/s, count: 2", "stages: []", 7, "stages is empty", "list loads like"),
    ("rate: 10/s, count: 2", "stages: [{rate: 1/s}]", 7, "requests.stages.0: neither a count nor a", "give one"),
    ("rate: 10/s", "stages: [{rats: 1/s}]", 7, "unknown key 'rats' in requests.stages.0", "did you mean 'rate"),
    ("rate: 10/s", "rates: [[0 s, 2/s], [9 s, 0/s]]", 7, "no request comes any more", "a rate above zero"),
    ("engine: vllm", "slo: {classes: {vip: {ttft: 1 s}}}\nengine: vllm", 6, "no requests of class 'vip'", "remove it"),
    # The rest
    ("engine: vllm", "placement: contigous\nengine: vllm", 6, "there is no placement 'contigous'", "'contiguous'?"),
    ("engine: vllm", "router: roundrobin\nengine: vllm", 6, "there is no router 'roundrobin'", "'round-robin'?"),
    ("engine: vllm", "routing: {profile: none}\nengine: vllm", 6, "there is no routing profile 'none'", "moesim list"),
    ("engine: vllm", "routing: {source: even}\nengine: vllm", 6, "there is no routing 'even'", "profile, trace, unif"),
    ("engine: vllm", "routing: {source: trace}\nengine: vllm", 6, "trace: FILE belong together", "both or neither"),
    ("engine: vllm", "slo: {ttft: 1 parsec}\nengine: vllm", 6, "unknown unit parsec", "write it like '1 s'"),
    ("engine: vllm", "name: a/b\nengine: vllm", 6, "'a/b' cannot be the name of a results folder", "use letters"),
    ("engine: vllm", "dtype: fp9\nengine: vllm", 6, "'fp9' is not one of", "did you mean 'fp"),
    ("engine: vllm", "seed: 1\nseed: 2\nengine: vllm", 7, "the key 'seed' appears twice (first in line 6)", "keep one"),
    ("engine: vllm", "a: [\nengine: vllm", 8, "not valid YAML", "check brackets"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "what", "fix"), IN_THE_FILE)
def test_a_mistake_in_the_file_is_cited_with_its_line(
    run: Run, old: str, new: str, line: int, what: str, fix: str
) -> None:
    assert old in TRIAL
    Path("trial.yaml").write_text(TRIAL.replace(old, new))
    said = complaint(run)
    assert said.startswith(f"trial.yaml:{line}: ")
    assert what in said
    assert fix in said


#: Overrides, each cited as it was given; the library's descriptors can be overridden too.
OVERRIDDEN = [
    ("parallelism.tp=3", "--set parallelism.tp=3: tp 3 does not divide the 8 attention heads"),
    ("engine.memory_utilization=0", "engine.memory_utilization: 0 must be more than 0"),
    ("engine.memory_utilization=1.1", "engine.memory_utilization: 1.1 must be at most 1"),
    ("engine.token_budget=99999999", "engine.token_budget: 99999999 must be at most 1,048,576"),
    ("engine.step_overhead=2 h", "engine.step_overhead: '2 h' must be zero or more and at most 60 s"),
    ("library.devices.rtx4090.memory.0.capacity=24 GB/s", "'24 GB/s' is not a quantity in byte"),
    ("library.devices.rtx4090.memory.0.capacity=.nan", "nan has no unit"),
    ("library.devices.rtx4090.memory.0.bandwidth=1 B/s", "a step of 512 tokens takes an hour or more"),
    ("library.devices.rtx4090.links.pcie=gen9 x16", "'gen9 x16' is no PCIe port; write it like 'gen5 x16'"),
    ("library.devices.rtx4090.family=adda", "there is no family 'adda', of device rtx4090; did you mean 'ada"),
    ("library.devices.rtx4090.power={tdp: 9 W, idle: 99 W}", "idle 99 W exceeds the tdp of 9 W"),
    ("library.devices.rtx4090.compute={}", "rtx4090 cannot compute in bf16; give compute.bf16"),
    ("library.devices.rtx4080.power.tdp=9 W", "there is no device 'rtx4080'; did you mean 'rtx4090'?"),
    ("library.devices.l4.power.tdp=9 W", "the experiment uses no devices.l4; it uses rtx4090"),
    ("requests.rate", "there is no = in it; write it like"),
    ("requests..rate=1/s", "is no path of keys; write it like"),
    ("requests.rate=", "it gives no value; null removes a key"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "what"), OVERRIDDEN)
def test_a_mistake_in_an_override_is_cited_as_given(run: Run, override: str, what: str) -> None:
    said = complaint(run, override)
    assert said.startswith((f"--set {override}: ", "trial.yaml:2: a step"))
    assert what in said


def test_a_request_larger_than_the_kv_cache(run: Run) -> None:
    # Two layers of 8 heads of 512, keys and values in two bytes: 32 KiB per token, 30 GiB for all, on 24 GiB.
    said = complaint(
        run,
        "model.context=2000000",
        "model.attention={heads: 8, kv_heads: 8, head_dim: 512}",
        "library.mixes.fixed-512-128.input={distribution: constant, mean: 1000000}",
    )
    assert said.startswith("trial.yaml:7: mix fixed-512-128: request 1: 1000128 tokens need KV cache, a DP rank has")
    assert "use more or larger devices" in said


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["run"], "missing argument 'EXPERIMENT'; see `moesim run --help`"),
        (["run", "quickstart", "--outptu", "x"], "no such option '--outptu'"),
        (["--wrong"], "no such option '--wrong'"),
        (["rnu", "quickstart"], "there is no command 'rnu'; did you mean 'run'?; see `moesim --help`"),
        (["list", "gadgets"], "invalid value for '[KIND]': 'gadgets' is not one of 'devices', "),
    ],
)
def test_the_command_line_itself(arguments: list[str], what: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {what}")
    assert len(result.stderr.splitlines()) == 1


NOTES = [
    (("model=qwen2.5-7b", "parallelism={}", "routing={zipf: 1}"), "no effect of routing: qwen2.5-7b is dense"),
    (("parallelism={dp: 2}", "placement=round-robin"), "no effect of placement: with ep 1 every DP rank holds all"),
    (("engine.dispatch={form: per-node}",), "no effect of engine.dispatch: the engine's transport is no all-to-all"),
    (("chunk=1 MB",), "no effect of chunk: fabric is bound"),
    (("parallelism={}", "fabric=flow"), "no effect of fabric: each replica is one device"),
    (("parallelism={}", "fabric=flow", "fidelity=op"), "no effect of fidelity: with fabric flow every operation is an"),
    (("parallelism={}", "router=round-robin"), "no effect of router: there is one rank to send requests to"),
    (("routing={profile: qwen3-30b-a3b}",), "routing profile qwen3-30b-a3b was measured on another model (tiny"),
    (("engine.token_budget=16",), "the engine's token_budget 16 bounds its sequences, max_sequences has no effect"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "note"), NOTES)
def test_a_setting_without_effect_is_a_note(run: Run, overrides: tuple[str, ...], note: str) -> None:
    result = run(*overrides)
    assert result.exit_code == 0, result.output
    assert note in " ".join(result.stdout.split())


@pytest.mark.parametrize("profile", ["mixtral-8x7b", "uniform", "loss-free"])
def test_a_models_own_profile_and_generic_ones_are_no_notes(profile: str, run: Run) -> None:
    result = run("model.routing_profile=mixtral-8x7b", f"routing={{profile: {profile}}}")
    assert result.exit_code == 0, result.output
    assert "another model" not in " ".join(result.stdout.split())
